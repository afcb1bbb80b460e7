"""Leave-one-out cross-validation, against the closed forms of a Gaussian model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import arviz as az
import effects_for_tests as effects
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target as listed
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.fit.loo import _judged
from vi_recipes.posterior.draws import DrawsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior

NUM_DRAWS = 10_000


def narrowed(ratio: float) -> vr.Fit:
    """The exact posterior with all its sds multiplied by ``ratio``."""
    posterior = effects.laplace().posterior
    assert isinstance(posterior, GaussianPosterior)
    mean, cov = effects.exact_moments()
    np.testing.assert_allclose(posterior.loc, mean, rtol=1e-6, atol=1e-9)
    root = ratio * np.linalg.cholesky(cov)
    q = GaussianPosterior(effects.target(), mean, root, np.zeros(4))
    return replace(effects.laplace(), method=f"narrowed_{ratio}", posterior=q)


def errors(log_likelihood: np.ndarray, log_weights: np.ndarray, elpd: np.ndarray) -> np.ndarray:
    """Monte Carlo standard errors of self-normalised estimates of log densities."""
    weights = np.exp(log_weights - logsumexp(log_weights, axis=0))
    return np.sqrt((weights**2 * np.expm1(log_likelihood - elpd) ** 2).sum(axis=0))


def without_correction(ratio: float) -> np.ndarray:
    """What weights 1 / p(y_i | theta) estimate if q, and not the posterior, is behind the draws."""
    mean, cov = effects.exact_moments()
    m, v = mean[1:][effects.GROUP], ratio**2 * np.diag(cov)[1:][effects.GROUP]
    precision = 1 / v - 1 / effects.NOISE**2
    centre = (m / v - effects.Y / effects.NOISE**2) / precision
    sd = np.sqrt(1 / precision + effects.NOISE**2)
    return np.asarray(stats.norm(centre, sd).logpdf(effects.Y))


@pytest.mark.parametrize("ratio", [1.0, 0.9])
def test_the_correction_repairs_what_q_gets_wrong_by_a_known_amount(ratio: float) -> None:
    fit, exact, wrong = narrowed(ratio), effects.exact_loo(), without_correction(ratio)
    found = vr.loo(fit, effects.target(), num_draws=NUM_DRAWS)
    tree = fit.to_arviz(effects.target(), log_likelihood=True, num_draws=NUM_DRAWS)
    assert not found.warning
    plain = az.loo(tree, pointwise=True)
    values = tree["log_likelihood"]["y"].to_numpy()[0]
    ratios = (tree["sample_stats"]["log_p"] - tree["sample_stats"]["log_q"]).to_numpy()[0]
    # 12 of them at 4 standard errors, which weights of a finite but unknown kurtosis understate
    error = errors(values, ratios[:, None] - values, exact)
    assert (np.abs(found.elpd_i - exact) < 4 * error).all()
    assert (np.abs(plain.elpd_i - wrong) < 4 * errors(values, -values, wrong)).all()
    own = vr.loo(fit, effects.target(), num_draws=NUM_DRAWS, correct=False)
    np.testing.assert_allclose(own.elpd_i, plain.elpd_i, rtol=1e-10)
    if ratio == 1:  # nothing to correct: the ratios are the log evidence, all of them
        np.testing.assert_allclose(found.elpd_i, plain.elpd_i, atol=1e-6)
        np.testing.assert_allclose(exact, wrong, rtol=1e-9)
        evidence = stats.multivariate_normal(np.zeros(12), effects.marginal()).logpdf(effects.Y)
        np.testing.assert_allclose(ratios, evidence, atol=1e-8)
    else:
        assert wrong.sum() - exact.sum() > 10 * np.sqrt((error**2).sum())


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")  # of 800 draws, by chance
def test_a_samplers_is_arvizs_own() -> None:
    found = vr.loo(effects.nuts(), effects.target())
    tree = effects.nuts().to_arviz(effects.target(), log_likelihood=True)
    own = az.loo(tree, pointwise=True)
    assert found.elpd == pytest.approx(own.elpd, abs=1e-3)  # weighted alike, given the ESS
    np.testing.assert_allclose(found.pareto_k, own.pareto_k, atol=0.05)
    values = tree["log_likelihood"]["y"].to_numpy().reshape(-1, 12)
    # of 800 draws about as many are effective
    error = errors(values, -values, effects.exact_loo()) * np.sqrt(2)
    assert (np.abs(found.elpd_i - effects.exact_loo()) < 4 * error).all()
    assert found.elpd_i["row"].values.tolist() == effects.ROWS


def test_one_chain_has_the_efficiency_that_its_draws_have() -> None:
    """ArviZ takes one chain's draws for independent."""
    posterior = effects.nuts().posterior
    assert isinstance(posterior, DrawsPosterior)

    def chain(times: int) -> vr.Fit:
        """One chain, every draw so many times over: as many effective draws as before."""
        samples = {n: np.repeat(v[:1], times, axis=1) for n, v in posterior.samples.items()}
        stats_ = {"lp": np.zeros((1, 400 * times))}
        return replace(effects.nuts(), posterior=DrawsPosterior(samples), sample_stats=stats_)

    found = {times: vr.loo(chain(times), effects.target()) for times in (1, 5)}
    assert found[5].n_samples == 2_000
    tree = chain(5).to_arviz(effects.target(), log_likelihood=True)
    ess = az.ess(tree["posterior"], method="mean")
    share = np.mean(np.concatenate([np.ravel(v) for v in ess.dataset.values()])) / 2_000
    assert share < 0.4
    own = az.loo(tree, pointwise=True, reff=share)
    np.testing.assert_allclose(found[5].elpd_i, own.elpd_i, rtol=1e-9)
    with pytest.warns(UserWarning, match="Estimated shape parameter"):
        az.loo(tree)  # it would see heavy tails, because the largest weights come five at a time
    assert not found[5].warning


