"""EM's canon: densities written anew in NumPy, files, and maximum likelihood found by SciPy."""

from __future__ import annotations

import itertools
import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats

import vi_recipes as vr
from vi_recipes.core.content import find, import_file

NAMES = (
    "factor_analysis",
    "hmm",
    "linear_mixed",
    "linkage",
    "mixture_of_experts",
    "neyman_scott",
    "ppca",
    "times_deaths",
)


def module(name: str) -> Any:
    return import_file(find("models")[name])


@cache
def target(name: str) -> vr.Target:
    return vr.Target(vr.load_model(name))


def joint(model: vr.Model | str, values: dict[str, Any], data: dict[str, Any]) -> float:
    """Return the log joint density on the constrained scale, through ``Target``."""
    this = vr.Target(vr.load_model(model) if isinstance(model, str) else model, **data)
    return this.log_density(this.unconstrain(values), jacobian=False)


def same(data: dict[str, Any], other: dict[str, Any]) -> bool:
    return data.keys() == other.keys() and all(
        np.array_equal(data[name], other[name]) for name in data
    )


# -- what they say of themselves ----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_simulations_are_seeded(name: str) -> None:
    simulate = vr.load_model(name).simulate
    assert simulate is not None
    assert same(dict(simulate(seed=3)), dict(simulate(seed=3)))
    assert not same(dict(simulate(seed=3)), dict(simulate(seed=4)))


