"""A comparison's folder: frames made once, fits written once, nothing done is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.comparison.folder import write_all
from vi_recipes.model.sites import Site, Sites
from vi_recipes.posterior.base import Posterior


@dataclass(frozen=True)
class Counted(Posterior):
    """A standard normal in three coordinates that counts what it is asked for."""

    asked: Counter[Any] = field(default_factory=Counter)

    def mean(self) -> Sites:
        self.asked["mean"] += 1
        return {"a": np.zeros(2), "b": np.zeros(())}

    def sd(self) -> Sites:
        self.asked["sd"] += 1
        return {"a": np.ones(2), "b": np.ones(())}

    def mcse_mean(self) -> Sites:
        self.asked["mcse_mean"] += 1
        return {"a": np.zeros(2), "b": np.zeros(())}

    def mcse_sd(self) -> Sites:
        self.asked["mcse_sd"] += 1
        return {"a": np.zeros(2), "b": np.zeros(())}

    def cov(self, sites: Sequence[str]) -> np.ndarray:
        self.asked["cov"] += 1
        return np.eye(sum({"a": 2, "b": 1}[name] for name in sites))

    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        self.asked["draws"] += 1
        return {"a": np.zeros((num_draws, 2)), "b": np.zeros(num_draws)}


def counted() -> vr.Comparison:
    sites = tuple(Site(n, "latent", s, s, (), ("i",) * len(s)) for n, s in (("a", (2,)), ("b", ())))
    fits = {
        name: vr.Fit(
            method=name,
            status=vr.Status.OK,
            sites=sites,
            coords={"i": np.arange(2)},
            posterior=Counted(),
        )
        for name in ("one", "two", "three")
    }
    return vr.Comparison(fits, reference=fits["three"], reference_name="three", target_name="toy")


def test_a_report_asks_every_fit_for_its_moments_once(tmp_path: Path) -> None:
    c = counted()
    c.save(tmp_path)
    c.report(tmp_path / "again.html")
    c.verdict_of, c.accuracy(), c.correlations(["b"])
    for fit in c.values():
        assert isinstance(fit.posterior, Counted)
        assert fit.posterior.asked == dict.fromkeys(
            ("mean", "sd", "mcse_mean", "mcse_sd", "cov", "draws"), 1
        )


@pytest.mark.parametrize("table", ["means", "sds", "mcses", "accuracy", "timings", "diagnostics"])
def test_an_edit_of_a_table_changes_none_that_follow(table: str) -> None:
    c = counted()
    before = getattr(c, table)().copy()
    edited = getattr(c, table)()
    edited["more"] = 1
    del edited[edited.columns[0]]
    pd.testing.assert_frame_equal(getattr(c, table)(), before)


def test_an_edit_of_what_a_fit_returns_changes_none_that_follows() -> None:
    c = counted()
    c["one"].mean()["a"][:] = 9
    for cov in (c["one"].cov(), c.covariances()["one"]):
        cov.loc["b", "b"] = 9
    c["one"].labels().append("c")
    assert (c.means() == 0).all(axis=None)
    assert (c.covariances()["one"].to_numpy() == np.eye(3)).all()
    assert c["one"].labels() == ["a[0]", "a[1]", "b"]


def test_what_the_tables_come_from_is_not_replaced() -> None:
    c = counted()
    with pytest.raises(TypeError):
        c.fits["one"] = c["two"]  # type: ignore[index]
    for name in ("fits", "reference", "reference_name", "quadrature"):
        with pytest.raises(AttributeError):
            setattr(c, name, None)


# -- fits on disk ----------------------------------------------------------------------------


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the files of fits that are written from now on."""
    files: list[Path] = []
    save = vr.Fit.save

    def noting(fit: vr.Fit, path: str | Path) -> Path:
        files.append(Path(path))
        return save(fit, path)

    monkeypatch.setattr(vr.Fit, "save", noting)
    return files


def mixture(y: np.ndarray) -> None:
    weight = numpyro.sample("weight", dist.Dirichlet(np.ones(2)))
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    with numpyro.plate("point", len(y)):
        component = dist.Normal(mu, 1.0)
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), component), obs=y)


def two_modes(first: float) -> vr.Target:
    """Return a mixture whose search starts with ``first`` as the mean of component 0."""
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-3, 1, 40), rng.normal(3, 1, 60)])
    model = vr.Model(
        function=mixture,
        name="mixture",
        init=lambda key, y: {"weight": [0.5, 0.5], "mu": np.array([first, -first])},
        exchangeable=(vr.Exchangeable(sites={"weight": 0, "mu": 0}),),
    )
    return vr.Target(model, y=y)


