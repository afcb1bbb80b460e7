"""Parts of a guide written by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import vi_recipes as vr


@pytest.mark.parametrize("num_hidden", [0, 5])
def test_an_encoder_is_a_network_of_the_rows(num_hidden: int) -> None:
    inputs = np.random.default_rng(0).standard_normal((7, 3))

    def guide() -> dist.Distribution:
        return vr.normal_encoder("code", jnp.asarray(inputs), 2, num_hidden)

    seeded = handlers.seed(guide, jax.random.key(0))
    trace = handlers.trace(seeded).get_trace()
    params = {name: np.asarray(site["value"]) for name, site in trace.items()}
    rng = np.random.default_rng(1)
    params = {name: value + rng.standard_normal(value.shape) for name, value in params.items()}
    law = handlers.substitute(handlers.seed(guide, 0), params)()
    assert law.batch_shape == (7,)
    assert law.event_shape == (2,)
    rows, log_sd = inputs, np.zeros((7, 2))
    if num_hidden:
        rows = np.tanh(inputs @ params["code_hidden"] + params["code_hidden_offset"])
        log_sd = rows @ params["code_log_sd"]
    np.testing.assert_allclose(
        law.mean, rows @ params["code_loc"] + params["code_loc_offset"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        law.variance, np.exp(2 * (log_sd + params["code_log_sd_offset"])), rtol=1e-4
    )


def test_a_point_in_a_guide() -> None:
    def guide() -> None:
        vr.point_mass("w", vr.random_start((2, 3), 0.5))

    trace = handlers.trace(handlers.seed(guide, jax.random.key(0))).get_trace()
    np.testing.assert_array_equal(trace["w"]["value"], trace["w_point"]["value"])
    assert trace["w"]["fn"].event_dim == 2
    many = vr.random_start((10_000,), 0.5)(jax.random.key(1))
    assert np.std(many) == pytest.approx(0.5, rel=0.03)  # four standard errors
    assert numpyro.infer.util.log_density(guide_free, (), {}, {"w": 1.0})[0] == 0


def guide_free() -> None:
    vr.point_mass("w", jnp.asarray(1.0))