@cache
def compared() -> vr.Comparison:
    fits = {
        "map": effects.point(),
        "laplace": effects.laplace(),
        "meanfield": vr.MeanField().fit(effects.target(), key=1, throw=True),
        "svgd": vr.SVGD(num_steps=50).fit(effects.target(), key=1),
        "failed": replace(
            effects.laplace(), method="failed", status=vr.Status.SINGULAR, message="flat"
        ),
        "nuts": effects.nuts(),
    }
    return vr.Comparison(fits, reference=fits["nuts"], reference_name="nuts", target_name="effects")


def test_a_comparison_has_a_row_a_fit() -> None:
    table = compared().loo(effects.target())
    assert list(table.index) == ["map", "laplace", "meanfield", "svgd", "failed", "nuts"]
    numbers = table.drop(columns="reason")
    known = ["laplace", "meanfield", "nuts"]
    assert numbers.loc[known].notna().all(axis=None)
    assert numbers.drop(known).isna().all(axis=None)
    assert (table.loc[known, "reason"] == "").all()
    assert "a point has no posterior" in table.loc["map", "reason"]
    assert "particles are no independent draws" in table.loc["svgd", "reason"]
    assert "singular" in table.loc["failed", "reason"]
    alone = vr.loo(effects.laplace(), effects.target())
    row = table.loc["laplace"]
    assert row["elpd_loo"] == alone.elpd
    assert row["p_loo"] == alone.p
    assert row["max_k"] == float(alone.pareto_k.max())
    assert row["num_draws"] == 2_000
    assert table.loc["nuts", "elpd_diff"] == 0  # the reference
    np.testing.assert_allclose(row["elpd_diff"], row["elpd_loo"] - table.loc["nuts", "elpd_loo"])
    gaps = alone.elpd_i - vr.loo(effects.nuts(), effects.target()).elpd_i
    np.testing.assert_allclose(row["dse"], np.sqrt(12 * np.var(gaps)), rtol=1e-6)


def test_differences_from_the_highest_where_there_is_no_reference() -> None:
    fits = {name: compared()[name] for name in ("map", "laplace", "meanfield")}
    table = vr.Comparison(fits).loo(effects.target())
    best = table["elpd_loo"].idxmax()
    assert table.loc[best, "elpd_diff"] == 0
    assert table["elpd_diff"].max() == 0
    alone = vr.Comparison({"laplace": effects.laplace()}).loo(effects.target())
    assert alone.loc["laplace", ["elpd_diff", "dse"]].tolist() == [0, 0]
    none = vr.Comparison({"map": effects.point()}).loo(effects.target())
    assert none.drop(columns="reason").isna().all(axis=None)


