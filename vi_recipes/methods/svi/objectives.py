"""What SVI maximises: the ELBO by either gradient, Renyi bounds and importance-weighted bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import ELBO, RenyiELBO, Trace_ELBO
from numpyro.infer.util import log_density
from numpyro.util import check_model_guide_match

from vi_recipes.methods.guides.family import GuideFamily
from vi_recipes.methods.svi.particle import particle_of
from vi_recipes.methods.svi.transport import TransportLoss

DEFAULT_ALPHA = 0.5


class PathwiseELBO(Trace_ELBO):  # type: ignore[misc]
    """NumPyro's :class:`Trace_ELBO`, as a program that is the same in every process.

    NumPyro takes the sites' terms in the order of a set of names, which differs from process to
    process: code that one has kept is then not what another looks for.
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

        def particle(key: jax.Array) -> jax.Array:
            keys = jax.random.split(key)
            one = particle_of(keys, model, guide, (args, kwargs), param_map, param_map)
            check_model_guide_match(one.met, one.drawn)
            return one.log_p - one.log_q

        if self.num_particles == 1:
            return -particle(rng_key)
        keys = jax.random.split(rng_key, self.num_particles)
        return -jnp.mean(self.vectorize_particles_fn(particle, keys))


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
            keys = jax.random.split(key)
            seeded = handlers.seed(guide, keys[1])
            first = handlers.trace(handlers.substitute(seeded, data=param_map))
            # A point follows from the parameters and the other draws: it is not held.
            held = {
                name: jax.lax.stop_gradient(site["value"])
                for name, site in first.get_trace(*args, **kwargs).items()
                if site["type"] == "sample" and not _is_point(site["fn"])
            }
            of_guide = {**param_map, **held}
            one = particle_of(keys, model, guide, (args, kwargs), of_guide, param_map)
            return one.log_p, one.log_q

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


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What SVI can maximise.

    Parameters
    ----------
    make
        ``make(num_particles, alpha)`` returns NumPyro's loss.
    about
        What it is, without a full stop.
    quantity
        Name of its trace.
    title
        What messages call it.
    bound
        What it bounds the log evidence from below by, in words, if it is reported.
    num_particles, fewest_particles
        Draws for each gradient, where the user says nothing, and at least.
    takes_alpha
        Whether it has an order to choose.
    takes_density, takes_score
        Whether it works out the guide's density at a draw that is held, and whether its gradient is
        that of the density alone; guides say whether they have them.
    weighs
        Whether it takes importance weights: then it is no sum over rows.
    by_member
        Whether NumPyro takes them member by member where a plate holds every site.
    takes_spread
        Whether it compares draws with each other, which points cannot be.
    """

    make: Callable[[int, float], ELBO]
    about: str
    quantity: str = "elbo"
    title: str = "ELBO"
    bound: str = ""
    num_particles: int = 1
    fewest_particles: int = 1
    takes_alpha: bool = False
    takes_density: bool = False
    takes_score: bool = False
    weighs: bool = False
    by_member: bool = False
    takes_spread: bool = False

    def clash(self, families: Sequence[GuideFamily], enclosing: Sequence[str]) -> str | None:
        """Return why it does not go with a guide; ``None`` where it does.

        Parameters
        ----------
        families
            Those of the guide.
        enclosing
            Plates that hold every site of the model.
        """
        for family in families:
            if self.takes_density and family.no_density:
                return family.no_density
            if self.takes_score and family.no_score:
                return family.no_score
            if self.takes_spread and (family.point or family.fits_point):
                return (
                    f"the {self.title} compares draws of the guide with each other, and those of a "
                    "point are all the same: use guide='normal' or objective='elbo'"
                )
        if self.by_member and enclosing and any(family.joint for family in families):
            return (
                f"plate {', '.join(enclosing)} holds every site of the model, and "
                "NumPyro then takes importance weights member by member, which a guide that is "
                "joint over the members has not: use guide='normal' or objective='elbo'"
            )
        return None


ObjectiveName = Literal["elbo", "sticking", "score", "renyi", "iwae", "wasserstein"]

OBJECTIVES: dict[ObjectiveName, Objective] = {
    "elbo": Objective(
        make=lambda n, _: PathwiseELBO(num_particles=n),
        about="E_q[log p - log q], by gradients through the draws (reparametrised). A lower bound "
        "on the log evidence; its optimum q is too narrow where it cannot be right",
        bound="ELBO",
    ),
    "sticking": Objective(
        make=lambda n, _: StickingELBO(num_particles=n),
        about="the same bound by gradients through the draws alone (sticking the landing): the "
        "less noise the closer the guide comes to the posterior, none where it is reached",
        bound="ELBO",
        takes_density=True,
    ),
    "score": Objective(
        make=lambda n, _: ScoreELBO(num_particles=n),
        about="the same bound by the score-function gradient with a leave-one-out baseline "
        "(black-box VI): no gradient of the model, at many times the variance",
        bound="ELBO",
        num_particles=10,
        fewest_particles=2,
        takes_density=True,
        takes_score=True,
    ),
    "renyi": Objective(
        make=lambda n, alpha: RenyiELBO(alpha=alpha, num_particles=n),
        about="Renyi's bound of order alpha: log E_q[(p / q)^(1 - alpha)] / (1 - alpha). Below 1 "
        "its optimum is wider than the ELBO's, above 1 narrower; biased towards the ELBO's by "
        "finitely many draws, and not reported as a bound",
        quantity="renyi_bound",
        title="Renyi bound",
        num_particles=10,
        fewest_particles=2,
        takes_alpha=True,
        weighs=True,
        by_member=True,
    ),
    "iwae": Objective(
        make=lambda n, _: RenyiELBO(alpha=0.0, num_particles=n),
        about="log of the average importance weight of num_particles draws: a lower bound that "
        "tightens with every draw. Its guide is a proposal, wider than the ELBO's, and the "
        "gradient's signal to its noise falls with every draw",
        quantity="iwae_bound",
        title="importance-weighted bound",
        bound="importance-weighted",
        num_particles=10,
        fewest_particles=2,
        weighs=True,
        by_member=True,
    ),
    "wasserstein": Objective(
        make=lambda n, _: TransportLoss(num_particles=n),
        about="minus the Sinkhorn divergence of the guide from its draws reweighted by p / q "
        "(Wasserstein VI): what it costs to move one to the other over the unconstrained scale, in "
        "sds of the guide. Of normals its optimum is between those of both KLs, and nearer the "
        "ELBO's with fewer draws, of which more than a few coordinates take many. No bound",
        quantity="minus_sinkhorn",
        title="negative Sinkhorn divergence",
        num_particles=1_000,
        fewest_particles=4,
        takes_density=True,
        weighs=True,
        takes_spread=True,
    ),
}
"""Name -> objective."""
