"""The arrays that a site's density is made of."""

from __future__ import annotations

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.model import site_terms


def test_parameters_of_laws_are_in_the_order_of_their_names() -> None:
    laws = {
        "normal": (dist.Normal(1.0, 2.0), [1.0, 2.0]),  # loc, scale
        "student": (dist.StudentT(4.0, 1.0, 2.0), [4.0, 1.0, 2.0]),  # df, loc, scale
        "weibull": (dist.Weibull(3.0, 2.0), [2.0, 3.0]),  # concentration is the second
        "gamma": (dist.Gamma(3.0, 2.0), [3.0, 2.0]),  # concentration, rate
        "uniform": (dist.Uniform(1.0, 5.0), [5.0, 1.0]),  # high, low
        "lognormal": (dist.LogNormal(1.0, 2.0), [1.0, 2.0, 1.0, 2.0]),  # base_dist's, then its own
    }

    def model() -> None:
        for name, (law, _) in laws.items():
            numpyro.sample(name, law)

    target = vr.Target(model)
    terms = site_terms(target, jnp.full(target.dim, 0.3), target.arrays())
    for name, (_, expected) in laws.items():
        leaves = terms[name].leaves
        assert [float(leaf) for leaf in leaves[-len(expected) :]] == expected, name
        # put together again it is the same law, with the Jacobian of its support
        rebuilt = float(terms[name].rebuild(leaves))
        assert rebuilt == pytest.approx(float(terms[name].total), rel=1e-6)
