"""Lower bounds on a fit's errors: how far short chains that start at its draws move from it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from numpyro.infer import HMC
from scipy.special import stdtrit

from vi_recipes.core import as_key, check_arguments, one_at_a_time, split_key
from vi_recipes.fit import Fit, doubted, unsettled
from vi_recipes.model import Arrays, Target
from vi_recipes.posterior import is_constant

STAGES = (6, 6)
"""Transitions of a chain to each look at it. Even numbers: a chain that turns about a mean goes
there and back, and is not taken for having moved by twice the error."""

LONGER = (12, 24)
"""More of them where something has moved: what turns back has overshot."""

STEADY = 0.75
"""Share of its largest movement that a moment has left at the last look, lest it has overshot."""

NUM_LEAPFROGS = 16
"""Of a transition."""

MOST_CHAINS, FEWEST_CHAINS = 400, 50

MAX_WORK = 8e9
"""Numbers of the data that all gradients may read: fewer chains of larger models, and none where
fewer than :data:`FEWEST_CHAINS` are left."""

QUICK = 1e9
"""Of them, what takes a few seconds beside compilation."""

LEVEL = 0.01
"""Probability that any bound, of all scalars, is beyond what is right."""

GOOD_ACCEPTANCE = 0.65
"""Of the first transition; step sizes are halved until it is that."""

MAX_HALVINGS = 12

NUTS_GRADIENTS = 4 * 2_000 * 31
"""Gradients of a run of NUTS: of 4 chains of 2,000 draws, with trees of depth 5."""


@dataclass(frozen=True)
class LowerBounds:
    """How far a fit is off at least, by short chains from its own draws.

    Parameters
    ----------
    mean, mean_at
        Sds that a mean has moved, beyond Monte Carlo error, and of which scalar; 0 for none.
    sd_ratio, sd_at
        The chains' sd over the fit's own, by which it has moved beyond Monte Carlo error and
        furthest from 1, and of which scalar; 1 for none.
    num_chains
        Chains.
    nuts_seconds
        About what a run of NUTS takes, by the seconds of these gradients.
    """

    mean: float
    mean_at: str
    sd_ratio: float
    sd_at: str
    num_chains: int
    nuts_seconds: float

    @property
    def factor(self) -> float:
        """By which an sd is off at least, either way."""
        return max(self.sd_ratio, 1 / self.sd_ratio)

    def __str__(self) -> str:
        said = []
        if self.mean > 0:
            said.append(f"move its mean of {self.mean_at} by at least {self.mean:.2g} sds")
        if self.factor > 1:
            least = "at least" if self.sd_ratio > 1 else "at most"
            said.append(f"make its sd of {self.sd_at} {least} {self.sd_ratio:.2g} times as large")
        found = " and ".join(said) or "move nothing beyond Monte Carlo error"
        return f"{self.num_chains} short chains started at its draws {found}"


def quick_chains(target: Target, work: float = QUICK) -> int:
    """Return how many chains read so much at most; 0 where those are too few for bounds."""
    count = min(int(work / (target.size * sum(STAGES + LONGER) * NUM_LEAPFROGS)), MOST_CHAINS)
    return count if count >= FEWEST_CHAINS else 0


@check_arguments("fit", "target", "num_chains")
@one_at_a_time
def lower_bounds(
    fit: Fit, target: Target, *, key: jax.Array | int = 0, num_chains: int | None = None
) -> LowerBounds | None:
    """Return lower bounds on the errors of a fit's means and sds, from many short chains.

    Chains of Hamiltonian Monte Carlo leave the posterior as it is, and take any other law towards
    it. So what the draws of a fit have moved by after a few transitions is by how much it was off,
    at least, unless a quantity overshoots. Against that transitions are of random length and in
    even numbers, and what has moved is looked at again after four times as many: what turns back
    counts for nothing. That is a guard and no proof: where other quantities are far off, the size
    of a movement may be larger than the error, but nothing moves of a fit that is right. That
    nothing moves proves nothing: a slow direction, or another part of the posterior, may not be
    reached.

    Means are in units of the larger of both sds, and more where the chains' still grows.

    Parameters
    ----------
    fit
        An approximation with draws, of this session.
    target
        What it is a fit of.
    key
        Seeds draws and chains.
    num_chains
        At least 50; by default up to 400, and none of a model with too much data for 50 of them to
        be quick.

    Returns
    -------
    LowerBounds or None
        ``None`` where there are no chains: for a point, a sampler, exchangeable labels, draws
        without a finite density, no step size at which transitions are accepted, much data.

    Raises
    ------
    ValueError
        For too few chains.

    References
    ----------
    Wang, Y., Kasprzak, M. and Huggins, J. H. (2023). A targeted accuracy diagnostic for variational
    approximations. AISTATS. arXiv:2302.12419.
    """
    if num_chains is not None and num_chains < FEWEST_CHAINS:
        raise ValueError(f"num_chains: got {num_chains}, expected at least {FEWEST_CHAINS}")
    if not fit.has_result or fit.posterior is None or fit.is_sampler or fit.is_point:
        return None
    if target.exchangeable:
        return None
    count = num_chains or quick_chains(target, MAX_WORK)
    if not count:
        return None
    draw_key, chain_key = split_key(as_key(key))
    with jax.enable_x64(True):
        drawn = fit.posterior.draws(count, draw_key)
        z = target.unconstrain_rows({s.name: drawn[s.name] for s in target.latents})
        unit = z.std(axis=0)
        if not (np.isfinite(z).all() and (unit > 0).all()):
            return None
        if not np.isfinite(target.log_densities(z)).all():
            return None
        chains = _Chains(target, z.mean(axis=0), unit)
        start = (z - chains.centre) / unit
        size = chains.step_size(start, chain_key)
        if size is None:
            return None
        looks, x, spent = [_flat(fit, target, z)], start, 0.0
        began = time.perf_counter()
        for k, steps in enumerate(STAGES + LONGER, 1):
            x, accepted = chains.run(x, size, steps, jax.random.fold_in(chain_key, k))
            if accepted < GOOD_ACCEPTANCE / 2:
                return None
            looks.append(_flat(fit, target, x * unit + chains.centre))
            if k == len(STAGES):
                spent = (time.perf_counter() - began) / (count * sum(STAGES) * NUM_LEAPFROGS)
                bounds = _bounds(fit, looks, nuts_seconds=NUTS_GRADIENTS * spent)
                if bounds.mean == 0 and bounds.factor == 1:
                    return bounds
    return _bounds(fit, looks, nuts_seconds=NUTS_GRADIENTS * spent)


def _flat(fit: Fit, target: Target, z: np.ndarray) -> Float[np.ndarray, "draws scalars"]:
    """Return every scalar of the fit at rows of flat vectors."""
    values = target.constrain(z)
    return np.concatenate([np.reshape(values[s.name], (len(z), -1)) for s in fit.sites], axis=1)


def _bounds(fit: Fit, looks: list[np.ndarray], *, nuts_seconds: float) -> LowerBounds:
    """Return what values of the scalars come to: before the chains, half-way, and from then on.

    A moment counts by the least that it has moved at any look but the half-way one, and not at all
    where it has turned back: it has overshot, as the sd of a scale does while what it scales is
    too wide.
    """
    start, ends = looks[0], looks[2:]
    count, labels = len(start), fit.labels()
    sds = np.asarray(fit.flat(fit.sd()), float)
    size = np.abs(np.asarray(fit.flat(fit.mean()), float))
    gone = unsettled(fit) | doubted(fit)
    known = ~is_constant(sds, size, fit.provenance.dtype) & np.isfinite(sds)
    known &= np.array([label not in gone for label in labels])
    # by both moments of every scalar, either way
    quantile = -float(stdtrit(count - 1, LEVEL / (4 * max(int(known.sum()), 1))))

    def moved_by(changes: list[np.ndarray]) -> np.ndarray:
        """Return the mean change at the look where it is least, less its Monte Carlo error."""
        means = np.stack([change.mean(axis=0) for change in changes])
        errors = np.stack([change.std(axis=0, ddof=1) for change in changes]) / np.sqrt(count)
        sign = np.sign(means[-1])
        along = means * sign
        least: np.ndarray = np.maximum(along - quantile * errors, 0.0).min(axis=0)
        return np.where(along[-1] >= STEADY * along.max(axis=0), sign * least, 0.0)

    def squared(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.square(values - values.mean(axis=0)))

    with np.errstate(divide="ignore", invalid="ignore"):
        last = looks[-1].std(axis=0)
        growth = np.maximum(last / looks[-2].std(axis=0), 1.0)
        largest = np.maximum(sds, last * (1 + 2 / np.sqrt(2 * count)) * growth**2)
        means = np.where(known, np.abs(moved_by([x - start for x in ends])) / largest, 0.0)
        changes = [squared(x) - squared(start) for x in ends]
        variance = 1 + moved_by(changes) / np.square(sds)
        ratios = np.where(known, np.sqrt(np.maximum(variance, 1e-6)), 1.0)
    k, j = int(np.nanargmax(means)), int(np.nanargmax(np.abs(np.log(ratios))))
    return LowerBounds(float(means[k]), labels[k], float(ratios[j]), labels[j], count, nuts_seconds)


class _Chains:
    """Chains of NumPyro's HMC in coordinates that a fit's draws have put to mean 0 and sd 1.

    Parameters
    ----------
    target
        What is sampled.
    centre, unit
        Means and sds of the draws, unconstrained, shape (dim,).
    """

    def __init__(self, target: Target, centre: np.ndarray, unit: np.ndarray) -> None:
        self.centre, self._unit, self._target = centre, unit, target

    def step_size(self, x: np.ndarray, key: jax.Array) -> float | None:
        """Return a step size at which the first transition is accepted; ``None`` for none."""
        size = float(self._target.dim**-0.25)
        for _ in range(MAX_HALVINGS):
            if self.run(x, size, 1, key)[1] >= GOOD_ACCEPTANCE:
                return size
            size /= 2
        return None

    def run(self, x: np.ndarray, size: float, n: int, key: jax.Array) -> tuple[np.ndarray, float]:
        """Return where chains are after ``n`` transitions, and the mean acceptance on the way."""
        place = jnp.asarray(self.centre), jnp.asarray(self._unit)
        run = self._target.compiled_once(
            ("short chains", x.shape), lambda: jax.jit(make_chains(self._target))
        )
        keys = jax.random.split(key, len(x))
        arrays = self._target.arrays()
        x, accepted = run(jnp.asarray(x), place, jnp.asarray(size), jnp.int32(n), keys, arrays)
        return np.asarray(x), float(accepted)


def make_chains(target: Target) -> Callable[..., Any]:
    """Return ``(x, (centre, unit), step size, n, keys, arrays) -> (x, mean acceptance)``."""

    def kernel_at(place: tuple[jax.Array, jax.Array], arrays: Arrays) -> HMC:
        centre, unit = place
        return HMC(
            potential_fn=lambda x: -target.log_density_fn(centre + unit * x, arrays),
            num_steps=NUM_LEAPFROGS,
            trajectory_length=None,  # by default 2 pi, whatever the step size
            adapt_step_size=False,
            adapt_mass_matrix=False,
        )

    def run(
        x: jax.Array, place: Any, size: jax.Array, n: jax.Array, keys: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array]:
        kernel = kernel_at(place, arrays)

        def one(x: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            own, jitter = jax.random.split(key)
            state = kernel.init(own, 0, x, (), {})._replace(rng_key=own)

            def step(i: jax.Array, carry: Any) -> Any:
                state, accepted = carry
                factor = jax.random.uniform(jax.random.fold_in(jitter, i), minval=0.5, maxval=1.5)
                adapt = state.adapt_state._replace(step_size=size * factor)
                state = kernel.sample(state._replace(adapt_state=adapt), (), {})
                return state, accepted + state.accept_prob

            state, accepted = jax.lax.fori_loop(0, n, step, (state, jnp.zeros_like(size)))
            return state.z, accepted / n

        ends, accepted = jax.vmap(one)(x, keys)
        return ends, accepted.mean()

    return run
