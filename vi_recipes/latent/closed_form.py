"""EM by the steps that a model supplies: full and partial E-steps, starts, and collapse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.core import MethodFailure, Status, compiler_options
from vi_recipes.latent.ascent import State, Step, TargetCompiler, started
from vi_recipes.latent.blocks import Blocks, deal
from vi_recipes.latent.rules import starting_point
from vi_recipes.model import Arrays, EMSteps, PartialEStep, Target

FEW_CALLS = 10
"""About how often a fit asks the model's own functions for something, beside its iterations."""


@dataclass(frozen=True)
class ClosedForm:
    """A model's own EM steps on its constrained parameters.

    Parameters
    ----------
    target
        The model conditioned on data.
    steps
        Its steps.
    objective
        ``"mle"`` or ``"map"``.
    """

    target: Target
    steps: EMSteps
    objective: Literal["mle", "map"]

    @cached_property
    def inputs(self) -> Any:
        """What compiled steps are given: the data's arrays, or the model's summary of them."""
        return summary_of(self.target) or self.target.arrays()

    def data(self, inputs: Any) -> dict[str, Any]:
        """Return the keyword arguments of the model's steps."""
        return inputs if self.steps.summary is not None else self.target.keywords(inputs)

    def full_step(self, theta: State, inputs: Any) -> tuple[State, jax.Array]:
        """Return theta after one E-step and one M-step, and the objective before them."""
        data = self.data(inputs)
        stats, value = self.steps.e_step(theta, **data)
        return self.steps.m_step(stats, self.objective, **data), value + self.log_prior(theta, data)

    def log_prior(self, theta: State, data: dict[str, Any]) -> Float[Array, ""]:
        """Return log p(theta) where the objective has it, else 0."""
        if self.objective == "mle":
            return jnp.zeros(())
        assert self.steps.log_prior is not None
        return jnp.asarray(self.steps.log_prior(theta, **data))

    # -- partial E-steps ---------------------------------------------------------------------------

    @property
    def partial(self) -> PartialEStep:
        """The model's E-step for some of its members."""
        assert self.steps.partial is not None
        return self.steps.partial

    @cached_property
    def num_members(self) -> int:
        """How many members the blocks are made of."""
        return int(self.partial.num_members(**self.target.data))

    def blocks(self, num_blocks: int) -> Blocks:
        """Return the members of every block and their weights."""
        return deal(self.num_members, num_blocks)

    def share(self, theta: State, rows: Any, weights: Any, data: dict[str, Any]) -> Any:
        """Return a block's statistics and the entropy of its q(z), which is p(z | y, theta)."""
        stats, log_likelihood = self.partial.e_step(theta, rows, weights, **data)
        return stats, log_likelihood - self.partial.expected(theta, stats, **data)

    def first_shares(self, theta: State, num_blocks: int, compiler: TargetCompiler) -> State:
        """Return the state that passes start from: every start's theta, and its blocks' shares."""

        def all_blocks(thetas: State, arrays: Arrays) -> State:
            data = self.target.keywords(arrays)

            def of_one(theta: State) -> Any:
                return jax.lax.map(
                    lambda block: self.share(theta, block.rows, block.weights, data),
                    self.blocks(num_blocks),
                )

            return thetas, jax.vmap(of_one)(thetas)

        arrays = self.target.arrays()
        return compiler(("first shares", num_blocks), all_blocks, theta, arrays)(theta, arrays)

    def partial_pass(self, num_blocks: int) -> Step:
        """Return an iteration that visits every block once, with an M-step after each.

        Its objective is the free energy E_q[log p(y, z | theta)] + H(q) after every visit, shape
        (num_blocks,): q is renewed for one block at a time, theta is best for q as it then is.
        """

        def one_pass(state: State, arrays: Arrays) -> tuple[State, jax.Array]:
            data = self.target.keywords(arrays)

            def visit(state: State, block: Any) -> tuple[State, jax.Array]:
                theta, shares = state
                place, rows, weights = block
                fresh = self.share(theta, rows, weights, data)
                shares = jax.tree.map(lambda all_, new: all_.at[place].set(new), shares, fresh)
                # added up anew, so that no rounding is handed on from visit to visit
                stats, entropy = jax.tree.map(lambda v: v.sum(axis=0), shares)
                theta = self.steps.m_step(stats, self.objective, **data)
                value = self.partial.expected(theta, stats, **data) + entropy
                return (theta, shares), value + self.log_prior(theta, data)

            blocks = (jnp.arange(num_blocks), *self.blocks(num_blocks))
            return jax.lax.scan(visit, state, blocks)

        return one_pass

    # -- how a run ends ----------------------------------------------------------------------------

    def alive(self, theta: State, final: Float[np.ndarray, " starts"]) -> list[int]:
        """Return the starts that have not collapsed.

        Raises
        ------
        MethodFailure
            ``DEGENERATE`` if there is none.
        """
        count = len(final)
        theta = jax.tree.map(np.asarray, theta)  # whose slices are no programs
        ends = [jax.tree.map(lambda v, r=r: v[r], theta) for r in range(count)]
        why = [why_collapsed(self.target, end) for end in ends]
        alive = [r for r in range(count) if not why[r] and np.isfinite(final[r])]
        if not alive:
            reason = next(filter(None, why), "the objective is not finite")
            raise no_start_left(count, reason)
        return alive

    def on_sites(self, theta: State) -> dict[str, np.ndarray]:
        """Return the values of the target's reported sites; NaN for sites EM says nothing of."""
        values = completed(self.target, theta)
        point = {}
        for site in self.target.quantities:
            value = np.asarray(values.get(site.name, np.full(site.shape, np.nan)), float)
            point[site.name] = value.reshape(site.shape)
        return point


