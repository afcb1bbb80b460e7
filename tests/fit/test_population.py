"""Which sites are the population's: one rule, by plates, whatever their sizes."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.fit import population


def hierarchy(y: np.ndarray, num_schools: int) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(5.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([12]).to_event(1))
    numpyro.deterministic("odds", jnp.exp(beta[:3]))
    with numpyro.plate("school", num_schools):
        raw = numpyro.sample("raw", dist.Normal(0.0, 1.0))
        numpyro.deterministic("theta", mu + tau * raw)
        numpyro.deterministic("both", jnp.stack([raw, raw], axis=-1))
        numpyro.deterministic("icc", tau**2 / (1.0 + tau**2))
        with numpyro.plate("visit", 4, dim=-2):
            numpyro.deterministic("grid", mu + tau * raw * jnp.ones((4, 1)))
    with numpyro.plate("row", len(y)):
        eta = jnp.broadcast_to(mu + beta.sum(), y.shape) + raw[0]
        numpyro.deterministic("eta", eta)
        numpyro.sample("y", dist.Normal(eta, 1.0), obs=y)
    numpyro.deterministic("after", mu + tau * raw)
    numpyro.deterministic("fitted", jnp.broadcast_to(mu, (40,)))


def test_members_are_what_stands_in_a_plate_however_few_they_are() -> None:
    model = vr.Model(function=hierarchy, name="hierarchy", dims={"after": ("school",)})
    target = vr.Target(model, y=np.zeros(5), num_schools=3)
    assert population(target.quantities) == ["mu", "tau", "beta", "odds", "icc"]
    sites = target.sites
    assert sites["theta"].dims == ("school",)
    assert sites["both"].plates == (("school", 3, 0),)
    assert set(sites["grid"].plates) == {("school", 3, 1), ("visit", 4, 0)}
    assert sites["icc"].plates == ()


def mixed(y: np.ndarray, summed: bool) -> None:
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("component", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.5))
        numpyro.deterministic("variance", sigma**2)
    with numpyro.plate("clinic", 4):
        shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        if summed:
            parts = dist.Normal(mu, sigma)
            law = dist.MixtureSameFamily(dist.Categorical(weights), parts)
            numpyro.sample("y", law, obs=y - shift[0])
        else:
            z = numpyro.sample("z", dist.Categorical(weights), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu[z] + shift[0], sigma[z]), obs=y)


@pytest.mark.parametrize("summed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_components_of_a_mixture_are_no_members(summed: bool, tmp_path: Path) -> None:
    target = vr.Target(mixed, y=np.arange(9.0), summed=summed)
    expected = ["weights", "mu", "sigma", "variance"]
    assert population(target.quantities) == expected
    assert target.sites["mu"].components == ("component",)
    fit = vr.derive(vr.MAP().fit(target), twice=lambda s: 2 * s["mu"])
    fit.save(tmp_path / "fit.nc")
    assert population(vr.Fit.load(tmp_path / "fit.nc").sites) == [*expected, "twice"]


def formula_data() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    n = 120
    return pd.DataFrame(
        {
            "y": rng.normal(size=n) + np.arange(n) % 5,
            "x": rng.normal(size=n),
            "f": [f"l{k:02d}" for k in np.arange(n) % 12],
            "g": [f"g{k}" for k in rng.integers(0, 3, n)],
        }
    )


@pytest.fixture(scope="module")
def few_groups() -> vr.Comparison:
    model = vr.glmm("y ~ x + f + (1 + x | g)", formula_data())
    return vr.compare(model, [vr.MeanField(), vr.LinearResponse()])


@pytest.mark.slow
def test_effects_of_three_groups_are_members_and_twelve_coefficients_are_not(
    few_groups: vr.Comparison,
) -> None:
    c = few_groups
    first = c["meanfield"].labels(["Intercept", "beta", "sd_g", "cor_g", "sigma"])
    tidy = c.tidy()
    assert set(tidy["group"]) == {""}
    assert sorted(tidy.loc[tidy["method"] == "meanfield", "term"]) == sorted(first)
    whole = c.tidy(members=True)
    assert set(whole["group"]) == {"", "g"}
    assert set(whole["level"]) == {"", "g0", "g1", "g2"}
    assert list(whole["term"][: len(first)]) == list(tidy["term"][: len(first)])
    assert "u_g" not in c.table().csv()
    assert "u_g_x[g2]" in c.table(members=True).csv()
    summary = c["meanfield"].summary(members=False)
    assert sorted(summary.index) == sorted(first)


@pytest.mark.slow
def test_page_terminal_and_notebook_put_the_population_first(few_groups: vr.Comparison) -> None:
    from vi_recipes.comparison import overview
    from vi_recipes.comparison.json import to_json
    from vi_recipes.comparison.view import select

    c = few_groups
    first = c["meanfield"].labels(["Intercept", "beta", "sd_g", "cor_g", "sigma"])
    (turned,) = overview.population(c)
    assert sorted(row[0].text for row in turned.tables[1].rows) == sorted(first)
    (members,) = overview.members(c)
    assert {row[0].text.partition("[")[0] for row in members.table.rows} == {
        "u_g_Intercept",
        "u_g_x",
    }
    (brief,) = overview.best_means(c)
    assert not any("u_g" in row[0].text for row in brief.rows)
    labels, _ = select(c)
    assert sorted(labels[: len(first)]) == sorted(first)
    assert "u_g" not in c._repr_html_().partition("<p>Means")[2]
    made = to_json(c)
    assert sorted(made["population"]) == sorted(
        c["meanfield"].labels(population(c["meanfield"].sites), coords=False)
    )