def assert_same(one: vr.Comparison, other: vr.Comparison) -> None:
    assert list(one) == list(other)
    assert one.reference_name == other.reference_name
    assert one.notes == other.notes
    for table in ("means", "sds", "mcses", "accuracy", "diagnostics", "timings", "evidence"):
        pd.testing.assert_frame_equal(getattr(one, table)(), getattr(other, table)(), rtol=1e-12)
    for name, cov in one.covariances().items():
        pd.testing.assert_frame_equal(other.covariances()[name], cov, rtol=1e-12)
    assert one.verdict_of == other.verdict_of
    for name, fit in one.columns.items():
        assert (fit.assessment is None) == (other.columns[name].assessment is None)
        if fit.assessment is not None and fit.assessment.correction is not None:
            again = other.columns[name].assessment.correction.moments  # type: ignore[union-attr]
            for site, value in fit.assessment.correction.moments.mean.items():
                np.testing.assert_allclose(again.mean[site], value, rtol=1e-12)


@pytest.mark.slow
def test_every_fit_is_written_once_and_its_labels_come_back(
    tmp_path: Path, written: list[Path]
) -> None:
    outside = vr.Laplace().fit(two_modes(3.0), key=1).renamed("outside")
    methods = [vr.MAP(), vr.Laplace()]
    c = vr.compare(two_modes(-3.0), methods, reference=outside, path=tmp_path)
    assert any("laplace: components taken in the order [1, 0]" in note for note in c.notes)
    c.save(tmp_path)
    back = vr.Comparison.load(tmp_path)
    assert_same(back, c)
    back.save(tmp_path)
    assert sorted(written) == [tmp_path / "fits" / f"{n}.nc" for n in ("laplace", "map", "outside")]
    # elsewhere they are written as they are compared
    back.save(tmp_path / "copy")
    assert len(written) == 6
    assert_same(vr.Comparison.load(tmp_path / "copy"), c)
    alone = vr.Fit.load(tmp_path / "copy" / "fits" / "laplace.nc")
    np.testing.assert_array_equal(alone.mean()["mu"], c["laplace"].mean()["mu"])


@pytest.mark.slow
def test_a_file_that_another_comparison_has_replaced_is_written_again(
    tmp_path: Path, written: list[Path]
) -> None:
    this = target("linear_regression")
    first = vr.compare(this, [vr.Laplace()], path=tmp_path, key=1)
    second = vr.compare(this, [vr.SVI(num_steps=200)], path=tmp_path, key=2, resume=False)
    third = vr.compare(this, {"laplace": vr.MAP()}, path=tmp_path, key=3, resume=False)
    assert vr.Comparison.load(tmp_path)["laplace"].kind == third["laplace"].kind
    assert len(written) == 3
    second.save(tmp_path)  # the third has left nothing of it
    assert len(written) == 4
    assert_same(vr.Comparison.load(tmp_path), second)
    first.save(tmp_path)
    assert len(written) == 5
    assert_same(vr.Comparison.load(tmp_path), first)


def test_a_full_disk_or_a_kill_leaves_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    this = target("linear_regression")
    outside = vr.Laplace().fit(this, key=1).renamed("outside")
    save = vr.Fit.save

    def full(fit: vr.Fit, path: str | Path) -> Path:
        if fit.method == "laplace":
            raise OSError(28, "No space left on device")
        return save(fit, path)

    monkeypatch.setattr(vr.Fit, "save", full)
    with pytest.warns(UserWarning, match="fit 'laplace' is not in the folder .*No space left"):
        c = vr.compare(this, [vr.MAP(), vr.Laplace()], reference=outside, path=tmp_path)
    assert list(c) == ["map", "laplace"]
    back = vr.Comparison.load(tmp_path)
    assert list(back) == ["map"]
    assert back.reference_name == "outside"
    np.testing.assert_array_equal(back.means()["outside"], outside.flat(outside.mean()))


def test_a_header_that_cannot_be_replaced_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    c = vr.compare(target("linear_regression"), [vr.MAP()], path=tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        c.save(tmp_path)
    assert_same(vr.Comparison.load(tmp_path), c)


def test_a_report_from_loaded_fits_leaves_them_as_they_are(
    tmp_path: Path, written: list[Path]
) -> None:
    vr.compare(target("linear_regression"), [vr.Laplace()], path=tmp_path)
    write_all(vr.Comparison.load(tmp_path), tmp_path)
    assert len(written) == 1
