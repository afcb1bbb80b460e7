"""Bounds and estimates of log p(y), against closed forms."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.core.status import MethodFailure
from vi_recipes.importance.bounds import (
    Bound,
    LogEvidence,
    elbo,
    importance_sampled,
    importance_weighted,
)
from vi_recipes.posterior.draws import DrawsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior
from vi_recipes.trust.bridge import bridge
from vi_recipes.trust.evidence import evidence_table, evidences
from vi_recipes.trust.quadrature import quadrature


@cache
def drawn(name: str) -> vr.Fit:
    return vr.NUTS(num_warmup=300, num_samples=1_000, num_chains=2).fit(target(name), key=1)


def as_fit(method: str, samples: dict[str, Any], status: vr.Status = vr.Status.OK) -> vr.Fit:
    """Return draws, shaped (chain, draw, *site shape), as if a sampler had made them."""
    stats = {"diverging": np.zeros(next(iter(samples.values())).shape[:2], bool)}
    return vr.Fit(method, status, posterior=DrawsPosterior(samples), sample_stats=stats)


def chains_of(name: str, key: int, *, num_draws: int = 400) -> vr.Fit:
    """Return a fit with independent draws of a Gaussian posterior in place of a sampler's."""
    known, this = case(name), target(name)
    assert known.cov is not None
    mean = np.concatenate([np.ravel(known.mean[s.name]) for s in this.latents])
    rng = np.random.default_rng(key)
    z = rng.multivariate_normal(mean, known.cov, (2, num_draws))
    samples = {
        n: v.reshape(2, num_draws, *v.shape[1:])
        for n, v in this.constrain(z.reshape(-1, this.dim)).items()
    }
    return as_fit("independent", samples)


# -- from log ratios -------------------------------------------------------------------------------


def normal_ratios(n: int, s: float, d: int = 1, log_z: float = -7.0) -> np.ndarray:
    """Return log ratios of p = N(0, I), times exp(log_z), at draws of q = N(0, s^2 I)."""
    z = s * np.random.default_rng(0).standard_normal((n, d))
    log_p, log_q = -(z**2) / 2, -(z**2) / (2 * s**2) - np.log(s)
    return np.asarray((log_p - log_q).sum(axis=1) + log_z)


def test_bounds_and_the_estimate_of_a_normal() -> None:
    """With q = N(0, s^2), the ELBO is log Z - KL, KL = d (s^2 - 1 - 2 log s) / 2."""
    s, d = 1.4, 3
    ratios = normal_ratios(6_000, s, d)
    kl = d * (s**2 - 1 - 2 * np.log(s)) / 2
    lower, better, estimate = elbo(ratios), importance_weighted(ratios), importance_sampled(ratios)
    assert lower.kind == "lower bound (ELBO)"
    assert better.kind == "lower bound (importance-weighted, k = 10)"
    assert estimate.kind.startswith("estimate (importance sampling, khat ")
    assert abs(lower.value - (-7 - kl)) < 4 * lower.se
    assert abs(estimate.value + 7) < 4 * estimate.se
    # the gap of k draws is about the variance of the weights over 2 k
    variance = np.exp(ratios + 7).var()
    assert lower.value < better.value < -7 + 4 * better.se
    assert -7 - better.value == pytest.approx(variance / 20, rel=0.5)
    assert lower.se == pytest.approx(ratios.std() / 6_000**0.5, rel=1e-3)


def test_one_draw_a_group_is_the_elbo_and_the_rest_is_left_out() -> None:
    ratios = normal_ratios(25, 1.2)
    one = importance_weighted(ratios, num_particles=1)
    assert (one.value, one.se) == pytest.approx((elbo(ratios).value, elbo(ratios).se))
    groups = [logsumexp(ratios[:10]), logsumexp(ratios[10:20])]
    found = importance_weighted(ratios)
    assert found.value == pytest.approx(np.mean(groups) - np.log(10))
    assert found.se == pytest.approx(abs(groups[0] - groups[1]) / 2)


def test_smoothing_keeps_the_scale_and_draws_without_density_count() -> None:
    """q is uniform on twice p's support: half of the weights are 2, the others none."""
    inside = np.random.default_rng(3).random(1_000) < 0.5
    ratios = np.where(inside, np.log(2) - 4, -np.inf)
    found = importance_sampled(ratios)
    assert found.value == pytest.approx(np.log(2 * inside.mean()) - 4)
    assert found.se == pytest.approx(1 / 1_000**0.5, rel=0.05)
    assert elbo(ratios).value == -np.inf
    assert np.isnan(elbo(ratios).se)
    exact = importance_sampled(np.full(100, -3.0))
    assert (exact.value, exact.se) == pytest.approx((-3.0, 0.0), abs=1e-12)
    mostly_outside = np.where(np.arange(1_000) < 30, np.arange(1_000) / 10.0, -np.inf)
    expected = logsumexp(mostly_outside) - np.log(1_000)
    assert importance_sampled(mostly_outside).value == pytest.approx(expected)


