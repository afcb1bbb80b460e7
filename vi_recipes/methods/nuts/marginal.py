"""What NUTS on the marginal samples: the parameters, with every member integrated out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Progress, Timing, generator
from vi_recipes.latent import Marginal
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.gradient import MarginalInputs, log_marginal, marginal_inputs
from vi_recipes.methods.nested.integrate import HEAVIEST, inner_error
from vi_recipes.methods.nested.members import (
    INNER,
    NUM_LOOKED,
    choose_nodes,
    members_of,
    nodes_to_check,
    placed,
    refusal,
)
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.posterior import joined, members_at
from vi_recipes.methods.nested.records import Doubt
from vi_recipes.methods.nested.several_modes import hidden_modes, level_members
from vi_recipes.methods.nuts.running import around_zero
from vi_recipes.methods.nuts.sampling import ChainSpace
from vi_recipes.model import Target

AT_ONCE = 2**22
"""Numbers of members given draws of theta that are held at once, about."""

JOINTLY = "use marginal=False"
"""What to do where members are not integrated out well enough."""


@dataclass(frozen=True)
class MarginalSpace:
    """The parameters in coordinates that the curvature at their mode whitens.

    Parameters
    ----------
    density
        log p(y, theta), members integrated out.
    mode
        Of it: the origin.
    """

    density: ThetaDensity
    mode: ThetaMode

    @property
    def root(self) -> Float[np.ndarray, "G G"]:
        """Lower factor of the inverse curvature at the mode."""
        return np.linalg.cholesky(self.mode.cov)

    def space(self, scatter: float) -> ChainSpace:
        """Return the space that chains move in, started within ``scatter`` of the mode."""
        density = self.density

        def log_density(
            x: jax.Array, inputs: tuple[jax.Array, jax.Array, MarginalInputs]
        ) -> jax.Array:
            centre, root, given = inputs
            return log_marginal(density, centre + root @ x, given)

        search = partial(
            around_zero,
            scatter=scatter,
            dim=density.dim,
            near="the mode of log p(y, theta)",
            advice="use marginal=False",
        )
        inputs = jnp.asarray(self.mode.theta), jnp.asarray(self.root), marginal_inputs(density)
        code = "marginal", density.split.latents, density.describe()
        return ChainSpace(log_density, inputs, density.dim, code, search)

    def flat_draws(
        self, x: Float[np.ndarray, "draws G"], key: jax.Array
    ) -> Float[np.ndarray, "draws dim"]:
        """Return flat vectors: theta, and members drawn given it."""
        density, rng = self.density, generator(key)
        theta = self.mode.theta + x @ self.root.T
        piece = max(AT_ONCE // density.of_members, 1)
        flat = np.empty((len(x), density.target.dim))
        for first in range(0, len(x), piece):
            some = theta[first : first + piece]
            place = np.arange(len(some))
            members = members_at(density, some)
            flat[first : first + piece] = joined(density, some, members, place, rng)
        return flat

    def doubt(self, x: Float[np.ndarray, "draws G"]) -> Doubt | None:
        """Say what more nodes change of log p(y, theta) over draws, if it is too much."""
        density = self.density
        some = x[np.linspace(0, len(x) - 1, HEAVIEST).astype(int)]
        theta = self.mode.theta + some @ self.root.T
        if density.misjudges(theta[:: HEAVIEST // NUM_LOOKED]):
            return Doubt(
                f"members ({', '.join(density.split.latents)}) are not normal given the parameters "
                "everywhere, as they are near the mode: a second fit of this target takes that in",
                JOINTLY,
            )
        others = nodes_to_check(density)
        if others is None:
            return None
        error = inner_error(density, theta, density.sweep(theta), others)
        if level := level_members(density, theta[HEAVIEST // 2]):
            return level
        if error.lost:
            return Doubt(error.what_is_lost, JOINTLY)
        if error.sd > INNER:
            return Doubt(str(error), JOINTLY)
        hidden = hidden_modes(density, theta[:: HEAVIEST // NUM_LOOKED])
        return Doubt(f"{hidden}, which nodes around the first miss", JOINTLY) if hidden else None


def members_integrated(target: Target, timing: Timing) -> Marginal:
    """Return the members and how they are integrated over.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` where there are none, or they cannot be, saying which and why.
    """
    marginal = members_of(target, None, "auto", timing)
    if not marginal.split.num_members:
        raise refusal(
            "no site has members that are independent given the rest, to be integrated out: NUTS "
            "samples the same with marginal=False"
        )
    return marginal


def marginal_space(
    target: Target, key: jax.Array, timing: Timing, progress: Progress
) -> MarginalSpace:
    """Return the parameters with their members integrated out, around the mode.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` where members cannot be integrated out, saying which and why;
        ``DIVERGED`` where no mode is found.
    """
    with timing.running_compiled():
        choose = partial(members_integrated, target, timing)
        density, mode = placed(choose, timing, key, progress)
        assert mode is not None
        choose_nodes(density, mode, int(jax.random.randint(key, (), 0, 2**31 - 1)))
    return MarginalSpace(density, mode)