VARIANTS = {
    "factor_analysis:MARGINAL": {"mu", "W_diag", "W_lower", "psi"},
    "ppca:MARGINAL": {"mu", "W_diag", "W_lower", "sigma"},
    "mixture_of_experts:MARGINAL": {"V", "w", "sigma"},
    "linkage:MARGINAL": {"theta"},
    "times_deaths:MARGINAL": {"pi", "log_lam"},
    "hmm:STATES": {"pi", "A", "mu", "sigma"},
    "hmm:POISSON": {"pi", "A", "log_rate"},
    "hmm:CATEGORICAL": {"pi", "A", "logit", "rest"},
    "linear_mixed:DIAGONAL": {"beta", "sigma", "sigma_b", "b"},
    "linear_mixed:DYE": {"beta", "sigma", "sigma_b", "b"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_variants(name: str) -> None:
    this = target(name)
    assert {s.name for s in this.latents} == VARIANTS[name]
    declared = {*this.model.parameters, *this.model.latents}
    discrete = {n for n, s in this.sites.items() if s.kind == "discrete"}
    assert declared == VARIANTS[name] | discrete
    assert set(this.model.latents) <= {"z", "b"}
    assert {d for s in this.quantities for d in s.dims} <= set(this.coords)
    assert np.isfinite(this.log_density(this.start(jax.random.key(0))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linkage", "mixture_of_experts", "times_deaths"])
def test_summing_out_by_enumeration_is_summing_out_in_the_model(name: str) -> None:
    one, other = target(name), target(f"{name}:MARGINAL")
    rng = np.random.default_rng(0)
    for _ in range(3):
        z = one.start(jax.random.key(1)) + 0.3 * rng.standard_normal(one.dim)
        assert one.log_density(z) == pytest.approx(other.log_density(z), rel=1e-10)


def test_names_of_what_is_shipped() -> None:
    names = target("factor_analysis").coords["variable"].tolist()
    assert names == ["general", "picture", "blocks", "maze", "reading", "vocab"]
    assert target("factor_analysis").coords["loading"][0] == "picture.0"
    assert target("ppca").coords["variable"][3] == "petal_width"
    assert target("mixture_of_experts").coords["covariate"].tolist() == ["intercept", "NOx"]
    mixed = target("linear_mixed").coords
    assert mixed["group"][:2].tolist() == [308, 309]
    assert mixed["effect"].tolist() == ["intercept", "days"]
    assert target("linear_mixed:DYE").coords["group"].tolist() == list("ABCDEF")
    simulated = vr.Target(vr.load_model("linear_mixed"), **module("linear_mixed").simulate())
    assert simulated.coords["group"].tolist() == list(range(18))


# -- densities ------------------------------------------------------------------------------------


def loadings(values: dict[str, Any], rows: int) -> np.ndarray:
    """Return W, filled row by row below its diagonal."""
    k = len(values["W_diag"])
    W, below = np.zeros((rows, k)), iter(values["W_lower"])
    for i, j in itertools.product(range(rows), range(k)):
        W[i, j] = values["W_diag"][i] if i == j else next(below) if i > j else 0.0
    return W


def factor_values(D: int, k: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "mu": rng.standard_normal(D),
        "W_diag": rng.uniform(0.5, 2, k),
        "W_lower": rng.standard_normal(D * k - k * (k + 1) // 2),
    }


def log_prior_loadings(values: dict[str, Any], mean: Any, s: Any) -> float:
    """Return the log prior of mu and W, where ``s`` is a scale for each row."""
    k = len(values["W_diag"])
    degrees = np.arange(k, 0, -1)
    rows = [i for i in range(len(s)) for _ in range(min(i, k))]
    return float(
        stats.norm.logpdf(values["mu"], mean, 10 * s).sum()
        + stats.chi.logpdf(values["W_diag"], degrees, scale=s[:k]).sum()
        + stats.norm.logpdf(values["W_lower"], 0, s[rows]).sum()
    )


@pytest.mark.parametrize(("D", "k"), [(4, 2), (3, 1)])
def test_factor_analysis_density(D: int, k: int) -> None:
    rng = np.random.default_rng(1)
    y = rng.standard_normal((7, D)) * np.arange(1, D + 1)
    values = factor_values(D, k, rng) | {"psi": rng.uniform(0.3, 2, D)}
    z = rng.standard_normal((7, k))
    s, W = y.std(axis=0), loadings(values, D)
    prior = log_prior_loadings(values, y.mean(axis=0), s)
    prior += stats.invgamma.logpdf(values["psi"], 2, scale=0.2 * s**2).sum()
    given = stats.norm.logpdf(z).sum() + (
        stats.norm.logpdf(y, values["mu"] + z @ W.T, np.sqrt(values["psi"])).sum()
    )
    build = module("factor_analysis").build
    model = build(k)
    assert joint(model, values | {"z": z}, {"y": y}) == pytest.approx(prior + given, rel=1e-12)
    Sigma = W @ W.T + np.diag(values["psi"])
    summed = stats.multivariate_normal.logpdf(y, values["mu"], Sigma).sum()
    without = module("factor_analysis").without_scores(model)
    assert joint(without, values, {"y": y}) == pytest.approx(prior + summed, rel=1e-10)
    this = vr.Target(without, y=y)
    derived = this.constrain(this.unconstrain(values))
    np.testing.assert_allclose(derived["W"], W, rtol=1e-12)
    np.testing.assert_allclose(derived["Sigma"], Sigma, rtol=1e-12)


def test_ppca_density() -> None:
    rng = np.random.default_rng(2)
    y = rng.standard_normal((6, 4)) * np.arange(1, 5)
    values = factor_values(4, 2, rng) | {"sigma": 0.7}
    z = rng.standard_normal((6, 2))
    s, W = np.sqrt(y.var(axis=0).mean()), loadings(values, 4)
    prior = log_prior_loadings(values, y.mean(axis=0), np.full(4, s))
    prior += stats.halfnorm.logpdf(0.7, scale=s)
    given = stats.norm.logpdf(z).sum()
    given += stats.norm.logpdf(y, values["mu"] + z @ W.T, 0.7).sum()
    assert joint("ppca", values | {"z": z}, {"y": y}) == pytest.approx(prior + given, rel=1e-12)
    Sigma = W @ W.T + 0.49 * np.eye(4)
    summed = stats.multivariate_normal.logpdf(y, values["mu"], Sigma).sum()
    assert joint("ppca:MARGINAL", values, {"y": y}) == pytest.approx(prior + summed, rel=1e-10)


def test_the_order_of_variables_does_not_matter_to_the_prior_of_factors() -> None:
    """Rotated to lower triangular, independent normals have the prior's diagonal and the rest."""
    rng = np.random.default_rng(3)
    W = rng.standard_normal((20_000, 3, 2))
    first = np.sqrt(np.square(W[:, 0]).sum(axis=1))
    second = np.sqrt(
        np.square(W[:, 1]).sum(axis=1) - (W[:, 0] * W[:, 1]).sum(axis=1) ** 2 / first**2
    )
    assert stats.kstest(first, stats.chi(2).cdf).pvalue > 1e-4
    assert stats.kstest(second, stats.chi(1).cdf).pvalue > 1e-4
    assert stats.kstest((W[:, 0] * W[:, 1]).sum(axis=1) / first, "norm").pvalue > 1e-4


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_linear_mixed_density(covariance: str) -> None:
    rng = np.random.default_rng(4)
    data = module("linear_mixed").simulate(seed=1, num_groups=3, num_rows=4)
    order = rng.permutation(12)  # rows of a group need not stand together
    data = {n: v[order] if isinstance(v, np.ndarray) else v for n, v in data.items()}
    beta, sigma, sigma_b = np.array([200.0, 5.0]), 20.0, np.array([30.0, 4.0])
    b = rng.standard_normal((3, 2)) * sigma_b
    Omega = np.array([[1.0, -0.4], [-0.4, 1.0]]) if covariance == "full" else np.eye(2)
    D = sigma_b[:, None] * Omega * sigma_b
    s = data["y"].std()
    mean = data["X"] @ beta + (data["Z"] * b[data["group"]]).sum(axis=1)
    expected = (
        stats.norm.logpdf(beta, 0, 100 * s).sum()
        + stats.halfnorm.logpdf(sigma, scale=2 * s)
        + stats.halfnorm.logpdf(sigma_b, scale=s).sum()
        + stats.multivariate_normal.logpdf(b, np.zeros(2), D).sum()
        + stats.norm.logpdf(data["y"], mean, sigma).sum()
    )
    values: dict[str, Any] = {"beta": beta, "sigma": sigma, "sigma_b": sigma_b, "b": b}
    if covariance == "full":
        values["Omega"] = Omega
        expected -= np.log(2)  # a correlation, uniform from -1 to 1
    model = module("linear_mixed").build(covariance)
    assert joint(model, values, data) == pytest.approx(expected, rel=1e-12)


def test_neyman_scott_density() -> None:
    y = module("neyman_scott").simulate(seed=2, num_members=4, num_replicates=3)["y"]
    z = np.array([1.0, -2.0, 0.5, 3.0])
    expected = stats.norm.logpdf(y, z[:, None], 1.7).sum()
    assert joint("neyman_scott", {"sigma": 1.7, "z": z}, {"y": y}) == pytest.approx(expected)


def test_linkage_density() -> None:
    y = np.array([0, 0, 0, 1, 2, 3, 3])
    cells = np.array([2.3, 0.7, 0.7, 0.3]) / 4  # at 0.3
    expected = np.log(cells[y]).sum()
    assert joint("linkage", {"theta": 0.3}, {"y": y}) == pytest.approx(expected, rel=1e-12)


def log_prior_ordered(value: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> float:
    """Return the log density of an increasing vector whose log steps are normal."""
    log_steps = np.log(np.diff(value))
    return float(
        stats.norm.logpdf(np.append(value[0], log_steps), loc, scale).sum() - log_steps.sum()
    )


@pytest.mark.slow
def test_times_deaths_density() -> None:
    y = np.array([0, 3, 1, 7, 2])
    pi, log_lam = np.array([0.2, 0.5, 0.3]), np.array([-0.4, 0.3, 1.8])
    prior = stats.dirichlet.logpdf(pi, np.full(3, 2.0))
    prior += log_prior_ordered(log_lam, np.zeros(3), np.ones(3))
    each = np.log((pi * stats.poisson.pmf(y[:, None], np.exp(log_lam))).sum(axis=1))
    model = module("times_deaths").build(3)
    values = {"pi": pi, "log_lam": log_lam}
    assert joint(model, values, {"y": y}) == pytest.approx(prior + each.sum(), rel=1e-12)


def test_mixture_of_experts_density() -> None:
    rng = np.random.default_rng(5)
    K, P = 3, 2
    X = np.column_stack([np.ones(8), rng.standard_normal(8)])
    y, w, sigma = rng.standard_normal(8), rng.standard_normal((K, P)), np.array([0.5, 1.0, 2.0])
    V = rng.standard_normal((P, K))
    V -= V.mean(axis=1, keepdims=True)
    s = y.std()
    # on the plane where a row of V sums to zero it is normal in orthonormal coordinates
    basis = np.linalg.svd(np.ones((1, K)))[2][1:]
    prior = (
        stats.norm.logpdf(V @ basis.T, 0, 5).sum()
        + stats.norm.logpdf(w, 0, 10 * s).sum()
        + stats.invgamma.logpdf(sigma, 3, scale=s).sum()
    )
    gate = special.log_softmax(X @ V, axis=1)
    each = special.logsumexp(gate + stats.norm.logpdf(y[:, None], X @ w.T, sigma), axis=1)
    model, values = module("mixture_of_experts").build(K), {"V": V, "w": w, "sigma": sigma}
    data = {"y": y, "X": X}
    assert joint(model, values, data) == pytest.approx(prior + each.sum(), rel=1e-10)
    # experts have no order
    swapped = {"V": V[:, [2, 0, 1]], "w": w[[2, 0, 1]], "sigma": sigma[[2, 0, 1]]}
    assert joint(model, swapped, data) == pytest.approx(prior + each.sum(), rel=1e-10)
    assert target("mixture_of_experts").exchangeable[0].sites == {"V": 1, "w": 0, "sigma": 0}


PI, A = np.array([0.5, 0.2, 0.3]), np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4], [0.1, 0.1, 0.8]])


def over_all_paths(emitted: np.ndarray) -> float:
    """Return the log probability of a series, given that of each element by state."""
    total = 0.0
    for path in itertools.product(range(len(PI)), repeat=len(emitted)):
        chance = PI[path[0]] * np.prod([A[i, j] for i, j in itertools.pairwise(path)])
        total += chance * np.prod(emitted[range(len(emitted)), path])
    return float(np.log(total))


def hmm_case(emission: str) -> tuple[dict[str, Any], np.ndarray, dict[str, Any], float]:
    """Return values, a short series, the arguments of ``hmm`` and the log joint by hand."""
    log_prior = sum(stats.dirichlet.logpdf(p, np.full(3, 2.0)) for p in (PI, *A))
    values: dict[str, Any] = {"pi": PI, "A": A}
    if emission == "gaussian":
        y = np.array([-1.0, 0.4, 2.2, 1.9, -0.3])
        mu, sigma, s = np.array([-1.0, 0.5, 2.0]), np.array([0.5, 1.0, 0.8]), y.std()
        loc, scale = [y.mean(), np.log(s), np.log(s)], [2 * s, 1, 1]
        log_prior += log_prior_ordered(mu, np.array(loc), np.array(scale))
        log_prior += stats.invgamma.logpdf(sigma, 3, scale=s).sum()
        emitted = stats.norm.pdf(y[:, None], mu, sigma)
        return values | {"mu": mu, "sigma": sigma}, y, {}, log_prior + over_all_paths(emitted)
    if emission == "poisson":
        y, log_rate = np.array([0, 2, 9, 11, 3]), np.array([-0.5, 0.9, 2.3])
        loc, scale = [np.log(y.mean()), 0, 0], [2, 1, 1]
        log_prior += log_prior_ordered(log_rate, np.array(loc), np.array(scale))
        emitted = stats.poisson.pmf(y[:, None], np.exp(log_rate))
        return values | {"log_rate": log_rate}, y, {}, log_prior + over_all_paths(emitted)
    y, logit = np.array([0, 2, 1, 0, 2]), np.array([-1.0, 0.2, 1.5])
    first = special.expit(logit)[:, None]
    log_prior += log_prior_ordered(logit, np.zeros(3), np.array([2.0, 1, 1]))
    values["logit"] = logit
    num_symbols = 2 if emission == "binary" else 3
    if num_symbols == 2:
        y = np.minimum(y, 1)
        B = np.hstack([first, 1 - first])
    else:
        values["rest"] = rest = np.array([[0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
        B = np.hstack([first, (1 - first) * rest])
    return values, y, {"num_symbols": num_symbols}, log_prior + over_all_paths(B[:, y].T)


@pytest.mark.slow
@pytest.mark.parametrize("emission", ["gaussian", "poisson", "categorical", "binary"])
def test_hmm_density(emission: str) -> None:
    values, y, arguments, expected = hmm_case(emission)
    kind = "categorical" if emission == "binary" else emission
    model = module("hmm").hmm(3, kind, **arguments)
    assert joint(model, values, {"y": y}) == pytest.approx(expected, rel=1e-12)
    start = vr.Target(model, y=y).start(jax.random.key(0))
    assert np.isfinite(start).all()


def test_hmm_states_are_summed_out_alike() -> None:
    values, y, _, expected = hmm_case("gaussian")
    assert joint("hmm:STATES", values, {"y": y}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_draws_of_the_hidden_markov_distribution() -> None:
    """Their frequencies are the probabilities of short series, which sum to one."""
    hidden = module("hmm").HiddenMarkov
    import numpyro.distributions as dist

    rows = np.array(list(itertools.product([0, 1], repeat=4)))
    with jax.enable_x64(True):
        coin = dist.Bernoulli(jnp.array([0.1, 0.5, 0.8]))
        this = hidden(jnp.asarray(PI), jnp.asarray(A), coin, 4)
        probability = np.exp([this.log_prob(jnp.asarray(row)) for row in rows])
        draws = np.asarray(this.sample(jax.random.key(0), (100, 300)))
    assert draws.shape == (100, 300, 4)
    assert probability.sum() == pytest.approx(1, rel=1e-12)
    counts = np.bincount(draws.reshape(-1, 4) @ [8, 4, 2, 1], minlength=16)
    assert stats.chisquare(counts, 30_000 * probability).pvalue > 1e-4


# -- maximum likelihood, found here anew ----------------------------------------------------------


def shipped(name: str) -> dict[str, Any]:
    text = find("models")[name].with_name("reference.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)["em"]
    return content


def answers(references: Path, name: str, file: str = "em") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((references / f"{file}.json").read_text(encoding="utf-8"))
    return content[name]


def test_linkage_maximum_likelihood(references: Path) -> None:
    known = answers(references, "linkage")
    this = target("linkage:MARGINAL")
    counts = np.bincount(this.data["y"], minlength=4)
    assert counts.tolist() == known["y"]

    def loss(theta: float) -> float:
        return -this.log_density(this.unconstrain({"theta": theta}), jacobian=False)

    found = optimize.minimize_scalar(
        loss, bounds=(0.5, 0.8), method="bounded", options={"xatol": 1e-9}
    )
    assert found.x == pytest.approx(known["theta"], abs=1e-7)
    theta, (a, b, c, d) = known["theta"], counts
    information = a / (2 + theta) ** 2 + (b + c) / (1 - theta) ** 2 + d / theta**2
    assert information == pytest.approx(known["observed_info"], rel=1e-6)
    assert information**-0.5 == pytest.approx(known["sd"], rel=1e-6)
    iterates = [0.5]
    for _ in known["first_iterates"][1:]:
        second = a * iterates[-1] / (2 + iterates[-1])
        iterates.append((second + d) / (second + d + b + c))
    np.testing.assert_allclose(iterates, known["first_iterates"], atol=1e-8)
    mine = shipped("linkage")
    assert (mine["theta"], mine["sd"], mine["rate"]) == (theta, known["sd"], known["rate"])


def test_times_deaths_maximum_likelihood(references: Path) -> None:
    known = answers(references, "times_deaths")
    y = target("times_deaths").data["y"]
    counts = np.bincount(y)
    assert counts.tolist() == known["counts"]
    k = np.arange(len(counts))

    def loss(x: np.ndarray) -> float:
        log_pi = np.array([special.log_expit(x[0]), special.log_expit(-x[0])])
        each = special.logsumexp(log_pi + stats.poisson.logpmf(k[:, None], np.exp(x[1:])), axis=1)
        return float(-counts @ each)

    start = np.array([0.0, 0.0, 1.0])
    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4_000}
    found = optimize.minimize(loss, start, method="Nelder-Mead", options=options)
    assert -found.fun == pytest.approx(known["loglik"], abs=1e-5)
    np.testing.assert_allclose(special.expit(found.x[0]), known["weights"][0], atol=1e-5)
    np.testing.assert_allclose(np.exp(found.x[1:]), known["lam"], atol=1e-5)
    # the model's likelihood is that one
    this = target("times_deaths:MARGINAL")
    values = {"pi": np.array(known["weights"]), "log_lam": np.log(known["lam"])}
    total = this.log_likelihood(this.unconstrain(values))["y"].sum()
    assert total == pytest.approx(known["loglik"], abs=1e-5)
    mine = shipped("times_deaths")
    assert (mine["pi"], mine["lam"]) == (known["weights"], known["lam"])


def log_marginal(y: Any, X: Any, Z: Any, group: Any, beta: Any, sigma: float, D: Any) -> float:
    """Return the log-likelihood of a linear mixed model with its effects integrated out."""
    covariance = (Z @ D @ Z.T) * (group[:, None] == group) + sigma**2 * np.eye(len(y))
    return float(stats.multivariate_normal.logpdf(y, X @ beta, covariance))


def test_dyestuff_maximum_likelihood(references: Path) -> None:
    known = answers(references, "dyestuff")
    data = target("linear_mixed:DYE").data
    y = data["y"].reshape(6, 5)
    assert (data["group"].reshape(6, 5) == np.arange(6)[:, None]).all()
    # balanced one-way design: in closed form
    within = np.square(y - y.mean(axis=1, keepdims=True)).sum() / (6 * 4)
    between = 5 * np.square(y.mean(axis=1) - y.mean()).sum() / 6
    sigma, sigma_b = np.sqrt(within), np.sqrt((between - within) / 5)
    assert y.mean() == pytest.approx(known["mu"])
    assert sigma == pytest.approx(known["sigma"], abs=1e-4)
    assert sigma_b == pytest.approx(known["sigma_b"], abs=1e-4)
    rows = (data["y"], data["X"], data["Z"], data["group"])

    def loss(x: np.ndarray) -> float:
        return -log_marginal(*rows, x[:1], np.exp(x[1]), np.exp(2 * x[2:, None]))

    start = np.array([1_500.0, 4.0, 4.0])
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4_000}
    found = optimize.minimize(loss, start, method="Nelder-Mead", options=options)
    assert 2 * found.fun == pytest.approx(known["minus_2_loglik"], abs=1e-5)
    np.testing.assert_allclose(np.exp(found.x[1:]), [sigma, sigma_b], rtol=1e-5)
    mine = shipped("linear_mixed")["dyestuff"]
    assert (mine["sigma"], mine["sigma_b"]) == (known["sigma"], [known["sigma_b"]])


def test_sleepstudy_is_lme4s(references: Path) -> None:
    known = answers(references, "sleepstudy_ml_uncorr", "lme4")
    this = target("linear_mixed")
    mine = shipped("linear_mixed")["sleepstudy_diagonal"]
    assert mine["beta"] == list(known["fixef"].values())
    assert mine["log_likelihood"] == known["logLik"]
    rows = [this.data[name] for name in ("y", "X", "Z", "group")]
    D, step = np.diag(np.square(mine["sigma_b"])), 1e-3
    top = log_marginal(*rows, mine["beta"], mine["sigma"], D)
    assert top == pytest.approx(known["logLik"], abs=1e-5)
    for factor in (1 - step, 1 + step):
        assert log_marginal(*rows, mine["beta"], factor * mine["sigma"], D) < top
        for k in range(2):
            scale = np.where(np.arange(2) == k, factor, 1.0)
            assert log_marginal(*rows, mine["beta"] * scale, mine["sigma"], D) < top
            assert log_marginal(*rows, mine["beta"], mine["sigma"], D * scale**2) < top


@pytest.mark.slow
def test_neyman_scott_maximum_likelihood() -> None:
    """MAP is the joint maximum; the marginal one is found by integrating numerically."""
    this, content = module("neyman_scott"), shipped("neyman_scott")
    y = this.simulate()["y"]
    assert this.joint_mle(y) == pytest.approx(content["joint"]["sigma"], rel=1e-7)
    assert this.marginal_mle(y) == pytest.approx(content["marginal"]["sigma"], rel=1e-7)
    fit = vr.MAP().fit(vr.Target(vr.load_model("neyman_scott")), throw=True)
    assert fit.mean()["sigma"] == pytest.approx(this.joint_mle(y), rel=1e-6)
    np.testing.assert_allclose(fit.mean()["z"], y.mean(axis=1), rtol=1e-6)

    y = this.simulate(seed=1, num_members=5, num_replicates=3)["y"]
    grid = np.linspace(-12, 12, 4_001)

    def loss(log_sigma: float) -> float:
        centred = (y - y.mean(axis=1, keepdims=True))[..., None]
        each = stats.norm.logpdf(centred, grid, np.exp(log_sigma)).sum(axis=1)
        return float(-special.logsumexp(each, axis=1).sum())

    found = optimize.minimize_scalar(
        loss, bounds=(-1, 1), method="bounded", options={"xatol": 1e-9}
    )
    assert np.exp(found.x) == pytest.approx(this.marginal_mle(y), rel=1e-6)


def test_the_joint_maximum_stays_wrong_and_the_marginal_one_does_not() -> None:
    """The relative standard error of sigma is (2 N (M - 1))^(-1/2)."""
    this = module("neyman_scott")
    many = this.simulate(seed=5, num_members=200_000)["y"]
    assert this.joint_mle(many) == pytest.approx(0.5**0.5, rel=4.5 / (2 * 200_000) ** 0.5)
    assert this.marginal_mle(many) == pytest.approx(1, rel=4.5 / (2 * 200_000) ** 0.5)
    long = this.simulate(seed=5, num_members=200, num_replicates=1_000)["y"]
    assert this.joint_mle(long) == pytest.approx(this.marginal_mle(long), rel=1e-3)


@pytest.mark.slow
def test_ppca_maximum_likelihood() -> None:
    """The closed form is shipped, is stationary, and has scikit-learn's likelihood."""
    from sklearn.decomposition import PCA

    this = target("ppca:MARGINAL")
    y, content = this.data["y"], shipped("ppca")
    values = module("ppca").mle(y, 2)
    for name, value in values.items():
        np.testing.assert_allclose(value, content[name], atol=1e-7)

    def log_likelihood(z: np.ndarray) -> float:
        return float(this.log_likelihood(z)["y"].sum())

    top = this.unconstrain(values)
    best = log_likelihood(top)
    assert best == pytest.approx(content["log_likelihood"], abs=1e-4)
    with jax.enable_x64(True):
        total = lambda z: this.log_likelihood_fn(z, this.arrays())["y"].sum()  # noqa: E731
        gradient = jax.jit(jax.grad(total))
        np.testing.assert_allclose(gradient(jnp.asarray(top)), 0, atol=1e-7)
    # scikit-learn divides by n - 1: scaled by that, the same
    scaled = PCA(2).fit(y * np.sqrt(149 / 150) + y.mean(axis=0) * (1 - np.sqrt(149 / 150)))
    np.testing.assert_allclose(scaled.noise_variance_, values["sigma"] ** 2, rtol=1e-10)
    Sigma = this.constrain(top)["Sigma"]
    np.testing.assert_allclose(scaled.get_covariance(), Sigma, rtol=1e-10)


@pytest.mark.slow
def test_factor_analysis_maximum_likelihood(references: Path) -> None:
    """The rows have the covariance published, and R's answer is where the likelihood is flat."""
    known = answers(references, "factanal_ability_2")
    this = target("factor_analysis:MARGINAL")
    y = this.data["y"]
    assert len(y) == known["n_obs"]
    covariance = np.cov(y, rowvar=False)
    np.testing.assert_allclose(covariance, known["covariance"], rtol=1e-10)
    s = y.std(axis=0)
    W, psi = np.array(known["loadings_unrotated"]), np.array(list(known["uniquenesses"].values()))
    mine = shipped("factor_analysis")
    assert (mine["W"], mine["psi"]) == (W.tolist(), psi.tolist())
    W = W @ np.linalg.qr(W[:2].T)[0]
    W *= np.sign(np.diagonal(W))
    values = {
        "mu": y.mean(axis=0),
        "W_diag": np.diagonal(W) * s[:2],
        "W_lower": (W * s[:, None])[np.tril_indices(6, -1, 2)],
        "psi": psi * s**2,
    }
    z = this.unconstrain(values)
    R = np.corrcoef(y, rowvar=False)
    implied = np.array(known["LLt_plus_Psi"])
    np.testing.assert_allclose(this.constrain(z)["Sigma"] / np.outer(s, s), implied, atol=1e-7)
    saturated = stats.multivariate_normal.logpdf(y, y.mean(axis=0), R * np.outer(s, s)).sum()
    gap = 2 * (saturated - this.log_likelihood(z)["y"].sum()) / len(y)
    assert gap == pytest.approx(known["criterion"], abs=1e-5)  # the trace is 6 only nearly
    with jax.enable_x64(True):
        total = lambda z: this.log_likelihood_fn(z, this.arrays())["y"].sum()  # noqa: E731
        gradient = jax.jit(jax.grad(total))
        # factanal stops early: 0.01 of a log-likelihood over a relative change of 1
        np.testing.assert_allclose(gradient(jnp.asarray(z)), 0, atol=0.01)


def test_mixture_of_experts_maximum_likelihood() -> None:
    content, this = shipped("mixture_of_experts"), target("mixture_of_experts:MARGINAL")
    y, X = this.data["y"], this.data["X"]

    def loss(x: np.ndarray) -> float:
        gate = special.log_softmax(np.outer(X @ x[:2], [1, -1]), axis=1)
        expert = stats.norm.logpdf(y[:, None], X @ x[2:6].reshape(2, 2).T, np.exp(x[6:]))
        return float(-special.logsumexp(gate + expert, axis=1).sum())

    start = module("mixture_of_experts").init(None, y, X, 2)
    x = np.concatenate([start["V"][:, 0], start["w"].ravel(), np.log(start["sigma"])])
    found = optimize.minimize(loss, x, method="BFGS", options={"gtol": 1e-4})
    assert -found.fun == pytest.approx(content["log_likelihood"], abs=1e-4)
    slope = 0 if found.x[3] > 0 else 1  # which expert is the shipped first
    np.testing.assert_allclose(found.x[2:6].reshape(2, 2)[slope], content["w"][0], rtol=1e-2)
    values = {name: np.array(content[name]) for name in ("V", "w", "sigma")}
    total = this.log_likelihood(this.unconstrain(values))["y"].sum()
    assert total == pytest.approx(content["log_likelihood"], abs=1e-4)


@pytest.mark.slow
def test_the_published_hmm_answers(references: Path) -> None:
    raw = json.loads((references / "hmm_normal" / "reference.json").read_text(encoding="utf-8"))
    text = find("models")["hmm"].with_name("reference.json").read_text(encoding="utf-8")
    (rows,) = json.loads(text)["published"].values()
    np.testing.assert_allclose([row["mean"] for row in rows.values()], raw["mean"], rtol=1e-6)
    np.testing.assert_allclose([row["sd"] for row in rows.values()], raw["sd"], rtol=1e-6)
    load = vr.load_model("hmm").load
    assert load is not None
    data = load(references / "hmm_normal" / "data.json")
    this = vr.Target(module("hmm").hmm(2), **data)
    assert this.dim == 1 + 2 + 2 + 2
    fit = vr.MAP().fit(this, throw=True)
    # other priors than the published model's, so nearly its answers
    published = [rows["mu[0]"]["mean"], rows["mu[1]"]["mean"]]
    np.testing.assert_allclose(fit.mean()["mu"], published, atol=0.3)


# -- the methods ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_map_and_nuts_run(name: str) -> None:
    this = target(name)
    mode = vr.MAP().fit(this)
    if name == "linear_mixed":
        assert mode.status is vr.Status.DEGENERATE  # the joint density has no bound
    else:
        assert mode.has_result, mode
    options = dict(this.model.options.get("nuts", {}))
    fit = vr.NUTS(num_warmup=200, num_samples=200, num_chains=2, **options).fit(this, key=1)
    assert fit.has_result, fit
    assert np.isfinite(fit.flat(fit.mean())).all()


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
def test_scores_integrated_out_are_sampled_as_well_as_scores() -> None:
    """ppca's two forms have the same posterior of what they share."""
    means, errors = [], []
    for name in ("ppca", "ppca:MARGINAL"):
        fit = vr.NUTS(num_warmup=500, num_samples=1_000).fit(target(name), key=2, throw=True)
        means.append(fit.mean()["Sigma"])
        ess = fit.diagnostics["ess_bulk_min"]
        errors.append(fit.sd()["Sigma"] / np.sqrt(ess))
    worst = np.abs(means[0] - means[1]) / np.hypot(*errors)
    assert worst.max() < 4.5


# -- loading a user's file ------------------------------------------------------------------------


def read(name: str, path: Path, text: str) -> dict[str, Any]:
    path.write_text(text)
    load = vr.load_model(name).load
    assert load is not None
    return dict(load(path))


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    assert read("hmm", path, "t,y\n1,0.5\n2,1.5\n")["y"].tolist() == [0.5, 1.5]
    assert read("hmm:POISSON", path, "y\n3\n0\n")["y"].tolist() == [3, 0]
    assert read("factor_analysis", path, "a,b,name\n1,2,x\n3,5,y\n")["y"].tolist() == [
        [1, 2],
        [3, 5],
    ]
    assert read("ppca", path, "a,b\n1,2\n3,5\n")["y"].shape == (2, 2)
    assert read("neyman_scott", path, "id,one,two\nA,1,2\nB,3,5\n")["y"].tolist() == [
        [1, 2],
        [3, 5],
    ]
    data = read("mixture_of_experts", path, "x,y\n4,1\n5,2\n")
    assert data["y"].tolist() == [1, 2]
    assert data["X"].tolist() == [[1, 4], [1, 5]]
    data = read("linear_mixed", path, "group,y,x\nB,1,4\nA,2,5\nB,3,6\n")
    assert data["num_groups"] == 2
    assert data["group"].tolist() == [1, 0, 1]
    assert data["X"].tolist() == data["Z"].tolist() == [[1, 4], [1, 5], [1, 6]]
    data = read("linkage", path, "phenotype,count\nab,1\nAb,0\nAB,2\naB,1\n")
    assert data["y"].tolist() == [0, 0, 2, 3]
    assert read("times_deaths", path, "deaths,days\n0,2\n3,1\n")["y"].tolist() == [0, 0, 3]


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("hmm", "x\n1\n", "lacks the column or key y"),
        ("hmm", "y\na\nb\n", "y should hold numbers"),
        ("hmm", "y\n1\n", "a series of two numbers or more"),
        ("hmm:POISSON", "y\n1\n2.5\n", "whole numbers from zero for poisson"),
        ("hmm:CATEGORICAL", "y\n1\n-1\n", "whole numbers from zero for categorical"),
        ("factor_analysis", "a,name\n1,x\n", r"1 numeric column\(s\) \(it has a, name\)"),
        ("factor_analysis", "a,b\n1,2\n1,\n", r"missing values in column\(s\) b"),
        ("factor_analysis", "a,b\n1,2\n1,3\n", r"column\(s\) a hold one value only"),
        ("ppca", "name\nx\n", r"0 numeric column\(s\)"),
        ("ppca", "a,b\n1,2\n,3\n", r"missing values in column\(s\) a"),
        ("mixture_of_experts", "a,b\n1,2\n", "lacks a numeric column y"),
        ("mixture_of_experts", "y,x\n1,2\n,3\n", r"missing values in column\(s\) y"),
        ("linear_mixed", "y,x\n1,2\n", r"lacks column\(s\) group"),
        ("linear_mixed", "y,group\n1,\n", r"missing values in column\(s\) group"),
        ("linear_mixed", "y,group,x\n1,A,b\n", "column x should hold numbers"),
        ("neyman_scott", "a\n1\n", r"1 numeric column\(s\)"),
        ("neyman_scott", "a,b\n1,\n2,3\n", r"missing values in column\(s\) b"),
        ("neyman_scott", "a,b\n1,2\n", r"1 row\(s\); the model needs two"),
        ("linkage", "phenotype\nAB\n", r"lacks column\(s\) count"),
        ("linkage", "phenotype,count\nAB,1\nAb,1\n", "each of AB, Ab, aB, ab once"),
        ("linkage", "phenotype,count\nAB,1\nAb,1\naB,1\nab,x\n", "whole numbers from zero"),
        ("times_deaths", "deaths\n1\n", r"lacks column\(s\) days"),
        ("times_deaths", "deaths,days\n1,2.5\n", "whole numbers from zero"),
        ("times_deaths", "deaths,days\n1,0\n", "not only zeros"),
    ],
)
def test_files_that_will_not_do(name: str, text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    with pytest.raises(ValueError, match=match) as error:
        read(name, path, text)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("factor_analysis", {"num_factors": 6}, "y has 6 column.*expected 1 to 5"),
        ("ppca", {"num_components": 0}, "y has 4 column.*expected 1 to 3"),
        ("mixture_of_experts", {"num_experts": 1}, "expected two or more"),
        ("times_deaths", {"num_components": 1}, "expected two or more"),
        ("neyman_scott", {"y": np.ones((5, 1))}, "two or more of each"),
        ("hmm", {"num_states": 1}, "expected two or more"),
        ("hmm", {"emission": "gamma"}, "choose one of gaussian, poisson, categorical"),
        ("hmm", {"emission": "categorical"}, "need the number of symbols"),
        ("linear_mixed", {"covariance": "round"}, "choose one of full, diagonal"),
        ("linear_mixed", {"Z": np.ones((180, 1))}, "choose covariance='diagonal'"),
    ],
)
def test_arguments_that_will_not_do(name: str, data: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(vr.load_model(name), **data)


@pytest.mark.slow
def test_simulations_refuse_what_their_design_has_not() -> None:
    with pytest.raises(ValueError, match="rate: emission='gaussian' takes mu, sigma"):
        module("hmm").simulate(rate=(1.0, 2.0))
    with pytest.raises(ValueError, match="this design has 1 or 2"):
        module("factor_analysis").simulate(num_factors=3)
    with pytest.raises(ValueError, match="this design has 1 to 3"):
        module("ppca").simulate(num_components=4)
    with pytest.raises(ValueError, match="one or two of each"):
        module("linear_mixed").simulate(beta=(1.0, 2.0, 3.0))
