"""Stein variational gradient descent: particles moved together towards the posterior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.contrib.einstein import RBFKernel

from vi_recipes.core import (
    WIDEST_SCATTER,
    ByIdentity,
    Progress,
    Status,
    Timing,
    require,
    require_count,
    require_number,
    shapes_of,
    split_key,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.svi.chunks import chunk_size
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import ParticlesPosterior, relabel_draws

SPREAD_LIMIT = 0.25
"""How far from 1 Stein's identity may be for every coordinate: sds then are about 12 % off."""


MAX_PARTICLES = 20_000
"""Most particles: their kernel has as many squared numbers, 3 GB."""

NUM_ATTEMPTS = 20
"""Times that particles without a finite density are drawn towards the start, each by half."""


@dataclass(frozen=True, kw_only=True)
class SVGD(Method):
    """Move particles by their joint Stein force until they are at rest.

    Every particle climbs a kernel average of the particles' gradients of the log density and is
    pushed off by its neighbours; the kernel is NumPyro's Gaussian one with the median bandwidth.
    The particles live on the unconstrained scale, so one density is meant whatever the supports. A
    step takes ``num_particles`` gradients and ``num_particles`` squared kernels.

    At rest the particles are a deterministic arrangement and no independent draws: their number is
    no sample size, and no Monte Carlo error is reported (it is NaN). Particles at rest may still be
    too close together, the more so the more coordinates there are. Stein's identity shows it: under
    the posterior -E[(z_j - E[z_j]) d log p / d z_j] is 1 for every unconstrained coordinate, and
    under particles about the ratio of their variance to the right one. A fit whose particles miss
    it by more than a quarter has not converged. The identity says nothing of the mass of modes
    that lie apart, which particles keep as they started.

    Parameters
    ----------
    num_particles
        Particles.
    num_steps
        Steps, at most.
    tolerance
        The particles are at rest when what is left of the force on them, in units of their sd and
        per unit of kernel mass, has a root mean square below this.
    step_size
        Of Adagrad. Ignored with ``optimizer``.
    optimizer
        Any optax gradient transformation; Adagrad by default.
    scatter
        Half-width of the uniform scatter of the particles' starts on the unconstrained scale, in
        units of the coordinates (:mod:`vi_recipes.model.units`), by which they move too,
        around the model's own ``init`` where it has one, else around prior medians.

    References
    ----------
    Liu, Q. and Wang, D. (2016). Stein variational gradient descent: a general purpose Bayesian
    inference algorithm. NeurIPS 29. arXiv:1608.04471.
    Ba, J. et al. (2022). Understanding the variance collapse of SVGD in high dimensions. ICLR.
    """

    key: ClassVar[str] = "svgd"

    summary: ClassVar[str] = (
        "particles that repel each other (Stein): any shape in few dimensions; their spread "
        "collapses in many"
    )
    by_default: ClassVar[bool] = False

    num_particles: int = 100
    num_steps: int = 5_000
    tolerance: float = 0.005
    step_size: float = 0.5
    optimizer: optax.GradientTransformation | None = None
    scatter: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("num_particles", self.num_particles, least=4, most=MAX_PARTICLES)
        require_count("num_steps", self.num_steps)
        require_number("tolerance", self.tolerance, most=SPREAD_LIMIT)
        require_number("step_size", self.step_size)
        require_number("scatter", self.scatter, most=WIDEST_SCATTER)
        optimizer = self.optimizer
        require(
            optimizer is None or (hasattr(optimizer, "init") and hasattr(optimizer, "update")),
            "optimizer",
            optimizer,
            "an optax gradient transformation",
        )

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.UNCONVERGED

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        with timing.running():
            particles = self._start(target, key)
        optimizer = self.optimizer or optax.adagrad(self.step_size)
        state, arrays = optimizer.init(particles), target.arrays()
        size = chunk_size(self.num_steps)
        way = self.step_size if self.optimizer is None else ByIdentity(self.optimizer)
        advance = target.compiled_once(
            ("steps of SVGD", way, shapes_of(particles, state, arrays)),
            lambda: timing.compile(
                make_steps(target, optimizer), particles, state, jnp.int32(1), arrays
            ),
        )
        run = _Run(np.asarray(particles))
        try:
            for first in range(0, self.num_steps, size):
                n = min(size, self.num_steps - first)
                with timing.running():
                    particles, state, seen = advance(particles, state, jnp.int32(n), arrays)
                    seen = jax.tree.map(np.asarray, seen)
                timing.gradient_evaluations += (n + 1) * self.num_particles
                if not (np.isfinite(seen.rest) and np.isfinite(seen.log_p).all()):
                    return self._diverged(run, first + n)
                run.note(first + n, np.asarray(particles), seen)
                progress(first + n, self.num_steps, f"force left {run.rest[-1]:.2g}")
                if run.rest[-1] < self.tolerance:
                    break
        except KeyboardInterrupt:
            if not run.rest:
                raise
            run.interrupted = True
        with timing.running():
            samples, relabelled = _read(run, target)
        result = self._judge(run, target)
        result.message += relabelled
        result.posterior = ParticlesPosterior(samples)
        return result

    def _start(self, target: Target, key: jax.Array) -> jax.Array:
        """Return particles of finite density around the start, shape (num_particles, dim)."""
        start_key, scatter_key = split_key(key)
        centre = target.start(start_key)
        shape = (self.num_particles, target.dim)
        centre = centre / target.units
        away = self.scatter * np.asarray(jax.random.uniform(scatter_key, shape, float, -1, 1))
        density = target.compiled_once(
            "densities and gradients of particles",
            lambda: jax.jit(
                jax.vmap(jax.value_and_grad(target.density_in_units), in_axes=(0, None))
            ),
        )
        for _ in range(NUM_ATTEMPTS):
            values, gradients = density(jnp.asarray(centre + away), target.arrays())
            lost = ~(np.isfinite(values) & np.isfinite(gradients).all(axis=1))
            if not lost.any():
                break
            away[lost] /= 2
        return jnp.asarray(centre + away)

    def _diverged(self, run: _Run, step: int) -> Result:
        return Result(
            None,
            Status.DIVERGED,
            f"a particle left the region of finite density by step {step}",
            "lower step_size, or scatter",
            trace=run.trace(),
        )

    def _judge(self, run: _Run, target: Target) -> Result:
        steps, rest, identity = run.steps[-1], run.rest[-1], run.identity
        worst = int(np.argmax(np.abs(identity - 1)))
        away = abs(float(identity[worst]) - 1)
        site = target.sites_along(np.eye(1, target.dim, worst)[0])[0]
        left = f"the force left on the particles has root mean square {rest:.2g} of their sd"
        spread = (
            f"Stein's identity is {identity.min():.3g} to {identity.max():.3g} (1 under the "
            f"posterior), furthest off in {site}"
        )
        status, advice = Status.OK, ""
        if run.interrupted:
            status, message = Status.INTERRUPTED, f"{steps} steps; {left}; {spread}"
        elif not rest < self.tolerance:
            status, message = Status.UNCONVERGED, f"all {steps} steps were taken; {left}; {spread}"
            advice = "raise num_steps, or step_size"
        elif away > SPREAD_LIMIT:
            status = Status.UNCONVERGED
            size = "too close together" if identity[worst] < 1 else "too far apart"
            message = f"at rest after {steps} steps, but {size}: {spread}"
            advice = (
                f"raise num_particles ({self.num_particles} for {target.dim} coordinates), give "
                "coordinates similar scales, or use NUTS"
            )
        else:
            message = f"at rest after {steps} steps: {left}; {spread}"
        return Result(
            None,
            status,
            f"{message}; {self.num_particles} particles, which are not independent draws: no "
            "Monte Carlo error is known",
            advice,
            trace=run.trace(),
            diagnostics={
                "force_left": rest,
                "stein_identity_min": float(identity.min()),
                "stein_identity_max": float(identity.max()),
                "num_steps": float(steps),
            },
        )