def test_fits_that_were_read_from_disk(tmp_path: Path) -> None:
    fits = {n: compared()[n] for n in ("laplace", "svgd", "nuts")}
    again = vr.Comparison({n: vr.Fit.load(f.save(tmp_path / f"{n}.nc")) for n, f in fits.items()})
    table = again.loo(effects.target())
    assert table.loc["nuts", "elpd_loo"] == vr.loo(effects.nuts(), effects.target()).elpd
    # its file keeps draws with their density, those that it would draw itself
    whole = vr.loo(fits["laplace"], effects.target())
    assert table.loc["laplace", "elpd_loo"] == pytest.approx(whole.elpd, rel=1e-9)
    assert again.table(target=effects.target()).foot
    bare = replace(again["laplace"], posterior=replace(again["laplace"].posterior, weighed=None))
    with pytest.raises(vr.LOOError, match="was read from a file that keeps no density"):
        vr.loo(bare, effects.target())
    table = again.loo(effects.target(), correct=False)
    # the posterior itself, from the draws that the file keeps
    assert table.loc["laplace", "elpd_loo"] == pytest.approx(effects.exact_loo().sum(), abs=0.4)
    assert "particles are no independent draws" in table.loc["svgd", "reason"]


def test_a_reference_from_outside_has_moments_alone() -> None:
    parameters = {"mu": {"mean": 1.0, "sd": 0.5, "mcse": 0.01}}
    outside = vr.load_reference({"parameters": parameters}, effects.target())
    fits = {"laplace": effects.laplace()}
    this = vr.Comparison(fits, reference=outside, reference_name="outside")
    for correct in (True, False):
        table = this.loo(effects.target(), correct=correct)
        assert "only moments are known here" in table.loc["outside", "reason"]
        assert table.loc["laplace", "elpd_diff"] == 0


# -- over models -----------------------------------------------------------------------------


def pooled(y: Any, group: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(mu, effects.NOISE), obs=y)


@cache
def pooled_fit() -> tuple[vr.Fit, vr.Target]:
    target = vr.Target(pooled, y=effects.Y, group=effects.GROUP)
    return vr.Laplace().fit(target, throw=True), target


def test_models_are_compared_on_the_same_observations() -> None:
    pair = {"pooled": pooled_fit(), "effects": (effects.laplace(), effects.target())}
    table = vr.compare_models(pair, num_draws=20_000)
    assert list(table.index) == ["effects", "pooled"]
    cov = 4 + effects.NOISE**2 * np.eye(12)
    precision = np.linalg.inv(cov)
    variance = 1 / np.diag(precision)
    law = stats.norm(effects.Y - variance * (precision @ effects.Y), np.sqrt(variance))
    exact = law.logpdf(effects.Y).sum()
    # most of their error is that of a variance from 20,000 draws: 0.03 in standard deviation
    assert table.loc["pooled", "elpd"] == pytest.approx(exact, abs=0.12)
    assert table.loc["effects", "elpd"] == pytest.approx(effects.exact_loo().sum(), abs=0.12)
    difference = table.loc["pooled", "elpd"] - table.loc["effects", "elpd"]
    assert table.loc["pooled", "elpd_diff"] == pytest.approx(difference)


def test_models_that_cannot_be_compared() -> None:
    fit, target = pooled_fit()
    with pytest.raises(ValueError, match="fits: got 1 models, expected at least two"):
        vr.compare_models({"one": (fit, target)})
    fewer = vr.Target(pooled, y=effects.Y[1:], group=effects.GROUP[1:])
    other = vr.Target(pooled, y=effects.Y[::-1], group=effects.GROUP)
    for changed in (fewer, other):
        with pytest.raises(ValueError, match=r"model 'b' has observations .* not those of 'a'"):
            vr.compare_models({"a": (fit, target), "b": (vr.Laplace().fit(changed), changed)})
    with pytest.raises(vr.LOOError, match="model 'b': a point has no posterior"):
        vr.compare_models({"a": (fit, target), "b": (effects.point(), effects.target())})


# -- bad input -------------------------------------------------------------------------------


def test_misuse_is_raised() -> None:
    other = vr.Target(effects.MODEL, y=effects.Y + 1, group=effects.GROUP)
    for call in (lambda: vr.loo(effects.laplace(), other), lambda: compared().loo(other)):
        with pytest.raises(ValueError, match="was fitted to other data") as caught:
            call()
        assert not isinstance(caught.value, vr.LOOError)
    with pytest.raises(ValueError, match="observed: got 'z', expected one of y"):
        compared().loo(effects.target(), observed="z")


@pytest.mark.parametrize("name", ["laplace", "nuts"])
def test_too_few_draws(name: str) -> None:
    fit = getattr(effects, name)()
    with pytest.raises(vr.LOOError, match="it has 50 draws, and the tail of the weights takes 100"):
        vr.loo(fit, effects.target(), num_draws=50)
    assert vr.loo(fit, effects.target(), num_draws=100).n_samples == 100


