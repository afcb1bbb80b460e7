"""ArviZ's own functions on the trees of every method."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import arviz as az
import effects_for_tests as effects
import matplotlib as mpl
import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.methods import METHODS

mpl.use("Agg")

LABELS = ["mu", "u[Ash]", "u[Elm]", "u[Oak]"]

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in METHODS},
    "svi": ("svi", {"num_steps": 300}),
    "svi_delta": ("svi", {"num_steps": 300, "guide": "delta"}),
    "svi_full": ("svi", {"num_steps": 300, "guide": "multivariate_normal"}),
    "svi_blocks": ("svi", {"num_steps": 300, "guide": {"u": "conditional_normal"}}),
    "svgd": ("svgd", {"num_steps": 50}),
    "nuts": ("nuts", {"num_warmup": 200, "num_samples": 400, "num_chains": 2}),
}
POINTS = ("map", "svi_delta")
WITHOUT_DENSITY = ("variational_em", "cavi", "svgd")


@cache
def fitted(name: str) -> vr.Fit:
    if name in ("map", "laplace", "nuts"):  # those the other tests have made
        return {"map": effects.point, "laplace": effects.laplace, "nuts": effects.nuts}[name]()
    kind, options = OPTIONS[name]
    return METHODS[kind](**options).fit(effects.target(), key=1, name=name, throw=True)


@cache
def tree(name: str) -> Any:
    return fitted(name).to_arviz(
        effects.target(), log_likelihood=True, posterior_predictive=True, num_draws=200
    )


@contextmanager
def expected_warnings(name: str) -> Iterator[None]:
    """What ArviZ says of a point, rightly: it has no density, and no spread to divide by."""
    with warnings.catch_warnings():
        if name in POINTS:
            warnings.filterwarnings("ignore", "Your data appears to have a single value")
            warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)
        yield


@contextmanager
def figure() -> Iterator[list[Any]]:
    """The figures that ArviZ draws inside, drawn, and closed afterwards."""
    from matplotlib import pyplot as plt

    made: list[Any] = []
    before = set(plt.get_fignums())
    try:
        yield made
        made += [plt.figure(n) for n in plt.get_fignums() if n not in before]
        for each in made:
            each.canvas.draw()
    finally:
        plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIONS)
def test_the_tree(name: str) -> None:
    this, fit = tree(name), fitted(name)
    assert this["posterior"]["u"].dims == ("chain", "draw", "school")
    assert this["posterior"]["school"].values.tolist() == ["Ash", "Elm", "Oak"]
    for group in ("log_likelihood", "posterior_predictive"):
        assert this[group]["y"].dims == ("chain", "draw", "row")
        assert this[group]["y"].shape[:2] == this["posterior"]["mu"].shape
    assert this["observed_data"]["y"].dims == ("row",)
    assert this["observed_data"]["row"].values.tolist() == effects.ROWS
    np.testing.assert_array_equal(this["observed_data"]["y"], effects.Y)
    for attributes in (this.attrs, this["posterior"].attrs):
        assert attributes["method"] == fit.method
        assert attributes["seed"] == 1
        assert attributes["model"] == "effects"
        assert {"vi_recipes", "numpyro", "jax"} <= set(json.loads(attributes["versions"]))
    if name == "nuts":
        assert {"diverging", "energy", "lp", "tree_depth", "n_steps"} <= set(this["sample_stats"])
        assert "log_q" not in this["sample_stats"]
    elif name in (*POINTS, *WITHOUT_DENSITY, "nested"):
        assert "sample_stats" not in this.children
    else:
        assert set(this["sample_stats"].data_vars) == {"log_p", "log_q"}
        assert this["sample_stats"]["log_q"].shape == this["posterior"]["mu"].shape


@pytest.mark.parametrize("name", OPTIONS)
def test_summary(name: str) -> None:
    with expected_warnings(name):
        table = az.summary(tree(name), round_to="none")
    assert list(table.index) == LABELS
    drawn = tree(name)["posterior"]
    np.testing.assert_allclose(table.loc["u[Elm]", "mean"], drawn["u"].to_numpy()[..., 1].mean())
    assert (table["sd"] < 1e-12).all() == (name in POINTS)


@pytest.mark.parametrize("name", OPTIONS)
def test_plots(name: str) -> None:
    this = tree(name)
    with expected_warnings(name):
        with figure() as made:
            az.plot_forest(this)
        texts = {text.get_text() for axes in made[0].axes for text in axes.texts}
        ticks = {t.get_text() for axes in made[0].axes for t in axes.get_yticklabels()}
        assert {"mu", "u", "Ash", "Elm", "Oak"} <= texts | ticks
        with figure() as made:
            az.plot_trace(this)
        assert len([axes for axes in made[0].axes if axes.lines]) == 4
        with figure() as made:
            az.plot_pair(this, var_names=["mu", "u"])
        assert len([axes for axes in made[0].axes if axes.collections]) == 6  # pairs of four
        with figure() as made:
            az.plot_ppc_dist(this, num_samples=20)
        assert len(made[0].axes[0].lines) >= 21  # twenty replications and the data


def test_energy_of_a_sampler() -> None:
    with figure() as made:
        az.plot_energy(tree("nuts"))
    assert made[0].axes[0].lines


@pytest.mark.parametrize("name", OPTIONS)
def test_loo(name: str) -> None:
    this = tree(name)
    if name in (*POINTS, *WITHOUT_DENSITY):
        with pytest.raises(vr.LOOError, match=r"a point has no|no density|particles"):
            vr.loo(fitted(name), effects.target(), num_draws=200)
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter")  # of so few draws
        if name in ("nuts", "nested"):
            own = az.loo(this, pointwise=True)
        else:
            stats = this["sample_stats"]
            own = az.loo_approximate_posterior(this, stats["log_p"], stats["log_q"], pointwise=True)
    found = vr.loo(fitted(name), effects.target(), num_draws=200)
    np.testing.assert_allclose(
        found.elpd_i, own.elpd_i, atol=0.01 if name in ("nuts", "nested") else 1e-8
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Estimated shape parameter", "ignore:Encountered error")
def test_compare() -> None:
    names = [n for n in OPTIONS if n not in (*POINTS, *WITHOUT_DENSITY)]
    found = {n: vr.loo(fitted(n), effects.target()) for n in names[:8]}
    table = az.compare(found)
    assert set(table.index) == set(found)
    with figure() as made:
        az.plot_compare(table)
    assert made
    trees = {n: fitted(n).to_arviz(effects.target(), log_likelihood=True) for n in ("nuts", "cavi")}
    assert set(az.compare(trees).index) == {"nuts", "cavi"}
