"""Whether draws are of a target's density: Metropolis steps from them go up as often as down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vi_recipes.model import Target
from vi_recipes.posterior import per_scalar

MOST = 2_000
"""Draws, at most, that steps are tried from."""

MAX_WORK = 2.5e8
"""Numbers of the data that all of them may read: fewer steps of larger models."""

FEW = 200
"""Draws that there are at least."""

IMBALANCE = 0.2
"""Of the accepted steps, the surplus of those up over those down from which draws are of another
density, where it is beyond :data:`ERRORS` standard errors too."""

ERRORS = 5.0

EVERYTHING = "all sites"
"""What steps of all coordinates at once are called."""


@dataclass(frozen=True)
class Balance:
    """Accepted steps up in density against those down.

    Parameters
    ----------
    surplus
        Steps up less steps down, over both, weighed by the chance that they are accepted: 0 in
        expectation for draws of the density, towards 1 where they lie off its mass, and below 0
        where they are too narrow.
    error
        Its Monte Carlo standard error, were it 0.
    """

    surplus: float
    error: float

    @property
    def tips(self) -> bool:
        """Whether the draws cannot be of the density."""
        return abs(self.surplus) > max(IMBALANCE, ERRORS * self.error)


def balances(
    target: Target,
    z: Float[np.ndarray, "chains draws dim"],
    log_p: Float[np.ndarray, "chains draws"],
    seed: int = 0,
) -> Mapping[str, Balance]:
    """Return the balance of Metropolis steps of each latent site alone, and of all at once.

    A step that leaves a density as it is goes up from its draws as often as down: by detailed
    balance any function of both ends that changes its sign when they are exchanged has the mean 0
    over accepted steps. The proposals are differences of two other draws (ter Braak, 2006,
    doi:10.1007/s11222-006-8769-1), which have the scale and the correlations of the draws.

    Parameters
    ----------
    target
        Gives the density.
    z
        The draws, unconstrained scale.
    log_p
        :meth:`Target.log_densities` there; minus infinity where there is none.
    seed
        Of the proposals.
    """
    per_chain = max(int(np.clip(MAX_WORK / target.size, FEW, MOST)) // z.shape[0], 1)
    step = max(-(-z.shape[1] // per_chain), 1)
    z, log_p = z[:, ::step], log_p[:, ::step]
    rows, number = z.reshape(-1, target.dim), log_p.size
    if number < 3:
        return {}
    blocks = {EVERYTHING: slice(0, target.dim)}
    if len(target.slices) > 1:
        blocks |= target.slices
    generator = np.random.default_rng(seed)
    by_label = {}
    for name, place in blocks.items():
        first = generator.integers(1, number, number)
        second = 1 + (first - 1 + generator.integers(1, number - 1, number)) % (number - 1)
        own = np.arange(number)
        moved = rows.copy()
        width = max(place.stop - place.start, 1)
        gap = rows[(own + first) % number, place] - rows[(own + second) % number, place]
        moved[:, place] += 2.38 / np.sqrt(2 * width) * gap
        with np.errstate(invalid="ignore"):
            rise = target.log_densities(moved).reshape(log_p.shape) - log_p
        rise = np.nan_to_num(rise, nan=0.0)  # from no density to none
        accepted = np.exp(np.minimum(rise, 0.0))
        signed = np.sign(rise) * accepted
        if not accepted.mean() > 0:
            continue
        ess = float(per_scalar("ess", {"": signed}, method="mean")[""])
        ess = min(ess, number) if np.isfinite(ess) else number
        scale = np.sqrt(np.mean(signed**2) / ess)
        by_label[name] = Balance(
            float(signed.mean() / accepted.mean()), float(scale / accepted.mean())
        )
    return by_label


def say_tipped(found: Mapping[str, Balance]) -> str:
    """Return a part of a sentence on draws of another density; nothing where none is seen."""
    tipped = {name: b for name, b in found.items() if b.tips}
    if not tipped:
        return ""
    worst = max(tipped, key=lambda name: abs(tipped[name].surplus))
    alone = [name for name in tipped if name != EVERYTHING]
    of = f" of {', '.join(alone[:5])}" if alone else ""
    up = (1 + tipped[worst].surplus) / 2
    return (
        f"these are not draws of this model's posterior: {up:.0%} of the Metropolis steps{of} that "
        "its density accepts from them go up in density, and from its own draws half of them do"
    )
