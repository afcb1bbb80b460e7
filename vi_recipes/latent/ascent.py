"""What EM and coordinate-ascent VB share: many starts, and an objective that only rises."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.core import MethodFailure, Progress, Status, Timing, split_key
from vi_recipes.model import Target

ROUNDING = 1e-9
"""Relative decrease of the objective that rounding explains."""

SAME_END = 1e-3
"""Difference of the objective, in nats, between starts that have reached one maximum."""

State = Any
"""A pytree: what an iteration starts from."""

Step = Callable[[State, Any], tuple[State, jax.Array]]
"""``(state, inputs) -> (next state, objective at the first one)``; inputs are arrays of data."""


def stacked_starts(start: Callable[..., Any], target: Target, key: jax.Array, count: int) -> Any:
    """Return ``count`` starting points of a model's own, stacked along a new leading axis."""
    starts = [started(start, target, k) for k in split_key(key, count)]
    return jax.tree.map(lambda *v: jnp.asarray(np.stack(v)), *starts)  # by NumPy: no program


def started(start: Callable[..., Any], target: Target, key: jax.Array) -> Any:
    """Return one starting point of a model's own.

    Raises
    ------
    MethodFailure
        ``FAILED``, with what the model has against the data.
    """
    try:
        return jax.tree.map(lambda v: jnp.asarray(v, float), start(key, **target.data))
    except ValueError as error:
        raise MethodFailure(Status.FAILED, f"there is no start: {error}") from error


def check_monotone(
    path: Float[np.ndarray, "iterations starts"],
    starts: list[int],
    what: str,
    who: str,
    advice: str,
    status: Status = Status.FAILED,
) -> None:
    """Fail if an objective falls from one iteration to the next, beyond rounding.

    Parameters
    ----------
    path
        The objective.
    starts
        The starts to check; what is not finite is passed over.
    what, who, advice
        Name of the objective, what cannot make it fall, and what to do.
    status
        What the fit is where it falls.

    Raises
    ------
    MethodFailure
        With that status, naming iteration and start.
    """
    with np.errstate(invalid="ignore"):
        fall = path[:-1, starts] - path[1:, starts]
        relative = np.nan_to_num(fall / np.maximum(1.0, np.abs(path[1:, starts])), nan=0.0)
    if relative.max(initial=0.0) > ROUNDING:
        iteration, place = np.unravel_index(relative.argmax(), fall.shape)
        raise MethodFailure(
            status,
            f"{what} fell by {fall[iteration, place]:.3g} at iteration {int(iteration) + 1} of "
            f"start {starts[int(place)] + 1}; {who} cannot do that",
            advice,
        )


# -- the loop --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TargetCompiler:
    """Compiles once for a target; the time is charged to the fit that asked first.

    Parameters
    ----------
    target
        Whose code it is.
    timing
        Charged with compilations.
    key
        What all that it compiles is told apart by from other code of the target.
    """

    target: Target
    timing: Timing
    key: tuple[Hashable, ...]

    def __call__(
        self, key: tuple[Hashable, ...], function: Callable[..., Any], state: State, inputs: Any
    ) -> Callable[..., Any]:
        """Return ``function`` compiled for ``(state, inputs)``."""
        return self.target.compiled_once(
            (*self.key, *key), lambda: self.timing.compile(function, state, inputs)
        )