def test_weights_beyond_all_scale() -> None:
    """The lowest weights are zero, to rounding: they say nothing of the scale."""
    ratios = np.r_[normal_ratios(1_000, 1.2), np.full(100, -3_000.0)]
    found = importance_sampled(ratios)
    assert found.value == pytest.approx(-7 + np.log(1_000 / 1_100), abs=4 * found.se)
    alone = np.where(np.arange(200) == 7, 0.0, -3_000.0 - np.arange(200))
    assert importance_sampled(alone).value == pytest.approx(-np.log(200))


def test_an_estimate_with_a_heavy_tail_says_so() -> None:
    found = importance_sampled(normal_ratios(4_000, 0.4))  # k is 1 - 0.4^2
    assert found.kind.startswith("unreliable estimate (importance sampling, khat 0.")
    assert importance_sampled(normal_ratios(4_000, 0.9)).kind.startswith("estimate")


@pytest.mark.parametrize(
    ("function", "ratios", "match"),
    [
        (elbo, [1.0], r"shape \(1,\), expected one dimension of at least 2"),
        (elbo, np.zeros((2, 2)), r"shape \(2, 2\)"),
        (elbo, [0.0, np.nan], "1 of 2 are NaN or plus infinity"),
        (importance_weighted, np.zeros(19), "at least 20 draws"),
        (importance_weighted, np.r_[np.zeros(20), np.inf], "1 of 21 are NaN or plus infinity"),
        (importance_sampled, np.zeros(99), "at least 100 draws"),
        (importance_sampled, np.full(100, -np.inf), "no density at any draw"),
    ],
)
def test_bad_ratios(function: Any, ratios: Any, match: str) -> None:
    with pytest.raises(ValueError, match=f"log_ratios: .*{match}"):
        function(ratios)


def test_particles_are_positive() -> None:
    with pytest.raises(ValueError, match="num_particles: got 0"):
        importance_weighted(np.zeros(30), num_particles=0)


# -- bridge sampling -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["linear_regression", "nested_plates", "state_space"])
def test_bridge_sampling_is_right_within_its_error(name: str) -> None:
    """Over independent sets of draws, the deviations in units of the errors have an sd near 1."""
    exact = case(name).log_evidence
    assert exact is not None
    found = [bridge(target(name), chains_of(name, key), key=key) for key in range(12)]
    deviations = np.array([(e.value - exact) / e.se for e in found])
    assert all(e.kind == "estimate (bridge sampling)" for e in found)
    assert max(e.se for e in found) < 0.1
    # of 12 standard normals the mean has an sd of 0.29, and the sd itself one of 0.21
    assert abs(deviations.mean()) < 4 * 0.29
    assert 0.3 < deviations.std(ddof=1) < 1.9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal_precision", "mixture"])
def test_bridge_sampling_from_nuts(name: str) -> None:
    """Skewed posteriors, and one whose draws show one of the two labellings only."""
    found = bridge(target(name), drawn(name))
    assert case(name).log_evidence == pytest.approx(found.value, abs=4 * found.se)
    assert found.se < 0.03
    again = bridge(target(name), drawn(name), num_draws=4_000, key=3)
    assert again.value != found.value
    assert case(name).log_evidence == pytest.approx(again.value, abs=4 * again.se)


def test_the_error_counts_effective_draws() -> None:
    """Every draw four times over says no more than once."""
    once = chains_of("nested_plates", 0, num_draws=300)
    assert isinstance(once.posterior, DrawsPosterior)
    samples = {n: np.repeat(v, 4, axis=1) for n, v in once.posterior.samples.items()}
    often = as_fit("often", samples, vr.Status.UNCONVERGED)
    this = target("nested_plates")
    rare, dense = (bridge(this, fit, num_draws=20_000) for fit in (once, often))
    assert dense.se == pytest.approx(rare.se, rel=0.35)  # not half of it
    assert dense.kind == "unreliable estimate (bridge sampling)"