def summary_of(target: Target) -> dict[str, jax.Array] | None:
    """Return the model's summary of the data for its EM steps; ``None`` where it makes none."""
    steps = target.complete_model.em
    if steps is None or steps.summary is None:
        return None
    summary = steps.summary
    return target.compiled_once(
        ("EM's summary", bool(jax.config.jax_enable_x64)),
        lambda: jax.jit(lambda arrays: dict(summary(**target.keywords(arrays))))(target.arrays()),
    )


def completed(target: Target, theta: State) -> State:
    """Return theta with the other sites that follow from it, where the model says which."""
    steps = target.complete_model.em
    if steps is None or steps.complete is None:
        return theta
    return _of_theta(target, "complete", steps.complete)(theta)


def why_collapsed(target: Target, theta: State) -> str:
    """Return what has collapsed at theta, by the floors of the model's EM steps; empty if none."""
    if not all(np.isfinite(v).all() for v in jax.tree.leaves(theta)):
        return "NaN or infinite parameters"
    steps = target.complete_model.em
    if steps is None or steps.collapse is None:
        return ""
    collapse = steps.collapse

    def smallest(theta: State, **data: Any) -> list[_Measured]:
        measured = collapse(theta, **data).items()
        return [_Measured(n, jnp.min(jnp.asarray(m)), jnp.asarray(f)) for n, (m, f) in measured]

    for each in _of_theta(target, "collapse", smallest)(theta):
        value, floor = float(each.value), float(each.floor)
        if not value > floor:
            return f"{each.name} {value:.3g} (floor {floor:.3g})"
    return ""


@partial(jax.tree_util.register_dataclass, data_fields=["value", "floor"], meta_fields=["name"])
@dataclass(frozen=True)
class _Measured:
    """What goes to zero where a component collapses, and the value below which it has."""

    name: str
    value: jax.Array
    floor: jax.Array


def log_likelihood_at(target: Target, theta: State) -> float:
    """Return log p(y | theta) by the model's own E-step."""
    steps = target.complete_model.em
    assert steps is not None
    e_step = steps.e_step

    def log_likelihood(theta: State, **data: Any) -> jax.Array:
        return jnp.asarray(e_step(theta, **data)[1])

    return float(_of_theta(target, "log likelihood", log_likelihood)(theta))


def _of_theta(target: Target, name: str, function: Callable[..., Any]) -> Callable[[State], Any]:
    """Return ``function(theta, **data)`` as one program of theta, compiled once for the target.

    Operation by operation it would be a program for each.
    """
    summary = summary_of(target)
    inputs = summary or target.arrays()

    def run(theta: State, inputs: Any) -> Any:
        return function(theta, **(target.keywords(inputs) if summary is None else inputs))

    options = compiler_options(FEW_CALLS, inputs)
    compiled = target.compiled_for_any_data(
        ("EM's steps", name), lambda: jax.jit(run, compiler_options=options)
    )

    def at(theta: State) -> Any:
        return compiled(theta, inputs)

    return at


def no_start_left(count: int, reason: str) -> MethodFailure:
    """Return the failure of a fit all of whose starts have collapsed."""
    return MethodFailure(
        Status.DEGENERATE,
        f"a component collapsed in every one of {count} starts: {reason}",
        "use objective='map', fewer components, or a tied covariance",
    )


def general_start(target: Target, key: jax.Array, number: int) -> Float[np.ndarray, " dim"]:
    """Return where the general route begins: at the model's own start of EM, if it has one.

    On the unconstrained scale. Sites that EM's start says nothing of begin as elsewhere.
    """
    steps = target.complete_model.em
    if steps is None:
        return starting_point(target, key, number)
    theta = started(steps.start, target, key)
    values = completed(target, theta)
    try:
        if {s.name for s in target.latents} <= set(values):
            return target.unconstrain(values)
        return target.unconstrain(target.constrain(starting_point(target, key, 0)) | values)
    except ValueError:  # at an edge of a support, or with other sites than the model's
        return starting_point(target, key, number)
