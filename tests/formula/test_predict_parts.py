"""Predictions of families with formulas of their own parameters, at draws of any numbers."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit

import vi_recipes as vr

RNG = np.random.default_rng(12)
ROWS, DRAWS = 24, 30
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(size=ROWS),
        "z": RNG.normal(size=ROWS),
        "t": RNG.uniform(1.0, 3.0, ROWS),
        "a": np.resize(["k", "l", "m"], ROWS),
        "count": RNG.poisson(2.0, ROWS),
        "positive": RNG.gamma(2.0, size=ROWS),
        "share": RNG.beta(2.0, 3.0, ROWS),
        "real": RNG.normal(size=ROWS),
    }
)
NEW = pd.DataFrame(
    {"x": [0.5, -1.0, 0.2], "z": [0.3, 0.0, -2.0], "t": [1.0, 2.5, 0.4], "a": ["m", "k", "l"]}
)


def predicted(formulas, family, kind="mean", groups="known"):
    """Return predictions at draws that are made up, and these by site."""
    target = vr.Target(vr.glmm(formulas, FRAME, family))
    drawn = {s.name: RNG.uniform(0.1, 0.9, (2, DRAWS // 2, *s.shape)) for s in target.latents}
    fit = vr.from_draws(drawn, target)
    made = vr.predict(fit, target, NEW, kind, groups).draws.reshape(DRAWS, len(NEW))
    return made, {name: v.reshape(DRAWS, *v.shape[2:]) for name, v in drawn.items()}


def parts(draws, ending="", column="x", effects="", known=True):
    """Return a linear predictor by hand."""
    eta = draws[f"Intercept{ending}"][:, None] + draws[f"beta{ending}"] * NEW[column].to_numpy()
    return eta + draws[effects][:, [2, 0, 1]] if effects and known else eta


@pytest.mark.parametrize("groups", ["known", "population"])
@pytest.mark.parametrize("family", ["zero_inflated", "hurdle"])
@pytest.mark.parametrize("base", ["poisson", "negbinomial"])
def test_counts_with_zeros_of_their_own(family, base, groups):
    formulas = ["count ~ x + offset(log(t))", "zero ~ z + (1 | a)"]
    formulas += ["shape ~ x"] if base == "negbinomial" else []
    made, draws = predicted(formulas, f"{family}_{base}", groups=groups)
    mu = np.exp(parts(draws) + np.log(NEW["t"].to_numpy()))
    zero = expit(parts(draws, "_zero", "z", "u_a_zero", groups == "known"))
    if base == "negbinomial":
        shape = np.exp(parts(draws, "_shape"))
        none = stats.nbinom(shape, shape / (shape + mu)).pmf(0)
    else:
        none = stats.poisson(mu).pmf(0)
    expected = (1 - zero) * mu / (1 if family == "zero_inflated" else 1 - none)
    np.testing.assert_allclose(made, expected, rtol=1e-6)


def test_means_do_not_follow_scales():
    formulas = ["real ~ x + (1 | a)", "sigma ~ z + (1 | a)"]
    made, draws = predicted(formulas, "gaussian")
    np.testing.assert_allclose(made, parts(draws, effects="u_a"), rtol=1e-6)
    made, draws = predicted(["positive ~ x", "shape ~ z"], "gamma")
    np.testing.assert_allclose(made, np.exp(parts(draws)), rtol=1e-6)
    made, draws = predicted(["share ~ x", "phi ~ z"], "beta")
    np.testing.assert_allclose(made, expit(parts(draws)), rtol=1e-6)


def test_responses_have_the_spread_of_their_row():
    target = vr.Target(vr.glmm(["real ~ x", "sigma ~ z + (1 | a)"], FRAME))
    one = {s.name: np.full((1, 4_000, *s.shape), 0.3) for s in target.latents}
    one["u_a_sigma"] = one["u_a_sigma"] + np.array([0.0, 0.4, -0.5])
    fit = vr.from_draws(one, target)
    drawn = vr.predict(fit, target, NEW, "response").draws[0]
    sigma = np.exp(0.3 + 0.3 * NEW["z"].to_numpy() + 0.3 + np.array([-0.5, 0.0, 0.4]))
    np.testing.assert_allclose(drawn.std(axis=0), sigma, rtol=4 / np.sqrt(2 * 4_000))
    np.testing.assert_allclose(
        drawn.mean(axis=0), 0.3 + 0.3 * NEW["x"], atol=4 * sigma.max() / np.sqrt(4_000)
    )


def test_nested_groups_of_which_one_is_known():
    """A known site with a new plot has the effect of the site, and a plot of its population."""
    frame = FRAME.assign(plot=np.repeat([1, 2], ROWS // 2))
    target = vr.Target(vr.glmm("real ~ x + (1 | a/plot)", frame))
    number = 4_000
    drawn = {s.name: np.full((1, number, *s.shape), 0.3) for s in target.latents}
    drawn["u_a"] = drawn["u_a"] + np.array([0.0, 1.0, 2.0])
    drawn["sd_a"], drawn["sd_a_plot"] = np.full((1, number), 0.7), np.full((1, number), 0.2)
    fit = vr.from_draws(drawn, target)
    new = {"x": np.zeros(5), "a": ["l", "l", "new", "l", None], "plot": [2, 9, 2, None, 2]}
    made = vr.predict(fit, target, new, "linear").draws[0]
    mean = np.array([0.3 + 1.3 + 0.3, 0.3 + 1.3, 0.3, 0.3 + 1.3, 0.3])
    sd = np.sqrt([0.0, 0.04, 0.49 + 0.04, 0.04, 0.49 + 0.04])
    np.testing.assert_array_less(abs(made.mean(axis=0) - mean), 4 * sd / number**0.5 + 1e-9)
    np.testing.assert_allclose(made.std(axis=0), sd, rtol=4 / np.sqrt(2 * number), atol=1e-9)
