"""EM for any model: E-steps of weighted nodes, M-steps by Newton's method or L-BFGS."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.core import SEVERAL, Status, Timing, split_key
from vi_recipes.latent import (
    BY_NUTS,
    MAX_DENSE,
    Ascent,
    Compressed,
    Marginal,
    MarginalObjective,
    NumNodes,
    PartialSteps,
    State,
    TargetCompiler,
    best_of,
    check_monotone,
    climb,
    compress,
    general_start,
    general_step,
    is_at_maximum,
    judge_estimate,
    kinks_of,
    marginal_of,
    no_start_left,
    reached_by,
    same_likelihood,
    why_collapsed,
)
from vi_recipes.methods.base import Result
from vi_recipes.methods.em.loop import Loop
from vi_recipes.methods.likelihood import ascended, no_likelihood, result, with_more_nodes
from vi_recipes.model import Target

LENGTH = 10
"""Iterations in one call of compiled code."""

FEW = 5
"""Iterations of partial E-steps in one call of compiled code."""

NUM_NEWTON = 200
"""Steps of Newton's method, at most, where the iterations have not got to a maximum."""

GAIN = 1e-3
"""Nats that they have to gain: less is what an edge of the support has to offer."""


class _Ended(NamedTuple):
    """Where the iterations ended, start by start."""

    state: State
    """(theta, modes of z) of every start."""
    path: Float[np.ndarray, "iterations starts"]
    objective: MarginalObjective
    """What the iterations raised."""


class _Partly(NamedTuple):
    """How iterations with partial E-steps went."""

    energy: Float[np.ndarray, "steps starts"]
    """The free energy after every partial step."""
    passes: Float[np.ndarray, "steps starts"]
    """Passes over the data up to there."""
    what: str
    """What they were, for the message."""


