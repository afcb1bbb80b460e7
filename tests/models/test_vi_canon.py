"""Variational inference's canon: densities written anew in NumPy, and answers in closed form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.methods import make_method


def module(name: str) -> Any:
    return import_file(find("models")[name])


def shipped(name: str) -> dict[str, Any]:
    text = find("models")[name].with_name("reference.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def joint(model: vr.Model, values: dict[str, Any], data: dict[str, Any]) -> float:
    """Return the log joint density on the constrained scale, through ``Target``."""
    this = vr.Target(model, **data)
    return this.log_density(this.unconstrain(values), jacobian=False)


# -- bivariate_normal -----------------------------------------------------------------------------


def test_bivariate_normal_density() -> None:
    mean, sds, r = np.array([0.5, 2.0]), np.array([3.0, 0.2]), -0.7
    Sigma = np.outer(sds, sds) * np.array([[1, r], [r, 1]])
    x = np.array([1.7, 2.1])
    model = module("bivariate_normal").MODEL
    density = joint(model, {"x": x}, {"mean": mean, "sds": sds, "correlation": r})
    assert density == pytest.approx(stats.multivariate_normal.logpdf(x, mean, Sigma), rel=1e-12)


def test_bivariate_normal_has_its_approximations_in_closed_form() -> None:
    this = vr.Target(vr.load_model("bivariate_normal"))
    path = find("models")["bivariate_normal"].with_name("reference.json")
    exact = vr.load_reference(path, this)
    for method in (vr.Laplace(), vr.LinearResponse()):
        fit = method.fit(this, throw=True)
        np.testing.assert_allclose(fit.mean()["x"], exact.mean()["x"], atol=1e-8)
        np.testing.assert_allclose(fit.cov(), exact.cov(), rtol=1e-6)
    fit = vr.MeanField().fit(this, throw=True)
    np.testing.assert_allclose(fit.mean()["x"], [1, -1], atol=1e-8)
    np.testing.assert_allclose(fit.sd()["x"], [0.6, 0.3], rtol=1e-6)  # sd_i (1 - 0.8^2)^(1/2)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(0.5 * np.log(1 - 0.8**2), abs=1e-8)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"correlation": 1.0}, "correlation=1.0: expected a number between -1 and 1"),
        ({"mean": [1.0, 2.0, 3.0]}, "expected two numbers in each"),
    ],
)
def test_bivariate_normal_refuses(data: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(vr.load_model("bivariate_normal"), **data)


# -- bayesian_neural_network ----------------------------------------------------------------------


def network(values: dict[str, Any], X: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the function, unit by unit and covariate by covariate."""
    total = np.full(len(at), values["b"])
    for j in range(len(values["v"])):
        inner = np.full(len(at), values["a"][j])
        for p in range(X.shape[1]):
            inner += values["w"][p, j] * (at[:, p] - X[:, p].mean()) / X[:, p].std()
        total += values["v"][j] * np.tanh(inner)
    return total


def test_bayesian_neural_network_density() -> None:
    rng = np.random.default_rng(1)
    X, points = rng.normal(3, 2, (9, 2)), rng.normal(3, 2, (4, 2))
    y = rng.normal(5, 3, 9)
    values = {
        "w": rng.standard_normal((2, 3)),
        "a": rng.standard_normal(3),
        "v": rng.standard_normal(3),
        "b": 4.2,
        "sigma": 1.3,
    }
    s = y.std()
    expected = (
        stats.norm.logpdf(values["w"], 0, 2).sum()
        + stats.norm.logpdf(values["a"], 0, 2).sum()
        + stats.norm.logpdf(values["v"], 0, 2 * s / np.sqrt(3)).sum()
        + stats.norm.logpdf(4.2, y.mean(), s)
        + stats.halfnorm.logpdf(1.3, scale=s)
        + stats.norm.logpdf(y, network(values, X, X), 1.3).sum()
    )
    this = vr.Target(module("bayesian_neural_network").build(3), X=X, y=y, points=points)
    z = this.unconstrain(values)
    assert this.log_density(z, jacobian=False) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(this.constrain(z)["f"], network(values, X, points), rtol=1e-12)
    # units that change places, and one that changes its sign, leave all of this as it is
    sign = np.array([1.0, -1.0, 1.0])
    other = values | {name: (values[name] * sign)[..., [2, 0, 1]] for name in ("w", "a", "v")}
    z = this.unconstrain(other)
    assert this.log_density(z, jacobian=False) == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(this.constrain(z)["f"], network(values, X, points), rtol=1e-12)


