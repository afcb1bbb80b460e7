"""What varies by rounding alone is named as constant, and nothing is made of its digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.calibration import calibrate
from vi_recipes.comparison import tables
from vi_recipes.comparison.figures import agreement, forest, heat_maps
from vi_recipes.comparison.json import to_json
from vi_recipes.model.sites import Site
from vi_recipes.posterior import DrawsPosterior
from vi_recipes.posterior.base import per_scalar

ROUNDING = 2.0**-53


def with_correlations(name: str, seed: int, *, sampler: bool = False) -> vr.Fit:
    """Return a fit of a correlation matrix, whose diagonal is 1 up to the last digit."""
    rng = np.random.default_rng(seed)
    rho = np.tanh(rng.normal(0.3, 0.1, (4, 500)))
    omega = np.ones((4, 500, 2, 2))
    omega[..., 0, 1] = omega[..., 1, 0] = rho
    omega[..., 0, 0] += ROUNDING * rng.integers(-1, 2, rho.shape)
    omega[..., 1, 1] += ROUNDING * rng.integers(-1, 2, rho.shape)
    sites = (
        Site("omega", "latent", (2, 2), (1,), (), ("i", "j")),
        Site("zero", "deterministic", (), (), (), ()),
    )
    return vr.Fit(
        method=name,
        kind=name,
        status=vr.Status.OK,
        message="told",
        sites=sites,
        coords={"i": np.arange(2), "j": np.arange(2)},
        posterior=DrawsPosterior({"omega": omega, "zero": np.zeros((4, 500))}),
        sample_stats={"diverging": np.zeros((4, 500), bool)} if sampler else {},
    )


@pytest.fixture(scope="module")
def c() -> vr.Comparison:
    fits = {n: with_correlations(n, k, sampler=n == "nuts") for k, n in enumerate(("one", "nuts"))}
    return vr.Comparison(fits, reference=fits["nuts"], reference_name="nuts", target_name="toy")


CONSTANT = ["omega[0, 0]", "omega[1, 1]", "zero"]


def test_published_tables_leave_them_out(c: vr.Comparison) -> None:
    assert list(c.tidy()["term"]) == ["omega[0, 1]", "omega[1, 0]"] * 2
    printed = [row[0] for row in c.table().body]
    assert not set(printed) & set(CONSTANT)


def test_tables_say_constant(c: vr.Comparison) -> None:
    assert c.constants() == CONSTANT
    for table in (tables.means(c), tables.accuracy(c)):
        said = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
        for label, cells in said.items():
            assert ("constant" in cells) == (label in CONSTANT)
    (row,) = tables.accuracy_summary(c).rows
    assert row[1].text == "2 of 2"  # the two that are no constants
    assert row[4].text in ("omega[0, 1]", "omega[1, 0]")
    assert not any(label in c.verdict_of["one"].text for label in CONSTANT)


def test_figures_leave_constants_out(c: vr.Comparison) -> None:
    drawn = forest.forest(c)
    assert drawn is not None
    labels = [text.get_text() for axes in drawn.axes for text in axes.get_yticklabels()]
    assert labels == ["omega[0, 1]", "omega[1, 0]"]
    held = agreement.agreement(c)
    assert held is not None
    for axes in held.axes:
        marks = [line for line in axes.lines if line.get_linestyle() == "None"]
        assert [len(line.get_xdata()) for line in marks] == [2]
        named = [text.get_text() for text in axes.texts]
        assert sorted(named) == ["omega[0, 1]", "omega[1, 0]"]
    heat = heat_maps.correlations(c)
    assert heat is not None
    assert heat.axes[0].images[0].get_array().shape == (2, 2)
    assert c.correlations()["one"].loc["omega[0, 0]"].isna().all()


def test_json_lists_constants_and_compares_none(c: vr.Comparison) -> None:
    result = json.loads(json.dumps(to_json(c), allow_nan=False))
    assert result["constants"] == CONSTANT
    accuracy = result["accuracy"]["one"]
    unknown = [
        p for p, d in zip(accuracy["parameters"], accuracy["difference"], strict=True) if d is None
    ]
    assert unknown == CONSTANT


def test_what_varies_in_one_fit_is_no_constant() -> None:
    still = with_correlations("still", 0)
    moving = with_correlations("moving", 1)
    samples = dict(moving.posterior.samples)  # type: ignore[union-attr]
    samples["zero"] = np.random.default_rng(0).normal(size=(4, 500))
    free = vr.Fit(method="moving", status=vr.Status.OK, sites=still.sites, coords=still.coords,
                  posterior=DrawsPosterior(samples))  # fmt: skip
    c = vr.Comparison({"still": still, "moving": free}, target_name="toy")
    assert c.constants() == CONSTANT[:2]


@pytest.mark.parametrize("what", ["ess", "rhat"])
def test_diagnostics_of_rounding_are_none(what: str) -> None:
    draws = with_correlations("one", 0).posterior.samples  # type: ignore[union-attr]
    found = per_scalar(what, draws)["omega"]
    assert np.isnan(np.diag(found)).all()
    assert np.isfinite(found[0, 1])


def test_a_calibration_ranks_no_constant(tmp_path: Path) -> None:
    def model(y: np.ndarray) -> None:
        shares = numpyro.sample("shares", dist.Dirichlet(np.ones(2)))
        numpyro.deterministic("sum", shares.sum())
        numpyro.sample("y", dist.Normal(shares[0], 1.0).expand([len(y)]).to_event(1), obs=y)

    target = vr.Target(model, y=np.array([0.1, 0.4, 0.7]))
    result = calibrate(target, vr.Laplace(), num_simulations=4, path=tmp_path)
    assert result.labels == ("shares[0]", "shares[1]", "log likelihood")
    assert "No ranks of sum: constant." in result.notes
    assert result.ranks.shape == (4, 3)