@dataclass(frozen=True, kw_only=True)
class Ascent:
    """Iterates a step from many starts side by side until the objective rises no more.

    Parameters
    ----------
    max_steps
        Iterations allowed.
    tolerance
        Rise in one iteration, relative to the objective's size, that counts as none.
    length
        Iterations in one call of compiled code.
    progress
        Told of every call's end.
    """

    max_steps: int
    tolerance: float
    length: int
    progress: Progress

    def run(
        self,
        step: Step,
        state: State,
        compiler: TargetCompiler,
        is_at_maximum: Callable[[State, np.ndarray], bool] | None = None,
        inputs: Any = None,
    ) -> tuple[State, Float[np.ndarray, "iterations starts"]]:
        """Return the last states and the objective by iteration and start.

        Parameters
        ----------
        step
            One iteration of one start. Its objective may be an array, of shape (parts,), of what
            was reached on the way; the path then has shape (iterations * parts, starts).
        state
            The starts, stacked along a leading axis.
        compiler
            Holds compiled code.
        is_at_maximum
            ``(states, path) -> bool``: whether an ascent that rises no more is at a maximum. Where
            it is not the ascent goes on, until nothing is gained beyond rounding.
        inputs
            What the step is given beside the state; by default the data's arrays.
        """
        inputs = compiler.target.arrays() if inputs is None else inputs
        count = len(jax.tree.leaves(state)[0])

        def chunk(state: State, inputs: Any) -> tuple[State, jax.Array]:
            many = jax.vmap(step, in_axes=(0, None)) if count > 1 else _alone(step)
            return jax.lax.scan(lambda s, _: many(s, inputs), state, None, length=self.length)

        compiled = compiler(("ascent", count, self.length), chunk, state, inputs)
        history: list[np.ndarray] = []
        while len(history) * self.length < self.max_steps:
            state, values = compiled(state, inputs)
            values = np.asarray(values).reshape(self.length, count, -1)
            parts = values.shape[-1]
            history.append(np.moveaxis(values, 2, 1).reshape(-1, count))
            path = np.concatenate(history)
            ends = path[parts - 1 :: parts]
            self.progress(len(ends), self.max_steps, f"objective {np.max(ends[-1]):.6f}")
            if self.converged(ends).all() and (
                is_at_maximum is None
                or not np.isfinite(ends[-1]).any()
                or is_at_maximum(state, path)
                or self._still(ends)
            ):
                break
        return state, np.concatenate(history)

    def converged(
        self, path: Float[np.ndarray, "iterations starts"]
    ) -> Bool[np.ndarray, " starts"]:
        """Return which starts rise no more, or have no finite objective any more."""
        if len(path) < 2:
            return np.zeros(path.shape[1], bool)
        with np.errstate(invalid="ignore"):
            rise = path[-1] - path[-2]
        still = np.abs(rise) <= self.tolerance * np.maximum(1.0, np.abs(path[-1]))
        return np.asarray(still | ~np.isfinite(path[-1]))

    def count(self, path: Float[np.ndarray, " iterations"]) -> int:
        """Return how many iterations one start took.

        The last call of compiled code does more than are needed: of those the ones that rise.
        """
        last = path[-self.length - 1 :]
        flat = np.diff(last) <= self.tolerance * np.maximum(1.0, np.abs(last[1:]))
        done = int(np.argmax(flat)) + 1 if flat.any() else len(last)
        return path.size - len(last) + done

    def _still(self, path: Float[np.ndarray, "iterations starts"]) -> bool:
        """Whether ten iterations have gained nothing beyond rounding."""
        gained = path[-1] - path[-min(10, len(path))]
        return bool((np.nan_to_num(gained) <= 1e-13 * np.abs(np.nan_to_num(path[-1]))).all())


def reached_by(path: Float[np.ndarray, "iterations starts"], best: int) -> str:
    """Return how many of the starts ended where the best one did, as "3 of 5 starts"."""
    return f"{int((path[-1] > path[-1, best] - SAME_END).sum())} of {path.shape[1]} starts"


def best_of(final: Float[np.ndarray, " starts"]) -> int:
    """Return the start with the highest objective; the first where none is finite."""
    return int(np.argmax(np.where(np.isfinite(final), final, -np.inf)))


def _alone(step: Step) -> Step:
    """Return ``step`` for states with a leading axis of one: no vectorised branches."""

    def one(state: State, inputs: Any) -> tuple[State, jax.Array]:
        new, value = step(jax.tree.map(lambda v: v[0], state), inputs)
        return jax.tree.map(lambda v: v[None], new), value[None]

    return one