@pytest.mark.slow
def test_svi_with_the_model_s_options_converges_to_the_function_of_nuts() -> None:
    """A long run of NUTS is in reference.json: means, and sds but in the gap, where f is free."""
    target = vr.Target(vr.load_model("bayesian_neural_network"))
    fit = make_method("svi", target).fit(target, key=1)
    assert fit.status is vr.Status.OK
    known = shipped("bayesian_neural_network")["parameters"]
    mean, sd = (np.array([known[f"f[{k}]"][what] for k in range(7)]) for what in ("mean", "sd"))
    assert (np.abs(fit.mean()["f"] - mean) < 0.35 * sd).all()
    inside = np.arange(7) != 3
    np.testing.assert_allclose(fit.sd()["f"][inside], sd[inside], rtol=0.25)
    assert abs(fit.mean()["sigma"] - known["sigma"]["mean"]) < 0.35 * known["sigma"]["sd"]


def test_a_network_of_the_diabetes_data(tmp_path: Path) -> None:
    from sklearn.datasets import load_diabetes

    frame = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "y"})
    frame.to_csv(tmp_path / "diabetes.csv", index=False)
    model = vr.load_model("bayesian_neural_network")
    assert model.load is not None
    data = model.load(tmp_path / "diabetes.csv")
    this = vr.Target(model, **data)
    assert this.sites["w"].shape == (10, 4)
    assert this.sites["f"].shape == (7,)
    np.testing.assert_array_equal(this.data["y"], frame["y"])
    ends = frame.loc[[frame["y"].idxmin(), frame["y"].idxmax()]].drop(columns="y")
    np.testing.assert_array_equal(data["points"][[0, -1]], ends)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x\n1\n2\n", "needs y and a covariate"),
        ("y,x\n1,\n2,3\n", r"missing values in column\(s\) x"),
        ("y,x\n1,2\n2,2\n", r"column\(s\) x hold one value only"),
    ],
)
def test_files_that_are_no_regression(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        module("bayesian_neural_network").load(path)


def test_a_network_refuses_what_does_not_fit() -> None:
    model = vr.load_model("bayesian_neural_network")
    with pytest.raises(ValueError, match="num_hidden=0"):
        vr.Target(model, num_hidden=0)
    with pytest.raises(ValueError, match=r"expected \(N, P\), \(N,\) and \(M, P\)"):
        vr.Target(model, X=np.ones((3, 1)), y=np.ones(4), points=np.ones((2, 1)))


# -- vae ------------------------------------------------------------------------------------------


def decoded(values: dict[str, Any]) -> np.ndarray:
    """Return the decoder's output, by what sites there are."""
    h = values["z"]
    if "V" in values:
        h = np.tanh(values["c"] + h @ values["V"])
    eta: np.ndarray = values["b"] + h @ values["W"]
    return eta


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("num_hidden", [0, 3])
def test_vae_density(num_hidden: int, likelihood: str) -> None:
    rng = np.random.default_rng(2)
    k, D, N = 2, 4, 6
    y = rng.standard_normal((N, D)) if likelihood == "gaussian" else rng.integers(0, 2, (N, D))
    values: dict[str, Any] = {"z": rng.standard_normal((N, k)), "b": rng.standard_normal(D)}
    expected = stats.norm.logpdf(values["z"]).sum()
    if num_hidden:
        values["V"], values["c"] = rng.standard_normal((k, num_hidden)), rng.standard_normal(3)
        expected += stats.norm.logpdf(values["V"]).sum() + stats.norm.logpdf(values["c"]).sum()
    values["W"] = rng.standard_normal((num_hidden or k, D))
    eta = decoded(values)
    if likelihood == "gaussian":
        values["sigma"], s = 0.7, np.sqrt(y.var(axis=0).mean())
        expected += stats.norm.logpdf(values["W"], 0, s).sum()
        expected += stats.norm.logpdf(values["b"], y.mean(axis=0), 10 * s).sum()
        expected += stats.halfnorm.logpdf(0.7, scale=s) + stats.norm.logpdf(y, eta, 0.7).sum()
    else:
        expected += stats.norm.logpdf(values["W"], 0, 2).sum()
        expected += stats.norm.logpdf(values["b"], 0, 3).sum()
        expected += stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-eta))).sum()
    model = module("vae").build(k, num_hidden, likelihood)
    assert joint(model, values, {"y": y}) == pytest.approx(expected, rel=1e-12)