def test_no_pointwise_likelihood_is_a_reason() -> None:
    this = listed("improper_factor")
    fit = vr.Laplace().fit(this)
    with pytest.raises(vr.LOOError, match="has no pointwise likelihood"):
        vr.loo(fit, this)
    table = vr.Comparison({"laplace": fit}).loo(this)
    assert "has no pointwise likelihood" in table.loc["laplace", "reason"]


def two_sites(x: Any, y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.MultivariateNormal(mu * np.ones(2), np.eye(2)), obs=x)
    with numpyro.handlers.mask(mask=np.array([True, False, True])):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_several_sites_one_observation_and_masked_ones() -> None:
    this = vr.Target(two_sites, x=np.array([0.2, 0.1]), y=np.array([1.0, 0.0, 0.5]))
    fit = vr.Laplace().fit(this, throw=True)
    with pytest.raises(ValueError, match="observed: got None, expected one of x, y"):
        vr.loo(fit, this)
    with pytest.raises(vr.LOOError, match="site 'x' is one observation"):
        vr.loo(fit, this, observed="x")
    with pytest.raises(vr.LOOError, match=r"y\[1\] have the same likelihood at every draw"):
        vr.loo(fit, this, observed="y")


def test_constant_draws() -> None:
    """A chain that never moved has no weights to smooth."""
    still = {"mu": np.full((2, 100), 0.3), "u": np.full((2, 100, 3), 0.1)}
    fit = replace(effects.nuts(), posterior=DrawsPosterior(still))
    fit = replace(fit, sample_stats={"lp": np.zeros((2, 100))})
    with pytest.raises(vr.LOOError, match=r"y\[r0\], y\[r1\], y\[r2\] and 9 more have the same"):
        vr.loo(fit, effects.target())


def test_one_constant_parameter() -> None:
    posterior = effects.nuts().posterior
    assert isinstance(posterior, DrawsPosterior)
    samples = {"mu": np.full((2, 400), 0.5), "u": posterior.samples["u"]}
    fit = replace(effects.nuts(), posterior=DrawsPosterior(samples))
    found = vr.loo(fit, effects.target())
    # the likelihood is of u alone, and a constant says nothing of how well a chain moves
    np.testing.assert_allclose(
        found.elpd_i, vr.loo(effects.nuts(), effects.target()).elpd_i, atol=0.02
    )


def test_draws_without_density_in_the_posterior() -> None:
    """An approximation some of whose draws the posterior excludes."""

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.factor("positive", jnp.where(mu > 0.2, 0.0, -jnp.inf))
        with numpyro.plate("row", 5):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = np.array([0.3, 0.9, 0.4, 1.1, 0.2])
    this = vr.Target(model, y=y)

    def around(loc: float, sd: float) -> vr.Fit:
        q = GaussianPosterior(this, np.array([loc]), None, np.array([sd]))
        return vr.Fit(method="q", status=vr.Status.OK, sites=this.quantities, posterior=q)

    found = vr.loo(around(0.6, 0.6), this, num_draws=NUM_DRAWS)
    grid = np.linspace(0.2, 6, 20_001)
    exact = []
    for i in range(5):
        rest = stats.norm.logpdf(np.delete(y, i)[:, None], grid).sum(0) + stats.norm.logpdf(grid)
        joint = rest + stats.norm.logpdf(y[i], grid)
        exact.append(logsumexp(joint) - logsumexp(rest))
    np.testing.assert_allclose(found.elpd_i, exact, atol=0.02)
    with pytest.raises(vr.LOOError, match="the posterior has no density at any draw"):
        vr.loo(around(-9.0, 0.1), this)