def test_bridge_sampling_refuses() -> None:
    this, good = target("nested_plates"), chains_of("nested_plates", 0)
    laplace = vr.Laplace().fit(this)
    with pytest.raises(ValueError, match="fit: got 'laplace', expected draws from chains"):
        bridge(this, laplace)
    with pytest.raises(ValueError, match="'independent' has not the latent sites of model"):
        bridge(target("state_space"), good)
    with pytest.raises(ValueError, match="num_draws: got 5"):
        bridge(this, good, num_draws=5)
    with pytest.raises(ValueError, match="'nuts' is of other data than the target"):
        bridge(vr.Target(case("mixture").model, y=np.zeros(3)), drawn("mixture"))
    with pytest.raises(MethodFailure, match="98 draws; that takes at least 100 draws"):
        bridge(this, chains_of("nested_plates", 0, num_draws=98))
    assert isinstance(good.posterior, DrawsPosterior)
    still = {n: np.where(n == "mu", 0.0, v) for n, v in good.posterior.samples.items()}
    with pytest.raises(MethodFailure, match="their covariance is singular"):
        bridge(this, as_fit("stuck", still))


def test_draws_at_the_edge_of_the_support_are_named() -> None:
    rng = np.random.default_rng(0)
    tau = rng.gamma(3.0, 1.0, (2, 200))
    tau[0, :3] = 0.0
    fit = as_fit("edge", {"tau": tau, "mu": rng.normal(size=(2, 200))})
    with pytest.raises(MethodFailure, match="3 of 400 draws of the chains lie at an edge"):
        bridge(target("normal_precision"), fit)


def test_one_labelling_does_for_all_of_them() -> None:
    """A prior of three components is its own posterior: log p(y) = 0, from draws in one order."""

    def three() -> None:
        numpyro.sample("share", dist.Dirichlet(jnp.full(3, 5.0)))
        numpyro.sample("mu", dist.Normal(0.0, 2.0).expand([3]).to_event(1))

    groups = (vr.Exchangeable(sites={"share": 0, "mu": 0}),)
    this = vr.Target(vr.Model(function=three, name="three", exchangeable=groups))
    rng = np.random.default_rng(1)
    mu, share = rng.normal(0, 2, (2, 600, 3)), rng.dirichlet(np.full(3, 5.0), (2, 600))
    order = np.argsort(mu, axis=-1)
    samples = {
        "share": np.take_along_axis(share, order, axis=-1),
        "mu": np.take_along_axis(mu, order, axis=-1),
    }
    found = bridge(this, as_fit("three", samples))
    assert found.se < 0.1
    assert abs(found.value) < 4 * found.se  # one order alone has log(1 / 6)


def test_too_many_labellings_are_refused() -> None:
    def five() -> None:
        numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([5]).to_event(1))

    groups = (vr.Exchangeable(sites={"mu": 0}),)
    this = vr.Target(vr.Model(function=five, name="five", exchangeable=groups))
    mu = np.random.default_rng(0).normal(size=(2, 200, 5))
    with pytest.raises(MethodFailure, match="have 120 labellings"):
        bridge(this, as_fit("five", {"mu": mu}))


# -- side by side ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal_mean", "nested_plates"])
def test_all_agree_with_the_closed_form(name: str) -> None:
    """A conjugate normal mean, and a hierarchy of normals, which has a Gaussian integral."""
    this, known = target(name), case(name)
    assert known.cov is not None
    mean = np.concatenate([np.ravel(known.mean[s.name]) for s in this.latents])
    wide = GaussianPosterior(this, mean, np.linalg.cholesky(1.4 * known.cov), np.zeros(this.dim))
    weighed = wide.weighed_draws(4_000, jax.random.key(2))
    assert weighed is not None
    ratios = this.log_densities(weighed.z) - weighed.log_q
    lower, better = elbo(ratios), importance_weighted(ratios)
    # KL(q | p) of a covariance 1.4 times as large
    assert lower.value == pytest.approx(
        known.log_evidence - this.dim * (0.4 - np.log(1.4)) / 2, abs=4 * lower.se
    )
    assert lower.value < better.value < known.log_evidence + 4 * better.se
    found = {
        "importance sampling": importance_sampled(ratios),
        "bridge sampling": bridge(this, chains_of(name, 0)),
        "quadrature": quadrature(this),
    }
    for kind, evidence in found.items():
        assert kind in evidence.kind
        assert not evidence.kind.startswith("unreliable")
        assert evidence.se < 0.06
        assert abs(evidence.value - known.log_evidence) < 4 * evidence.se, kind
    assert found["quadrature"].se < found["importance sampling"].se