def test_the_linear_optimum_is_that_of_principal_components() -> None:
    from sklearn.decomposition import PCA

    y = module("vae").LINEAR.data()["y"]
    optimum = module("vae").linear_optimum(y)
    N, content = len(y), shipped("vae")["linear"]
    assert optimum["log_likelihood"] == pytest.approx(content["log_likelihood"], rel=1e-7)
    assert optimum["sigma"] == pytest.approx(content["sigma"], rel=1e-6)
    # scikit-learn divides by n - 1
    scaled = PCA(2).fit((y - y.mean(axis=0)) * np.sqrt((N - 1) / N))
    Sigma = optimum["W"].T @ optimum["W"] + optimum["sigma"] ** 2 * np.eye(64)
    np.testing.assert_allclose(scaled.get_covariance(), Sigma, atol=1e-10)
    density = stats.multivariate_normal.logpdf(y, optimum["b"], Sigma).sum()
    assert optimum["log_likelihood"] == pytest.approx(density, rel=1e-8)


@pytest.mark.slow
def test_a_linear_vae_reaches_the_likelihood_of_principal_components() -> None:
    """Its ELBO does too: with W of orthogonal rows a mean-field encoder is exact."""
    data = module("vae").simulate(num_columns=5, num_hidden=0, likelihood="gaussian")
    y, N = data["y"], len(data["y"])
    optimum = module("vae").linear_optimum(y)["log_likelihood"] / N
    this = vr.Target(module("vae").LINEAR, **data)
    guide = module("vae").make_guide(2, 0, "gaussian")
    fit = vr.SVI(guide=guide, num_steps=4_000).fit(this, key=0, throw=True)
    W, b, sigma = (fit.mean()[name] for name in ("W", "b", "sigma"))
    Sigma = W.T @ W + sigma**2 * np.eye(5)
    reached = stats.multivariate_normal.logpdf(y, b, Sigma).mean()
    assert reached == pytest.approx(optimum, abs=1e-3)
    s = np.sqrt(y.var(axis=0).mean())
    log_prior = (
        stats.norm.logpdf(W, 0, s).sum()
        + stats.norm.logpdf(b, y.mean(axis=0), 10 * s).sum()
        + stats.halfnorm.logpdf(sigma, scale=s)
    )
    elbo, error = fit.diagnostics["elbo"] - log_prior, fit.diagnostics["elbo_se"]
    assert error < 0.2e-3 * N
    assert elbo / N == pytest.approx(optimum, abs=1e-3 + 4 * error / N)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("num_hidden", [0, 3])