@dataclass(frozen=True, kw_only=True)
class GeneralRoute:
    """EM made from the NumPyro model.

    Parameters
    ----------
    target
        The model conditioned on data.
    latent, e_step, num_nodes, objective, num_starts, m_step, finish
        See :class:`vi_recipes.EM`.
    num_blocks, num_sparse, freeze_below
        See :class:`vi_recipes.EM`.
    loop
        The iterations.
    timing
        Charged with compiling and running.
    """

    target: Target
    latent: tuple[str, ...] | None
    e_step: str
    num_nodes: NumNodes
    objective: Literal["mle", "map"]
    num_starts: int | None
    m_step: Literal["auto", "newton", "l-bfgs"]
    finish: bool
    num_blocks: int
    num_sparse: int
    freeze_below: float
    loop: Loop
    timing: Timing

    def fit(self, key: jax.Array) -> Result:
        """Return the best of the starts, judged."""
        target, timing = self.target, self.timing
        with timing.running_compiled():
            with_prior = self.objective == "map"
            choose = partial(
                marginal_of, target, self.latent, self.e_step, self.num_nodes, with_prior, timing
            )
            marginal, ((state, path, objective), partly) = ascended(
                choose, lambda marginal: self._ascended(marginal, key)
            )
            count, ascent = path.shape[1], self.loop.ascent(LENGTH)
            finite = [r for r in range(count) if np.isfinite(path[-1, r])]
            if not finite:
                raise no_likelihood(objective)
            ends = {r: objective.flat(np.asarray(state[0][r])) for r in finite}
            why = {r: why_collapsed(target, target.constrain(z)) for r, z in ends.items()}
            alive = [r for r in finite if not why[r]]
            if not alive:
                raise no_start_left(count, why[finite[0]])
            who, status = "EM", Status.FAILED
            advice = "the model's density is not what its sites say it is: report this"
            if marginal.rule == "quadrature":
                who, status = "EM with nodes enough", Status.UNCONVERGED
                kinks = kinks_of(marginal.split)
                advice = (
                    f"{kinks}, which nodes integrate badly: {BY_NUTS}"
                    if kinks
                    else "raise num_nodes, or use MarginalMLE; or NUTS, where the density has "
                    "kinks in the latent variables (abs, max, where), which nodes integrate badly"
                )
            if partly is not None:
                check_monotone(
                    partly.energy, alive, "the free energy", "a partial step of EM", advice
                )
            check_monotone(path, alive, "the objective", who, advice, status)
            best = max(alive, key=lambda r: path[-1, r])
            iterations, reached = ascent.count(path[:, best]), reached_by(path, best)
            objective.modes, end = np.asarray(state[1][best]), np.asarray(state[0][best])
            theta, steps = self._finish(objective, end)
            estimate = judge_estimate(objective, theta)
            while more := with_more_nodes(self.num_nodes, marginal, estimate):
                marginal = more
                again = (jnp.asarray(theta)[None], jnp.asarray(objective.modes)[None])
                state, path, objective = self._iterate(ascent, marginal, again)
                iterations += ascent.count(path[:, 0])
                objective.modes, end = np.asarray(state[1][0]), np.asarray(state[0][0])
                theta, steps = self._finish(objective, end)
                estimate = judge_estimate(objective, theta)
        how = f"{iterations} iterations, reached by {reached}"
        if steps:
            how += f", and {steps} steps of Newton's method from there"
        if partly is not None:
            how = f"{partly.passes[-1, best]:.4g} {partly.what}, then {how}"
        outcome = result(estimate, marginal, path.T, how)
        if partly is not None:
            own = [best] if self.num_sparse else slice(None)  # whose passes are its own
            outcome.trace = {
                **outcome.trace,
                "free_energy": partly.energy[:, own].T,
                "free_energy_step": partly.passes[:, best],
            }
        outcome.diagnostics = {
            **outcome.diagnostics,
            "iterations": float(iterations),
            "starts": float(count),
        }
        if partly is not None:
            outcome.diagnostics["passes"] = float(partly.passes[-1, best] + iterations)
        return outcome

    def _ascended(
        self, marginal: Marginal, key: jax.Array
    ) -> tuple[tuple[_Ended, _Partly | None], MarginalObjective, np.ndarray]:
        """Return where the iterations of all starts end, and how those of partial E-steps went.

        And their objective and theta at the highest end.
        """
        target, timing, split = self.target, self.timing, marginal.split
        count = self.num_starts or (SEVERAL if split.kind == "discrete" else 1)
        flat = np.stack([general_start(target, k, r) for r, k in enumerate(split_key(key, count))])
        state = (jnp.asarray(flat[:, split.border]), jnp.asarray(flat[:, split.local]))
        ascent = self.loop.ascent(LENGTH)
        few = compress(marginal, flat[0], timing)
        risen, partly = self._partly(few, state[0])
        ended = self._iterate(ascent, few, (risen, state[1]))
        theta = np.asarray(ended.state[0][best_of(ended.path[-1])])
        if not same_likelihood(few, marginal, theta, timing):
            ended = self._iterate(ascent, marginal, ended.state)
        best = best_of(ended.path[-1])
        ended.objective.modes = np.asarray(ended.state[1][best])
        return (ended, partly), ended.objective, np.asarray(ended.state[0][best])

    def _partly(self, marginal: Marginal, theta: Array) -> tuple[Array, _Partly | None]:
        """Return where iterations with partial E-steps end, and how they went."""
        blocks, sparse = self.num_blocks, self.num_sparse
        if blocks == 1 and not sparse:
            return theta, None
        objective = MarginalObjective(marginal, self.timing, np.zeros((0, 0)))
        steps = PartialSteps(marginal, objective.forward, self._by_newton(marginal))
        kind = ("partial EM", marginal.key, steps.newton, blocks, sparse, self.freeze_below)
        target = marginal.split.target
        compiler = TargetCompiler(target, self.timing, kind)
        ascent = self.loop.ascent(FEW)
        if blocks > 1:
            first = jax.vmap(steps.first_shares(blocks), in_axes=(0, None))
            arrays = target.arrays()
            state = compiler(("first",), first, theta, arrays)(theta, arrays)
            (theta, _), energy = ascent.run(steps.over_blocks(blocks), state, compiler)
            visits = np.arange(1, len(energy) + 1)[:, None] / blocks
            passes = np.broadcast_to(visits, energy.shape)
            return theta, _Partly(energy, passes, f"passes over {blocks} blocks of members")
        state = theta, jnp.zeros(len(theta))
        step = steps.over_likely_states(sparse, self.freeze_below)
        (theta, _), path = ascent.run(step, state, compiler)
        parts = path.reshape(-1, 2, sparse + 1, path.shape[1])
        passes, energy = (parts[:, k].reshape(-1, path.shape[1]) for k in range(2))
        what = f"passes over the data, {sparse} sparse E-steps to a full one"
        return theta, _Partly(energy, passes, what)

    def _by_newton(self, marginal: Marginal) -> bool:
        """Whether M-steps are Newton's."""
        many = marginal.split.border.size > MAX_DENSE or isinstance(marginal, Compressed)
        return self.m_step == "newton" or (self.m_step == "auto" and not many)

    def _iterate(self, ascent: Ascent, marginal: Marginal, state: State) -> _Ended:
        """Return where iterations on a likelihood end."""
        objective = MarginalObjective(marginal, self.timing, np.asarray(state[1][0]))
        newton = self._by_newton(marginal)
        step = general_step(marginal, forward=objective.forward, newton=newton)
        compiler = TargetCompiler(marginal.split.target, self.timing, ("em", marginal.key, newton))

        def best_is_at_maximum(state: State, path: np.ndarray) -> bool:
            best = best_of(path[-1])
            objective.modes = np.asarray(state[1][best])
            return is_at_maximum(objective, np.asarray(state[0][best]))

        return _Ended(*self.loop.run(ascent, step, state, compiler, best_is_at_maximum), objective)

    def _finish(
        self, objective: MarginalObjective, theta: Float[np.ndarray, " G"]
    ) -> tuple[Float[np.ndarray, " G"], int]:
        """Return where Newton's method gets to from where EM has ended short, and its steps."""
        if not self.finish or theta.size > MAX_DENSE or is_at_maximum(objective, theta):
            return theta, 0
        modes, steps = objective.modes, 0

        def count(_: np.ndarray) -> bool:
            nonlocal steps
            steps += 1
            return False

        end, _ = climb(objective, theta, max_steps=NUM_NEWTON, callback=count)
        before, after = (objective.value_and_grad(z)[0] for z in (theta, end))
        if before - after > GAIN or (after <= before and is_at_maximum(objective, end)):
            return end, steps
        objective.modes = modes
        return theta, 0
