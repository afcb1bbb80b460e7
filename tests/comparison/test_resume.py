"""Coming back to a comparison: what is taken up, added, dropped, and measured by another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vi_recipes as vr
from vi_recipes.comparison.left import MethodsLeft
from vi_recipes.comparison.resume import taken_up
from vi_recipes.core import load_object, silent
from vi_recipes.model import model_mark

Y = np.array([1.3, 0.2, 2.4, 1.9, -0.3])


def line(y: np.ndarray, scale: float = 2.0) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, scale))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def changed(y: np.ndarray, scale: float = 2.0) -> None:
    mu = numpyro.sample("mu", dist.StudentT(4.0, 0.0, scale))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def target(function=line, y: np.ndarray = Y) -> vr.Target:  # type: ignore[no-untyped-def]
    return vr.Target(vr.Model(function=function, name="line"), y=y)


def fit(this: vr.Target, methods: object, folder: Path, **options: object) -> vr.Comparison:
    return vr.compare(this, methods, path=folder, assessed=False, **options)  # type: ignore[arg-type]


def when(c: vr.Comparison, name: str) -> float:
    return c[name].timing.total_seconds


def test_only_what_is_new_is_fitted(tmp_path: Path) -> None:
    this = target()
    first = fit(this, "map,laplace", tmp_path, seed=1)
    assert not taken_up(first)
    second = fit(
        target(), {"laplace": vr.Laplace(), "map": vr.MAP(space="unconstrained")}, tmp_path, seed=1
    )
    assert set(second) == {"map", "laplace"}
    assert when(second, "laplace") == when(first, "laplace")
    assert second.notes[0] == (
        "Taken up from the earlier comparison, with the seconds of that time: laplace."
    )
    assert second.notes[1] == "Fitted again: map (space was 'constrained')."
    own = vr.from_draws({"mu": np.random.default_rng(0).normal(1.05, 0.43, (4, 400))}, this)
    third = fit(target(), [own], tmp_path, seed=2)  # what nobody asks for anew stays, seed or not
    assert list(third) == ["laplace", "map", "draws"]
    assert when(third, "map") == when(second, "map")
    assert third.reference_name == "draws"
    again = vr.Comparison.load(tmp_path)
    assert list(again) == list(third)
    other_seed = fit(target(), "laplace", tmp_path, seed=3)
    assert "Fitted again: laplace (its seed was 1)." in other_seed.notes
    assert "Taken up from the earlier comparison" in other_seed.notes[0]


def stopped_at(name: str, *, within: bool) -> Any:
    """Return progress that is interrupted before a method is begun, or once it is."""

    @contextmanager
    def progress(title: str) -> Iterator[Any]:
        if title == name and not within:
            raise KeyboardInterrupt
        yield silent

    return progress


def cut_off(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_what_an_interrupt_kept_away_is_fitted_now(tmp_path: Path) -> None:
    first = fit(target(), "map,laplace", tmp_path, progress=stopped_at("laplace", within=False))
    assert first.left == MethodsLeft(("laplace",), sure=True)
    c = fit(target(), "map,laplace,meanfield", tmp_path)  # meanfield nobody has asked for before
    assert taken_up(c)[1:] == [
        "Fitted now: laplace (not begun when the earlier run was interrupted)."
    ]
    assert c.left == vr.Comparison.load(tmp_path).left == MethodsLeft()


def test_a_fit_that_was_cut_off_is_fitted_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as context:
        context.setattr(vr.Laplace, "_fit", cut_off)
        fit(target(), "map,laplace", tmp_path)
    c = fit(target(), "map,laplace", tmp_path)
    assert taken_up(c)[1:] == [
        "Fitted now: laplace (the earlier run was interrupted before it had a result)."
    ]


@pytest.mark.parametrize("within", [True, False])
def test_what_an_interrupt_kept_away_again_is_not_said_to_be_fitted(
    within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(target(), "map,laplace", tmp_path)
    if within:
        monkeypatch.setattr(vr.Laplace, "_fit", cut_off)
    methods = {"map": vr.MAP(), "laplace": vr.Laplace(max_steps=1_000)}
    stop = stopped_at("laplace", within=within)
    c = fit(target(), methods, tmp_path, progress=stop)
    assert taken_up(c)[1:] == ["Not taken up: laplace (max_steps was 2000)."]
    assert c.left.names == (() if within else ("laplace",))


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lambda: target(changed), "the model was changed"),
        (lambda: target(y=Y + 1), "its data are others"),
        (lambda: vr.Target(line, y=Y).with_data(y=Y), ""),
    ],
)
def test_nothing_of_another_target_is_taken_up(other: object, said: str, tmp_path: Path) -> None:
    first = fit(target(), "map", tmp_path)
    second = fit(other(), "map", tmp_path)  # type: ignore[operator]
    if said:
        assert second.notes[0] == f"Nothing was taken up from the earlier comparison: {said}" + (
            ", or is computed by another version of JAX." if "model" in said else "."
        ) + (" Its fits are replaced: map.")
        assert repr(second).splitlines()[-1] == second.notes[0]
        assert second.notes[0] in second._repr_html_()
        assert second["map"].mean() != first["map"].mean()
    else:
        assert when(second, "map") == when(first, "map")


def test_other_versions_are_fitted_again(tmp_path: Path) -> None:
    fit(target(), "map", tmp_path)
    old = vr.Fit.load(tmp_path / "fits" / "map.nc")
    versions = {**old.provenance.versions, "numpyro": "0.1"}
    replace(old, provenance=replace(old.provenance, versions=versions)).save(
        tmp_path / "fits" / "map.nc"
    )
    c = fit(target(), "map", tmp_path)
    assert c.notes[0].startswith("Fitted again: map (made with numpyro 0.1, now ")
    header = json.loads((tmp_path / "comparison.json").read_text())
    assert header["model_mark"] == model_mark(target())


GUIDE = """
import numpyro
import numpyro.distributions as dist


