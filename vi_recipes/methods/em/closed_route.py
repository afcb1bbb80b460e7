"""EM by the steps that a model supplies, over all members at once or over blocks of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Status, Timing
from vi_recipes.latent import (
    ClosedForm,
    ModelLikelihood,
    NumNodes,
    State,
    TargetCompiler,
    best_of,
    check_monotone,
    log_likelihood_at,
    reached_by,
    stacked_starts,
)
from vi_recipes.methods.base import Result
from vi_recipes.methods.em.loop import Loop
from vi_recipes.model import Target

LENGTH = 50
"""Iterations in one call of compiled code."""

FEW = 5
"""Passes over blocks, and iterations after them, in one call of compiled code."""

MORE = "raise max_steps, or let MarginalMLE climb the same likelihood by Newton's method"
"""What to do where EM has not got to the maximum."""


@dataclass(frozen=True, kw_only=True)
class ClosedRoute:
    """EM by a model's own E-step and M-step.

    Parameters
    ----------
    target
        The model conditioned on data; it has EM steps.
    objective, num_starts, num_nodes, num_blocks
        See :class:`vi_recipes.EM`.
    loop
        The iterations.
    timing
        Charged with compiling and running.
    """

    target: Target
    objective: Literal["mle", "map"]
    num_starts: int
    num_nodes: NumNodes
    num_blocks: int
    loop: Loop
    timing: Timing

    def fit(self, key: jax.Array) -> Result:
        """Return the best of the starts, judged."""
        target, timing, count = self.target, self.timing, self.num_starts
        steps = target.complete_model.em
        assert steps is not None
        closed = ClosedForm(target, steps, self.objective)
        compiler = TargetCompiler(target, timing, ("closed form", self.objective))
        with timing.running():
            theta = stacked_starts(steps.start, target, key, count)
        passes = np.zeros((0, count))
        with timing.running_compiled():
            if self.num_blocks > 1:
                theta, passes = self._pass(closed, theta, compiler)
            likelihood = ModelLikelihood(target, self.num_nodes, self.objective == "map", timing)

            def best_is_at_maximum(theta: State, path: np.ndarray) -> bool:
                best = best_of(path[-1])
                point = closed.on_sites(_member(theta, best))
                return likelihood.is_at_maximum(point)

            ascent = self.loop.ascent(FEW if self.num_blocks > 1 else LENGTH)
            theta, path = self.loop.run(
                ascent, closed.full_step, theta, compiler, best_is_at_maximum, closed.inputs
            )
        alive = closed.alive(theta, path[-1])
        advice = "the model's e_step and m_step do not belong together: check them"
        check_monotone(passes, alive, "the free energy", "a partial step of EM", advice)
        check_monotone(path, alive, "the objective", "EM", advice)
        best = max(alive, key=lambda r: path[-1, r])
        chosen = _member(theta, best)
        with timing.running():
            log_likelihood = log_likelihood_at(target, chosen)
            point = closed.on_sites(chosen)
        with timing.running_compiled():
            estimate = likelihood.judge_end(point, log_likelihood)
        converged = bool(ascent.converged(path)[best])
        name = "log_likelihood" if self.objective == "mle" else "log_posterior"
        status = estimate.status if converged else Status.UNCONVERGED
        num_passes = len(passes) // self.num_blocks
        iterations = ascent.count(path[:, best])
        before = f"{num_passes} passes over {self.num_blocks} blocks of members, then "
        trace = {name: path.T, f"{name}_step": np.arange(1, len(path) + 1)}
        if num_passes:
            visits = np.arange(1, len(passes) + 1) / self.num_blocks
            trace |= {"free_energy": passes.T, "free_energy_step": visits}
        return Result(
            estimate.posterior,
            status,
            f"closed-form steps; {before if num_passes else ''}{iterations} iterations, "
            f"{name.replace('_', ' ').replace('log likelihood', 'log-likelihood')} "
            f"{path[-1, best]:.5f}, reached by {reached_by(path, best)}; {estimate.message}",
            (estimate.advice if converged else "") or ("" if status.ok else MORE),
            trace=trace,
            diagnostics={
                "log_likelihood": log_likelihood,
                "newton_decrement": estimate.decrement,
                "iterations": float(num_passes + iterations),
                "starts": float(count),
            },
            log_likelihood=log_likelihood,
            latents=estimate.latents,
        )

    def _pass(
        self, closed: ClosedForm, theta: State, compiler: TargetCompiler
    ) -> tuple[State, Float[np.ndarray, "visits starts"]]:
        """Return theta of every start after passes over the blocks, and the free energy."""
        state = closed.first_shares(theta, self.num_blocks, compiler)
        compiler = replace(compiler, key=(*compiler.key, self.num_blocks))
        ascent = self.loop.ascent(FEW)
        (theta, _), passes = ascent.run(closed.partial_pass(self.num_blocks), state, compiler)
        return theta, passes


def _member(theta: State, place: int) -> State:
    """Return one of the starts: no program for a slice."""
    return jax.tree.map(lambda v: np.asarray(v)[place], theta)