@pytest.mark.filterwarnings("ignore:Estimated shape parameter")
def test_an_observation_that_says_little_has_no_high_k() -> None:
    """By ArviZ its k is above 3: the weights have a maximum among the draws, of 1.1 to 1 or so."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4, 1_000))
    level, heavy = 0.02 * (z**3 - 3 * z), -0.95 * z**2 / 2  # of shape 0.95
    values = np.stack([-level, heavy], axis=-1)
    tree = az.from_dict({"posterior": {"z": z}, "log_likelihood": {"y": values}})
    found = az.loo(tree, pointwise=True, reff=1.0)
    assert found.pareto_k[0] > 1
    right = _judged(found, values)
    assert right.pareto_k[0] == 0
    assert right.pareto_k[1] > 0.7
    assert right.warning
    values[..., 1] = -level
    tree = az.from_dict({"posterior": {"z": z}, "log_likelihood": {"y": values}})
    assert not _judged(az.loo(tree, pointwise=True, reff=1.0), values).warning


# -- rows that stand for several observations --------------------------------------------------

COPIES = np.array([3, 0, 1, 2, 1, 4])
VALUES = np.array([0.3, 2.0, -0.8, 1.1, 0.2, -0.4])


def around(y: Any, scale: Any = 1.0, x: Any = 0.0) -> None:
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("row", len(y)), numpyro.handlers.scale(scale=scale):
        numpyro.sample("y", dist.Normal(m + 0.3 * x, 1.0), obs=y)


def exactly(y: np.ndarray) -> np.ndarray:
    """The density of each observation given all others: m given them is normal."""
    precision = 0.25 + len(y) - 1.0
    mean = (y.sum() - y) / precision
    return np.asarray(stats.norm(mean, np.sqrt(1.0 + 1.0 / precision)).logpdf(y))


@pytest.mark.parametrize("method", [vr.Laplace(), vr.NUTS(num_chains=2, num_warmup=200)])
def test_a_row_counts_as_often_as_its_weight_says(method: vr.Method) -> None:
    one_by_one = np.repeat(VALUES, COPIES)
    target = vr.Target(around, y=VALUES, scale=COPIES.astype(float))
    found = vr.loo(method.fit(target, throw=True), target)
    each = exactly(one_by_one)
    assert found.elpd == pytest.approx(each.sum(), abs=0.05)
    assert found.se == pytest.approx(np.sqrt(len(each) * each.var()), abs=0.02)
    assert found.n_data_points == COPIES.sum()
    last = (np.cumsum(COPIES) - 1)[COPIES > 0]
    np.testing.assert_allclose(found.elpd_i.to_numpy()[COPIES > 0], each[last], atol=0.02)
    apart = vr.Target(around, y=one_by_one)
    other = vr.loo(method.fit(apart, throw=True), apart)
    assert found.p == pytest.approx(other.p, abs=0.05)
    precision = 0.25 + len(one_by_one)
    left = stats.norm(one_by_one.sum() / precision, np.sqrt(1 + 1 / precision))
    assert found.elpd_i.to_numpy()[1] == pytest.approx(left.logpdf(VALUES[1]), abs=0.05)


@pytest.mark.slow
def test_models_and_methods_are_compared_by_what_rows_stand_for() -> None:
    rows = np.arange(len(VALUES))
    data = {"rows": (rows, COPIES.astype(float)), "apart": (np.repeat(rows, COPIES), 1.0)}
    tables, differences = {}, {}
    for name, (chosen, scale) in data.items():
        y = VALUES[chosen]
        targets = [vr.Target(around, y=y, scale=scale, x=x) for x in (0.0, chosen * 1.0)]
        fits = {str(k): (vr.Laplace().fit(t, throw=True), t) for k, t in enumerate(targets)}
        tables[name] = vr.compare_models(fits, num_draws=4_000)
        laplace, meanfield = fits["0"][0], vr.MeanField().fit(targets[0], throw=True)
        both = vr.Comparison({"laplace": laplace, "narrowed": meanfield})
        differences[name] = both.loo(targets[0], num_draws=4_000)
    for column in ("elpd", "se", "p", "elpd_diff", "dse", "weight"):
        np.testing.assert_allclose(tables["rows"][column], tables["apart"][column], atol=0.1)
    for column in ("elpd_loo", "se", "p_loo", "elpd_diff", "dse"):
        np.testing.assert_allclose(
            differences["rows"][column], differences["apart"][column], atol=0.05
        )
    other = vr.Target(around, y=VALUES)
    this = vr.Target(around, y=VALUES, scale=COPIES.astype(float))
    unlike = {name: (vr.Laplace().fit(t), t) for name, t in (("a", this), ("b", other))}
    with pytest.raises(ValueError, match="have other weights than those of"):
        vr.compare_models(unlike)


def test_weights_that_are_not_whole_are_of_rows() -> None:
    target = vr.Target(around, y=VALUES, scale=np.full(len(VALUES), 1.5))
    found = vr.loo(vr.Laplace().fit(target, throw=True), target)
    assert found.n_data_points == len(VALUES)
    assert found.elpd == pytest.approx(found.elpd_i.to_numpy().sum())