def test_what_each_fit_has_to_say() -> None:
    this = target("linear_regression")
    kinds = {}
    for method in (vr.Laplace(), vr.MeanField(), vr.MAP(space="unconstrained")):
        fit = method.fit(this, throw=True)
        assert fit.posterior is not None
        weighed = fit.posterior.weighed_draws(4_000, jax.random.key(0))
        log_p = None if weighed is None else this.log_densities(weighed.z)
        found = evidences(fit, this, weighed, log_p)
        kinds[method.name] = [e.kind.split("sampling, ")[0] for e in found]
        exact = case("linear_regression").log_evidence
        assert all(e.value < exact + 4 * e.se + 1e-6 for e in found if "lower" in e.kind)
    lower = ["lower bound (ELBO)", "lower bound (importance-weighted, k = 10)"]
    assert kinds["laplace"] == ["Laplace approximation", *lower, "estimate (importance "]
    assert kinds["meanfield"] == [*lower, "unreliable estimate (importance "]
    assert kinds["map"] == []
    failed = vr.Fit("none", vr.Status.FAILED)
    assert evidences(failed, this, None, None) == []


def test_what_samplers_and_labels_have_to_say() -> None:
    short = chains_of("nested_plates", 0, num_draws=60)
    (found,) = evidences(short, target("nested_plates"), None, None)
    assert np.isnan(found.value)
    assert found.kind.startswith("not available (bridge sampling: a normal over 10 coordinates")
    this = target("mixture")
    (sampled,) = evidences(drawn("mixture"), this, None, None)
    assert sampled.kind == "estimate (bridge sampling)"
    fit = vr.MeanField().fit(this, key=0)
    assert fit.posterior is not None
    weighed = fit.posterior.weighed_draws(500, jax.random.key(0))
    assert weighed is not None
    found_kinds = [e.kind for e in evidences(fit, this, weighed, this.log_densities(weighed.z))]
    assert all(kind.startswith("lower bound") for kind in found_kinds)  # weights miss a labelling


def test_the_table_compares_with_the_best() -> None:
    bound = LogEvidence(-12.0, 0.1, Bound.LOWER, "ELBO")
    laplace = LogEvidence(-11.0, 0.0, Bound.APPROXIMATION, "Laplace")
    rough = LogEvidence(-10.5, 0.3, Bound.ESTIMATE, "importance sampling, khat 0.20")
    fine = LogEvidence(-10.2, 0.04, Bound.ESTIMATE, "bridge sampling")
    wild = LogEvidence(-9.0, 0.01, Bound.UNRELIABLE, "importance sampling, khat 0.90")
    exact = LogEvidence(-10.0, 0.03, Bound.EXACT, "quadrature over mu")
    none = LogEvidence(float("nan"), float("nan"), Bound.MISSING, "bridge sampling: short")
    found = {"vb": [bound, wild], "laplace": [laplace], "nuts": [fine, none], "is": [rough]}
    table = evidence_table(found)
    assert list(table.columns) == ["method", "kind", "bound", "value", "se", "gap", "gap_se"]
    assert list(table["bound"]) == [
        "lower bound",
        "unreliable estimate",
        "approximation",
        "estimate",
        "not available",
        "estimate",
    ]
    assert list(table["kind"]) == [
        "lower bound (ELBO)",
        "unreliable estimate (importance sampling, khat 0.90)",
        "Laplace approximation",
        "estimate (bridge sampling)",
        "not available (bridge sampling: short)",
        "estimate (importance sampling, khat 0.20)",
    ]
    expected = [-1.8, 1.2, -0.8, 0.0, np.nan, -0.3]
    np.testing.assert_allclose(table["gap"], expected, rtol=1e-9, atol=1e-12)
    assert table["gap_se"][0] == pytest.approx(np.hypot(0.1, 0.04))
    assert table["gap_se"][3] == 0
    with_exact = evidence_table(found | {"quadrature": [exact]})
    assert with_exact["gap"].iloc[3] == pytest.approx(-0.2)
    bounds = evidence_table({"vb": [bound, LogEvidence(-11.5, 0.2, Bound.LOWER, "k = 10")]})
    np.testing.assert_allclose(bounds["gap"], [-0.5, 0.0])
    assert evidence_table({"laplace": [laplace]})["gap"].isna().all()
    assert evidence_table({}).empty


@pytest.mark.parametrize("bound", Bound)
@pytest.mark.parametrize("how", ["ELBO", "x, k = 10", "bridge sampling: 3 (of 4) draws (odd)"])
def test_what_files_keep_comes_back(bound: Bound, how: str) -> None:
    evidence = LogEvidence(-1.5, 0.25, bound, how)
    stored = evidence.to_dict()
    assert stored == {"value": -1.5, "se": 0.25, "kind": evidence.kind}
    assert LogEvidence.from_dict(json.loads(json.dumps(stored))) == evidence