class ChunkSeen(NamedTuple):
    """What is seen of particles after some steps."""

    rest: Any
    """Root mean square of what is left of the force on them, per sd and unit of kernel mass."""
    identity: Any
    """Stein's identity of every coordinate, shape (dim,)."""
    log_p: Any
    """Log density at every particle, shape (num_particles,)."""


@dataclass
class _Run:
    """What a run has done so far: the particles, and what was seen at the end of every chunk."""

    particles: np.ndarray
    steps: list[int] = field(default_factory=list)
    rest: list[float] = field(default_factory=list)
    identity: np.ndarray = field(default_factory=lambda: np.empty(0))
    log_p: np.ndarray = field(default_factory=lambda: np.empty(0))
    interrupted: bool = False

    def note(self, step: int, particles: np.ndarray, seen: ChunkSeen) -> None:
        self.particles, self.identity, self.log_p = particles, seen.identity, seen.log_p
        self.steps.append(step)
        self.rest.append(float(seen.rest))

    def trace(self) -> dict[str, np.ndarray]:
        return {"force_left": np.array(self.rest), "force_left_step": np.array(self.steps)}


def stein_force(particles: jax.Array, gradients: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the Stein force on every particle, and its kernel mass.

    NumPyro's own SVGD moves constrained values without the Jacobian of their transformation, which
    is another density, and takes every particle's gradient anew for each of the others; the kernel
    is NumPyro's.

    Parameters
    ----------
    particles, gradients
        Places, and gradients of the log density there, both of shape (num_particles, dim).

    Returns
    -------
    tuple of jax.Array
        mean_i k(x_i, y) grad log p(x_i) + grad_i k(x_i, y) at every particle y, shape
        (num_particles, dim); mean_i k(x_i, y), shape (num_particles,).
    """
    kernel = RBFKernel().compute(jax.random.key(0), particles, {}, None)

    def on(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        weights, pushes = jax.vmap(jax.value_and_grad(lambda x: kernel(x, y)))(particles)
        return (weights @ gradients + pushes.sum(axis=0)) / len(particles), weights.mean()

    force, mass = jax.vmap(on)(particles)
    return force, mass


def make_steps(target: Target, optimizer: optax.GradientTransformation) -> Callable[..., Any]:
    """Return ``(particles, state, n, arrays) -> (particles, state, seen)``, after ``n`` steps."""
    density = jax.vmap(jax.value_and_grad(target.density_in_units), in_axes=(0, None))

    def steps(
        particles: jax.Array, state: Any, n: jax.Array, arrays: Any
    ) -> tuple[jax.Array, Any, ChunkSeen]:
        def body(_: jax.Array, carry: Any) -> Any:
            particles, state = carry
            force, _ = stein_force(particles, density(particles, arrays)[1])
            change, state = optimizer.update(-force, state, particles)
            return optax.apply_updates(particles, change), state

        particles, state = jax.lax.fori_loop(0, n, body, (particles, state))
        log_p, gradients = density(particles, arrays)
        force, mass = stein_force(particles, gradients)
        # per unit of mass the force is the gradient of log p less that of the particles' density
        left = force / mass[:, None] * particles.std(axis=0)
        identity = -jnp.mean((particles - particles.mean(axis=0)) * gradients, axis=0)
        return particles, state, ChunkSeen(jnp.sqrt(jnp.mean(left**2)), identity, log_p)

    return steps


def _read(run: _Run, target: Target) -> tuple[Sites, str]:
    """Return the particles on the constrained scale, and what to say of their labels."""
    values = target.constrain(run.particles * target.units)
    samples = {name: value[None] for name, value in values.items()}
    if not target.exchangeable:
        return samples, ""
    best = int(np.argmax(run.log_p))
    pivot = {name: value[0, best] for name, value in samples.items()}
    samples, share = relabel_draws(samples, target.exchangeable, pivot)
    return samples, f"; {share:.0%} of particles relabelled"
