"""The arrays that a site's density is made of."""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
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


class Shifted(dist.Distribution):  # type: ignore[misc]
    """A unit normal law as users write one: nothing says which of its fields are arrays."""

    support = dist.constraints.real
    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, middle: jax.Array) -> None:
        self.middle = middle
        super().__init__(batch_shape=jnp.shape(middle))

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the log density, but for its constant."""
        return -((value - self.middle) ** 2) / 2


def test_a_law_that_does_not_name_its_fields_is_taken_whole() -> None:
    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", Shifted(jnp.full(len(y), 1.0) * mu), obs=y)

    y = np.array([0.2, 1.4, -0.6])
    fit = vr.MeanField().fit(vr.Target(model, y=y))
    precision = 0.25 + len(y)
    assert fit.mean()["mu"] == pytest.approx(y.sum() / precision)
    assert fit.sd()["mu"] == pytest.approx(precision**-0.5, rel=1e-4)
