"""Correlations of three effects of a group: what they are called, told and taken for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.formula import glmm

CORRELATIONS = {("a", "b"): 0.4, ("a", "c"): -0.3, ("b", "c"): 0.2}


def data() -> pd.DataFrame:
    """Return six rows of each of three kinds in each of four groups."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"kind": np.tile(list("abc"), 24), "g": np.repeat(list("pqrs"), 18)})
    return frame.assign(y=rng.normal(size=72))


@pytest.fixture(scope="module")
def fit() -> vr.Fit:
    """Draws, under brms's names, of which the correlations vary little around those above."""
    target = vr.Target(glmm("y ~ 1 + (0 + kind | g)", data()))
    rng = np.random.default_rng(1)
    columns = {"b_Intercept": 0.0, "sigma": 1.0}
    for kind in "abc":
        columns[f"sd_g__kind{kind}"] = 1.0
        columns |= {f"r_g[{member},kind{kind}]": 0.0 for member in "pqrs"}
    columns |= {f"cor_g__kind{i}__kind{j}": r for (i, j), r in CORRELATIONS.items()}
    draws = {name: v + 0.01 * rng.normal(size=400) for name, v in columns.items()}
    return vr.from_draws(pd.DataFrame({**draws, "chain": np.repeat([1, 2], 200)}), target)


def test_draws_of_correlations_are_the_matrix(fit: vr.Fit) -> None:
    found = fit.mean()["cor_g"]
    expected = [[1, 0.4, -0.3], [0.4, 1, 0.2], [-0.3, 0.2, 1]]
    np.testing.assert_allclose(found, expected, atol=0.005)


def test_a_table_has_every_correlation_once(fit: vr.Fit) -> None:
    tidy = vr.Comparison({"own": fit}).tidy()
    rows = tidy[tidy["term"].str.startswith("cor_g")]
    assert rows["term"].tolist() == [f"cor_g[kind[{i}], kind[{j}]]" for i, j in CORRELATIONS]
    np.testing.assert_allclose(rows["estimate"], list(CORRELATIONS.values()), atol=0.005)
    text = str(vr.Comparison({"own": fit}).table())
    assert text.count("cor") == len(CORRELATIONS)


@pytest.mark.parametrize("law", ["LKJCholesky(3, 2)", "LKJ(2, 2)", "Uniform(-1, 1)"])
def test_a_prior_of_correlations_is_of_their_matrix(law: str) -> None:
    formula = "y ~ 1 + (0 + kind | g)"
    assert "cor_g ~ dist.LKJ(3, 2.0)" in str(glmm(formula, data(), priors={"cor_g": "LKJ(3, 2)"}))
    with pytest.raises(ValueError, match=r"priors\['cor_g'\]: got a .* 3 effects: such as LKJ\(3"):
        glmm(formula, data(), priors={"cor_g": law})
