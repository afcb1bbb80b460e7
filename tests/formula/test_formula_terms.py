"""Every kind of term that docs/formulas.md names, against columns made by other means."""

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import BSpline

import vi_recipes as vr

RNG = np.random.default_rng(11)
ROWS = 60
FRAME = pd.DataFrame(
    {
        "y": RNG.normal(size=ROWS),
        "x": RNG.uniform(0.5, 3.0, ROWS),
        "z": RNG.uniform(1.0, 2.0, ROWS),
        "kind": np.resize(list("pqr"), ROWS),
        "level": np.resize([1, 2, 5, 7], ROWS),
        "other name": RNG.normal(size=ROWS),
        "g": np.resize(list("abcde"), ROWS),
    }
)
X, Z = FRAME["x"].to_numpy(), FRAME["z"].to_numpy()
ONE = np.ones(ROWS)
LEVEL = (FRAME["level"].to_numpy()[:, None] == [1, 2, 5, 7]).astype(float)
KIND = (FRAME["kind"].to_numpy()[:, None] == list("pqr")).astype(float)


def spline(x, num_inner):
    """Return the cubic B-splines with inner knots at quantiles."""
    inner = np.quantile(x, np.arange(1, num_inner + 1) / (num_inner + 1))
    knots = np.r_[[x.min()] * 4, inner, [x.max()] * 4]
    return BSpline.design_matrix(x, knots, 3).toarray()


TERMS = {
    "x": X[:, None],
    "`other name`": FRAME[["other name"]].to_numpy(),
    "log(x)": np.log(X)[:, None],
    "np.log(x)": np.log(X)[:, None],
    "{x**2}": X[:, None] ** 2,
    "I(x**2)": X[:, None] ** 2,
    "{x / z}": (X / Z)[:, None],
    "scale(x)": ((X - X.mean()) / X.std())[:, None],
    "center(x)": (X - X.mean())[:, None],
    "poly(x, 2)": np.column_stack([X, X**2]),
    "bs(x, df=5)": spline(X, 2),
    "kind": KIND,
    "C(level)": LEVEL,
    "C(level, Sum)": LEVEL,
    "C(level, Helmert)": LEVEL,
    "C(level, Polynomial)": LEVEL,
    "C(level, Treatment(5))": LEVEL,
    "x * kind": np.column_stack([X, KIND, X[:, None] * KIND]),
    "x:z": (X * Z)[:, None],
    "(x + z)**2": np.column_stack([X, Z, X * Z]),
    "log(x) * kind": np.column_stack([np.log(X), KIND, np.log(X)[:, None] * KIND]),
    "np.log(x):C(level, Sum)": np.log(X)[:, None] * LEVEL,
    "kind:C(level)": np.einsum("ia,ib->iab", KIND, LEVEL).reshape(ROWS, -1),
}


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def projection(columns):
    """Return the projection on what columns and an intercept span."""
    left, sizes, _ = np.linalg.svd(np.column_stack([ONE, columns]), full_matrices=False)
    left = left[:, sizes > 1e-9 * sizes[0]]
    return left @ left.T


@pytest.mark.parametrize("term", TERMS)
def test_a_term_spans_what_it_says(term):
    model = vr.glmm(f"y ~ {term} + (1 | g)", FRAME)
    design = model.predictors[0].design.matrix
    np.testing.assert_allclose(projection(design), projection(TERMS[term]), atol=1e-9)


@pytest.mark.parametrize("term", ["x", "poly(x, 2)", "bs(x, df=5)", "{x**2}", "C(level, Sum)"])
def test_a_slope_by_group_takes_every_kind_of_term(term):
    model = vr.glmm(f"y ~ {term} + (0 + {term} || g)", FRAME)
    target = vr.Target(model)
    slopes = np.reshape(target.data["Z_g"], (ROWS, -1))
    np.testing.assert_allclose(projection(slopes), projection(TERMS[term]), atol=1e-9)
    assert np.isfinite(target.log_density(np.zeros(target.dim)))


def test_contrasts_are_those_of_their_name():
    def means(coding):
        design = vr.glmm(f"y ~ C(level, {coding})", FRAME).predictors[0].design.matrix
        return np.array([design[FRAME["level"] == level][0] for level in (1, 2, 5, 7)])

    np.testing.assert_allclose(means("Sum").sum(axis=0), 0.0, atol=1e-12)
    helmert = [[-1, -1, -1], [1, -1, -1], [0, 2, -1], [0, 0, 3]]
    np.testing.assert_allclose(means("Helmert"), helmert, atol=1e-12)
    # R's contr.poly(4)
    root = 1 / np.sqrt(20)
    straight, bent = np.array([-3, -1, 1, 3]) * root, np.array([1, -1, -1, 1]) / 2
    turned = np.array([-1, 3, -3, 1]) * root
    np.testing.assert_allclose(means("Polynomial"), np.c_[straight, bent, turned], atol=1e-12)
    treated = means("Treatment(5)")
    np.testing.assert_allclose(treated[2], 0.0, atol=1e-12)
    np.testing.assert_allclose(treated.sum(axis=0), 1.0, atol=1e-12)


@pytest.mark.parametrize("term", TERMS)
def test_what_a_term_learned_from_the_data_stays_at_new_data(term):
    """Ten rows have the columns that they have among all."""
    model = vr.glmm(f"y ~ {term} + (1 | g)", FRAME, priors="flat")
    target = vr.Target(model)
    fit = vr.Laplace().fit(target) if term in ("poly(x, 2)", "bs(x, df=5)") else None
    design = model.predictors[0].design
    rows = FRAME.iloc[5:15].reset_index(drop=True)
    np.testing.assert_allclose(design.at(rows)[0], design.matrix[5:15], atol=1e-12)
    if fit is not None and fit.has_result:
        at_all = vr.predict(fit, target, FRAME, kind="linear").mean
        at_some = vr.predict(fit, target, rows, kind="linear").mean
        np.testing.assert_allclose(at_some, at_all[5:15], atol=1e-8)


@pytest.mark.parametrize("slope", ["x-1", "x - 1", "-1 + x", "0+x", "x + 0"])
def test_a_slope_alone_stands_beside_an_intercept(slope):
    model = vr.glmm(f"y ~ (1|g) + ({slope}|g)", FRAME)
    assert model.latents == ("u_g", "u_g_x")
    assert not any(name.startswith("cor_") for name in model.parameters)


@pytest.mark.parametrize(
    ("family", "here"),
    [("normal", "gaussian"), ("ordinal", "cumulative"), ("ZINB", "zero_inflated_negbinomial")],
)
def test_a_family_by_another_name_is_told_its_name_here(family, here):
    with pytest.raises(ValueError, match=f"called '{here}' here"):
        vr.glmm("y ~ x", FRAME, family=family)


def test_counts_of_successes_are_told_how_trials_are_written():
    frame = FRAME.assign(k=np.arange(ROWS) % 4)
    with pytest.raises(ValueError, match=r"successes among n trials are p\(y, n\)"):
        vr.glmm("k ~ x", frame, family="binomial")
    with pytest.raises(ValueError, match="family 'categorical'"):
        vr.glmm("kind ~ x", frame, family="multinomial")