def guide(y):
    m = numpyro.param("m", {start})
    numpyro.sample("mu", dist.Normal(m, 1.0))
"""


def test_a_guide_of_a_file_is_the_same_while_its_file_is(tmp_path: Path) -> None:
    def run(start: float) -> vr.Comparison:
        file = tmp_path / "own.py"
        file.write_text(GUIDE.format(start=start))
        guide = load_object(f"{file}:guide")
        return fit(target(), {"svi": vr.SVI(guide=guide, num_steps=50)}, tmp_path / "folder")

    first, second = run(0.0), run(0.0)
    assert when(second, "svi") == when(first, "svi")
    third = run(0.5)
    assert taken_up(third) == ["Fitted again: svi (its guide may be another of that name)."]


def test_another_optimiser_of_the_same_name_is_fitted_again(tmp_path: Path) -> None:
    methods = {"svi": vr.SVI(optimizer=optax.adam(0.1), num_steps=50), "map": vr.MAP()}
    first = fit(target(), methods, tmp_path)
    assert when(fit(target(), methods, tmp_path), "svi") == when(first, "svi")
    other = {**methods, "svi": vr.SVI(optimizer=optax.adam(1e-5), num_steps=50)}
    c = fit(target(), other, tmp_path)
    assert taken_up(c) == [
        "Taken up from the earlier comparison, with the seconds of that time: map.",
        "Fitted again: svi (its optimizer may be another of that name).",
    ]


def in_a_scan(function: Any) -> Any:
    return lambda x: jax.lax.scan(lambda c, _: (c, function(x)), 0.0, None, length=2)[1][0]


def in_a_branch(function: Any) -> Any:
    return lambda x: jax.lax.cond(x > 0, function, lambda x: -function(x), x)


def test_a_mark_is_of_the_model_alone() -> None:
    assert model_mark(target()) == model_mark(target(y=Y + 1))
    assert model_mark(target()) != model_mark(target(changed))
    scaled = vr.Target(vr.Model(function=line, name="line"), y=Y, scale=3.0)
    held = np.array([1.0, 2.0])

    def closing(y: np.ndarray) -> None:
        numpyro.sample("mu", dist.Normal(held.sum() * y.mean(), 1.0))

    one = model_mark(vr.Target(closing, y=Y))
    held[0] = 5.0
    assert model_mark(vr.Target(closing, y=Y)) != one
    assert len(model_mark(scaled)) == 16


@pytest.mark.parametrize("within", [jax.jit, jax.checkpoint, in_a_scan, in_a_branch])
def test_a_mark_is_of_arrays_that_a_program_within_holds(within: Any) -> None:
    def mark(held: np.ndarray) -> str:
        slope = within(lambda x: x * held)

        def closing(y: np.ndarray) -> None:
            mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(slope(mu), 1.0), obs=y)

        return model_mark(vr.Target(closing, y=Y))

    assert mark(np.arange(5.0)) == mark(np.arange(5.0)) != mark(np.arange(5.0) + 1)


def test_fits_are_added_and_dropped() -> None:
    this = target()
    draws = np.random.default_rng(0).normal(1.05, 0.43, (4, 400))
    own = vr.from_draws({"mu": draws}, this, method="stan")
    c = vr.compare(this, "map,laplace")
    more = c.add(own, target=this)
    assert list(more) == ["map", "laplace", "stan"]
    assert list(c) == ["map", "laplace"]
    assert more["stan"].assessment is not None
    assert more.reference_name is None
    measured = more.with_reference("stan")
    assert measured.accuracy().index.get_level_values("method").unique().tolist() == [
        "map",
        "laplace",
    ]
    less = measured.drop("map")
    assert (list(less), less.reference_name) == (["laplace", "stan"], "stan")
    assert less.drop("stan").reference is None
    assert measured.with_reference(None).accuracy().empty
    outside = c.with_reference(own)
    assert (list(outside), outside.reference_name) == (["map", "laplace"], "stan")
    assert outside.drop("map").reference is outside.reference
    replaced = measured.add(own.renamed("laplace"))
    assert list(replaced) == ["map", "laplace", "stan"]
    np.testing.assert_array_equal(replaced["laplace"].mean()["mu"], own.mean()["mu"])
    with pytest.raises(ValueError, match="drop: unknown fit 'nuts'"):
        c.drop("nuts")
    with pytest.raises(ValueError, match="'laplace' is the only fit"):
        c.drop("map").drop("laplace")
    with pytest.raises(ValueError, match="reference: 'map' is a point"):
        c.with_reference("map")
    with pytest.raises(ValueError, match="reference: unknown fit 'stan'"):
        c.with_reference("stan")
    other = vr.from_draws({"mu": draws}, target(y=Y + 1), method="other")
    with pytest.raises(ValueError, match="fit: 'other' is of data with the fingerprint"):
        c.add(other)


def test_nothing_is_taken_up_where_that_is_said(tmp_path: Path) -> None:
    fit(target(), "map,laplace", tmp_path)
    c = fit(target(), "map", tmp_path, resume=False)
    assert (list(c), taken_up(c)) == (["map"], [])
    assert not (tmp_path / "fits" / "laplace.nc").exists()


def test_an_earlier_comparison_that_cannot_be_read_is_not_replaced_unasked(tmp_path: Path) -> None:
    fit(target(), "map", tmp_path)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot be taken up: .*resume=False"):
        fit(target(), "map", tmp_path)
    assert (tmp_path / "comparison.json").read_text() == "{"
    assert list(fit(target(), "map", tmp_path, resume=False)) == ["map"]
