"""What SVI maximises: the ELBO by either gradient, Renyi bounds and importance-weighted bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import ELBO, RenyiELBO, Trace_ELBO
from numpyro.infer.util import log_density

DEFAULT_ALPHA = 0.5


class ScoreELBO(ELBO):  # type: ignore[misc]
    """The ELBO with the score-function gradient and a leave-one-out baseline.

    The gradient is E[(f - b) grad log q] with f = log p - log q, where the baseline b of a draw is
    the mean of f over the other draws: independent of the draw, it leaves the gradient unbiased.
    Gradients of log p are not taken, but where a site of the guide is a point mass.

    References
    ----------
    Ranganath, R., Gerrish, S. and Blei, D. (2014). Black box variational inference. AISTATS 17.
    Kool, W., van Hoof, H. and Welling, M. (2019). Buy 4 REINFORCE samples, get a baseline for
    free! ICLR workshop.
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
        """Return minus the ELBO, whose derivative is the estimate of the gradient."""

        def particle(key: jax.Array) -> tuple[jax.Array, jax.Array]:
            model_key, guide_key = jax.random.split(key)
            seeded = handlers.seed(guide, guide_key)
            first = handlers.trace(handlers.substitute(seeded, data=param_map))
            # A point follows from the parameters and the other draws: it is not held.
            held = {
                name: jax.lax.stop_gradient(site["value"])
                for name, site in first.get_trace(*args, **kwargs).items()
                if site["type"] == "sample" and not _is_point(site["fn"])
            }
            log_q, drawn = log_density(seeded, args, kwargs, {**param_map, **held})
            replayed = handlers.replay(handlers.seed(model, model_key), drawn)
            log_p, _ = log_density(replayed, args, kwargs, param_map)
            return log_p, log_q

        keys = jax.random.split(rng_key, self.num_particles)
        log_p, log_q = self.vectorize_particles_fn(particle, keys)
        gain = log_p - jax.lax.stop_gradient(log_q)
        fixed = jax.lax.stop_gradient(gain)
        baseline = (fixed.sum() - fixed) / (self.num_particles - 1)
        surrogate = jnp.mean(log_q * (fixed - baseline))
        return -(jnp.mean(gain) + surrogate - jax.lax.stop_gradient(surrogate))


class StickingELBO(ELBO):  # type: ignore[misc]
    """The ELBO with the gradient through the draws alone, "sticking the landing".

    The score of the guide, whose mean is zero, is left out of the gradient of log q: what remains
    has no variance where the guide is the posterior.

    References
    ----------
    Roeder, G., Wu, Y. and Duvenaud, D. (2017). Sticking the landing: simple, lower-variance
    gradient estimators for variational inference. NeurIPS 30.
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
        """Return minus the ELBO, whose derivative is the estimate of the gradient."""
        still = jax.lax.stop_gradient(param_map)

        def particle(key: jax.Array) -> jax.Array:
            model_key, guide_key = jax.random.split(key)
            seeded = handlers.seed(guide, guide_key)
            first = handlers.trace(handlers.substitute(seeded, data=param_map))
            drawn = first.get_trace(*args, **kwargs)
            held = {
                name: site["value"]
                for name, site in drawn.items()
                if site["type"] == "sample" and not _is_point(site["fn"])
            }
            log_q, _ = log_density(seeded, args, kwargs, {**still, **held})
            replayed = handlers.replay(handlers.seed(model, model_key), drawn)
            log_p, _ = log_density(replayed, args, kwargs, param_map)
            return log_p - log_q

        keys = jax.random.split(rng_key, self.num_particles)
        return -jnp.mean(self.vectorize_particles_fn(particle, keys))


def _is_point(law: Any) -> bool:
    while isinstance(law, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        law = law.base_dist
    return isinstance(law, dist.Delta)


@dataclass(frozen=True)
class Objective:
    """What SVI can maximise.

    Parameters
    ----------
    make
        ``make(num_particles, alpha)`` returns NumPyro's loss.
    about
        What it is, without a full stop.
    num_particles
        Draws for each gradient, where the user says nothing.
    quantity
        Name of its trace.
    title
        What messages call it.
    bound
        What it bounds the log evidence from below by, in words, if it is reported.
    """

    make: Callable[[int, float], ELBO]
    about: str
    num_particles: int
    quantity: str
    title: str
    bound: str = ""


OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective(
        lambda n, _: Trace_ELBO(num_particles=n),
        "E_q[log p - log q], by gradients through the draws (reparametrised). A lower bound on the "
        "log evidence; its optimum q is too narrow where it cannot be right",
        1,
        "elbo",
        "ELBO",
        "ELBO",
    ),
    "sticking": Objective(
        lambda n, _: StickingELBO(num_particles=n),
        "the same bound by gradients through the draws alone (sticking the landing): the less "
        "noise the closer the guide comes to the posterior, none where it is reached",
        1,
        "elbo",
        "ELBO",
        "ELBO",
    ),
    "score": Objective(
        lambda n, _: ScoreELBO(num_particles=n),
        "the same bound by the score-function gradient with a leave-one-out baseline (black-box "
        "VI): no gradient of the model, at many times the variance",
        10,
        "elbo",
        "ELBO",
        "ELBO",
    ),
    "renyi": Objective(
        lambda n, alpha: RenyiELBO(alpha=alpha, num_particles=n),
        "Renyi's bound of order alpha: log E_q[(p / q)^(1 - alpha)] / (1 - alpha). Below 1 its "
        "optimum is wider than the ELBO's, above 1 narrower; biased towards the ELBO's by finitely "
        "many draws, and not reported as a bound",
        10,
        "renyi_bound",
        "Renyi bound",
    ),
    "iwae": Objective(
        lambda n, _: RenyiELBO(alpha=0.0, num_particles=n),
        "log of the average importance weight of num_particles draws: a lower bound that tightens "
        "with every draw. Its guide is a proposal, wider than the ELBO's, and the gradient's "
        "signal to its noise falls with every draw",
        10,
        "iwae_bound",
        "importance-weighted bound",
        "importance-weighted",
    ),
}
"""Name -> objective."""
