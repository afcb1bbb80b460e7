"""The Sinkhorn divergence of a guide from the posterior, as a loss of NumPyro's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import softmax
from numpyro.distributions import biject_to
from numpyro.infer import ELBO

from vi_recipes.algebra import transport
from vi_recipes.methods.svi.particle import particle_of

PENALTY = 0.05
"""Entropic penalty, as a share of the average cost."""

MOST_POINTS = 32
"""Points between which mass is moved, on either side, at most: the cost goes with their square."""


class TransportLoss(ELBO):  # type: ignore[misc]
    """The Sinkhorn divergence of the guide q from the posterior p: Wasserstein VI.

    The cost is the squared distance between coordinates, unconstrained and in units of the sds of
    q's draws, so that no coordinate counts for its units. The draws are two halves. Some of each
    are q, as a and b; p_a and p_b, drawn again from the halves with the weights p / q and held, are
    p. The divergence is

        (OT(a, p_b) + OT(p_a, b) - OT(a, b) - OT(p_a, p_b)) / 2,

    with independent draws and as many of them on either side of every term, as it has to be lest
    few draws pull q together: it is zero, and so is its gradient, in expectation where q is p. The
    gradient goes through a and b alone, so that none of the model's density is taken.

    References
    ----------
    Ambrogioni, L. et al. (2018). Wasserstein variational inference. NeurIPS 31. arXiv:1805.11284
    Salimans, T. et al. (2018). Improving GANs using optimal transport. ICLR. arXiv:1803.05573
    Genevay, A., Peyré, G. and Cuturi, M. (2018). Learning generative models with Sinkhorn
    divergences. AISTATS 21. arXiv:1706.00292
    """

    def loss(
        self,
        rng_key: jax.Array,
        param_map: dict[str, jax.Array],
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> jax.Array:
        """Return the divergence, whose derivative is the estimate of the gradient."""
        still = jax.lax.stop_gradient(param_map)

        def particle(params: Any, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            one = particle_of(jax.random.split(key), model, guide, (args, kwargs), params, still)
            coordinates = [
                jnp.ravel(biject_to(site["fn"].support).inv(site["value"]))
                for site in one.met.values()
                if site["type"] == "sample" and not site["is_observed"]
            ]
            return jnp.concatenate(coordinates), one.log_p - one.log_q

        draw_key, *again = jax.random.split(rng_key, 3)
        keys = jax.random.split(draw_key, self.num_particles)
        half = self.num_particles // 2
        points = min(half, MOST_POINTS)
        z, log_ratios = self.vectorize_particles_fn(lambda key: particle(still, key), keys)
        held = [
            sample[resample(key, logs, points)]
            for key, sample, logs in zip(
                again, (z[:half], z[half:]), (log_ratios[:half], log_ratios[half:]), strict=True
            )
        ]
        # the draws that were there, with their gradients
        some = jnp.concatenate([keys[:points], keys[half : half + points]])
        own, _ = self.vectorize_particles_fn(lambda key: particle(param_map, key), some)
        unit = z.std(axis=0)
        return divergence(own[:points] / unit, own[points:] / unit, held[0] / unit, held[1] / unit)


def resample(key: jax.Array, log_weights: jax.Array, count: int) -> jax.Array:
    """Return the places of ``count`` draws with these weights, by systematic resampling."""
    steps = (jnp.arange(count) + jax.random.uniform(key)) / count
    places = jnp.searchsorted(jnp.cumsum(softmax(log_weights)), steps)
    return jnp.minimum(places, len(log_weights) - 1)


def divergence(a: jax.Array, b: jax.Array, p_a: jax.Array, p_b: jax.Array) -> jax.Array:
    """Return the Sinkhorn divergence of q, with draws a and b, from p, with draws p_a and p_b.

    All are as many points, a row each.
    """

    def squares(x: jax.Array, y: jax.Array) -> jax.Array:
        return ((x[:, None, :] - y[None, :, :]) ** 2).sum(-1)

    costs = jnp.stack([squares(a, p_b), squares(p_a, b), squares(a, b), squares(p_a, p_b)])
    even = jnp.full(len(a), -jnp.log(len(a)), a.dtype)
    penalty = PENALTY * jax.lax.stop_gradient(costs[3].mean())
    each = jax.vmap(transport, (0, None, None, None))(costs, even, even, penalty)
    return jnp.asarray([0.5, 0.5, -0.5, -0.5], a.dtype) @ each