def test_the_encoder_follows_the_model_it_is_made_for(num_hidden: int, likelihood: str) -> None:
    choices: dict[str, Any] = {"num_hidden": num_hidden, "likelihood": likelihood}
    data = module("vae").simulate(num_rows=8, num_columns=4, **choices)
    this = vr.Target(module("vae").build(**choices), **data)
    guide = module("vae").make_guide(**choices)
    trace = handlers.trace(handlers.seed(guide, 0)).get_trace(jnp.asarray(data["y"]))
    sites = {n: site for n, site in trace.items() if site["type"] == "sample"}
    assert {n: site["value"].shape for n, site in sites.items()} == {
        site.name: site.shape for site in this.latents
    }
    assert isinstance(sites["W"]["fn"], dist.Delta)
    assert isinstance(sites["z"]["fn"].base_dist, dist.Normal)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\n1\n", r"1 numeric column\(s\)"),
        ("a,b\n1,\n0,1\n", r"missing values in column\(s\) b"),
        ("a,b\n1,2\n", "expected zeros and ones"),
    ],
)
def test_files_that_are_not_to_be_encoded(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        module("vae").load(path)
    if "2" in text:
        assert module("vae").LINEAR.load(path)["y"].tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"num_latents": 64}, "num_latents=64: y has 64 column"),
        ({"num_hidden": -1}, "expected 0, for a linear decoder, or more"),
        ({"likelihood": "poisson"}, "choose one of bernoulli, gaussian"),
    ],
)
def test_vae_refuses(data: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(vr.load_model("vae"), **data)


def test_the_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = module("vae").digits()
    np.testing.assert_array_equal(pixels, load_digits().data[:500])
    np.testing.assert_array_equal(labels, load_digits().target[:500])
    np.testing.assert_array_equal(vr.load_model("vae").data()["y"], pixels >= 8)  # type: ignore[misc]


# -- deep_latent_gaussian -------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_deep_latent_gaussian_density(likelihood: str) -> None:
    rng = np.random.default_rng(3)
    N, D, lower, upper = 6, 4, 3, 2
    y = rng.standard_normal((N, D)) if likelihood == "gaussian" else rng.integers(0, 2, (N, D))
    values: dict[str, Any] = {
        "A": rng.standard_normal((upper, lower)),
        "W": rng.standard_normal((lower, D)),
        "b": rng.standard_normal(D),
        "z2": rng.standard_normal((N, upper)),
        "z1": rng.standard_normal((N, lower)),
    }
    eta = values["b"] + np.tanh(values["z1"]) @ values["W"]
    expected = (
        stats.norm.logpdf(values["A"]).sum()
        + stats.norm.logpdf(values["z2"]).sum()
        + stats.norm.logpdf(values["z1"], np.tanh(values["z2"]) @ values["A"]).sum()
    )
    if likelihood == "gaussian":
        values["sigma"], s = 0.7, np.sqrt(y.var(axis=0).mean())
        expected += stats.norm.logpdf(values["W"], 0, s).sum()
        expected += stats.norm.logpdf(values["b"], y.mean(axis=0), 10 * s).sum()
        expected += stats.halfnorm.logpdf(0.7, scale=s) + stats.norm.logpdf(y, eta, 0.7).sum()
    else:
        expected += stats.norm.logpdf(values["W"], 0, 2).sum()
        expected += stats.norm.logpdf(values["b"], 0, 3).sum()
        expected += stats.bernoulli.logpmf(y, 1 / (1 + np.exp(-eta))).sum()
    model = module("deep_latent_gaussian").build(lower, upper, "tanh", likelihood)
    assert joint(model, values, {"y": y}) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_a_deep_linear_model_reaches_the_likelihood_of_principal_components() -> None:
    this = module("deep_latent_gaussian")
    choices = {"num_lower": 2, "num_upper": 1, "activation": "identity", "likelihood": "gaussian"}
    data = this.simulate(num_columns=5, **choices)
    y = data["y"]
    optimum = module("vae").linear_optimum(y, 2)["log_likelihood"] / len(y)
    target = vr.Target(this.build(**choices), **data)
    guide = this.make_guide(**choices)
    fit = vr.SVI(guide=guide, num_steps=6_000).fit(target, key=0, throw=True)
    A, W, b, sigma = (fit.mean()[name] for name in ("A", "W", "b", "sigma"))
    Sigma = W.T @ (A.T @ A + np.eye(2)) @ W + sigma**2 * np.eye(5)
    reached = stats.multivariate_normal.logpdf(y, b, Sigma).mean()
    assert reached == pytest.approx(optimum, abs=1e-3)


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
def test_two_layers_converge_with_their_own_guide_to_just_below_the_likelihood() -> None:
    target = vr.Target(vr.load_model("deep_latent_gaussian"))
    method = make_method("svi", target)
    assert method.options()["guide"] == "amortised"
    # a quarter of its steps is enough for this key, if not for every one
    fit = replace(method, num_steps=40_000).fit(target, key=0)
    assert fit.status is vr.Status.OK, fit.message
    A, W, b = (np.asarray(fit.mean()[name]) for name in ("A", "W", "b"))
    prior = stats.norm.logpdf(A).sum() + stats.norm.logpdf(W, 0, 2).sum()
    prior += stats.norm.logpdf(b, 0, 3).sum()
    y = np.asarray(target.data["y"])
    rng = np.random.default_rng(0)
    z1 = np.tanh(rng.standard_normal((40_000, 2))) @ A + rng.standard_normal((40_000, 4))
    eta = b + np.tanh(z1) @ W
    at_draws = y @ eta.T - np.logaddexp(0, eta).sum(axis=1)  # rows by draws of the prior
    log_p = (logsumexp(at_draws, axis=1) - np.log(40_000)).sum()
    gap = log_p - (fit.diagnostics["elbo"] - prior)
    # the mean of so many draws is off by a few tenths in all; normal q(z) leave some of each row
    assert 0 < gap / len(y) < 0.5


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_recognition_model_has_the_sites_of_its_model(activation: str, likelihood: str) -> None:
    choices: dict[str, Any] = {"activation": activation, "likelihood": likelihood}
    this = module("deep_latent_gaussian")
    data = this.simulate(num_rows=8, num_columns=4, **choices)
    target = vr.Target(this.build(**choices), **data)
    seeded = handlers.seed(this.make_guide(**choices), 0)
    trace = handlers.trace(seeded).get_trace(jnp.asarray(data["y"]))
    shapes = {n: site["value"].shape for n, site in trace.items() if site["type"] == "sample"}
    assert shapes == {site.name: site.shape for site in target.latents}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"num_upper": 0}, "expected one or more in each layer"),
        ({"activation": "relu"}, "choose one of tanh, identity"),
        ({"likelihood": "poisson"}, "choose one of bernoulli, gaussian"),
    ],
)
def test_deep_latent_gaussian_refuses(data: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(vr.load_model("deep_latent_gaussian"), **data)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a\nx\n", r"0 numeric column\(s\)"),
        ("a,b\n1,\n0,1\n", r"missing values in column\(s\) b"),
        ("a,b\n1,2\n", "expected zeros and ones"),
    ],
)
def test_files_that_are_not_for_two_layers(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=match):
        module("deep_latent_gaussian").load(path)
