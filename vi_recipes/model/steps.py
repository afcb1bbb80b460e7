"""Which arrays of a traced model depend on its latent sites, and which of them by steps.

A threshold, a rounded number, a sign, an index or the branch that is taken changes by jumps: its
slope is 0 wherever it is looked at. What a program does with such values is read off its
intermediate code, so that what slopes cannot see is known without a search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal

from vi_recipes.core import programs_in

ROUNDING = ("floor", "ceil", "round", "sign", "rem", "nextafter")
"""Operations from numbers to numbers whose outcome jumps."""

KINKED = (
    *("abs", "max", "min", "clamp", "sort", "top_k"),
    *("reduce_max", "reduce_min", "cummax", "cummin", "reduce_window_max", "reduce_window_min"),
)
"""Operations from numbers to numbers whose slope jumps."""

SHAPING = ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "copy")
"""Operations that leave a constant what it is."""

MAX_ROUNDS = 20
"""Passes through a loop's body until what flows through it is the same before and after."""


class Flow(NamedTuple):
    """What an array depends on.

    Parameters
    ----------
    latents
        Latent sites that it depends on in any way.
    stepped
        Those of them that it may depend on by steps.
    infinite
        Whether it is a constant that is not finite: the log density outside a support.
    kinked
        Those of the latent sites in which it may have kinks, or steps. It need not: some smooth
        functions are made by way of others.
    ending
        Those of the latent sites that decide whether it is finite, as where a density is 0 beyond
        some value of theirs.
    """

    latents: frozenset[str] = frozenset()
    stepped: frozenset[str] = frozenset()
    infinite: bool = False
    kinked: frozenset[str] = frozenset()
    ending: frozenset[str] = frozenset()

    def jumping(self) -> Flow:
        """Return what is left of it by an operation whose outcome jumps."""
        return self._replace(stepped=self.latents, infinite=False, kinked=self.latents)

    def bending(self) -> Flow:
        """Return what is left of it by an operation whose slope jumps."""
        return self._replace(kinked=self.latents)


class Joint(NamedTuple):
    """Arrays that were joined along one axis.

    Parameters
    ----------
    axis
        Along which.
    pieces
        Of each in turn, where it ends along the axis, and its flow.
    """

    axis: int
    pieces: list[tuple[int, Flow]]


NOTHING = Flow()


def join(flows: Sequence[Flow]) -> Flow:
    """Return the flow of what depends on several arrays."""
    names = ("latents", "stepped", "kinked", "ending")
    latents, stepped, kinked, ending = (
        frozenset().union(*(getattr(flow, name) for flow in flows)) for name in names
    )
    return Flow(latents, stepped, kinked=kinked, ending=ending)


def trace_flows(function: Callable[..., Any], latents: dict[str, Any], *rest: Any) -> Any:
    """Follow latent sites through ``function(latents, *rest)``, which is traced and not run.

    Parameters
    ----------
    function
        Pure; returns a tree of arrays.
    latents
        Site -> array.
    *rest
        Other arguments, whose values do not matter.

    Returns
    -------
    tree
        What the function returns, with a :class:`Flow` in every array's place.
    """
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(latents, *rest)
    given = [Flow(frozenset([name])) for name in sorted(latents)]
    given += [NOTHING] * (len(closed.jaxpr.invars) - len(given))
    return jax.tree.unflatten(jax.tree.structure(shapes), _through(closed.jaxpr, given))


def _through(program: Jaxpr, given: Sequence[Flow]) -> list[Flow]:
    """Return the flows of what a program returns from those of what it is given."""
    known = dict(zip(program.invars, given, strict=True))
    joints: dict[Any, Joint] = {}
    magnitudes: dict[Any, Flow] = {}

    def flow(var: Any) -> Flow:
        if isinstance(var, Literal):
            return Flow(infinite=_is_float(var) and not np.isfinite(var.val).all())
        return known.get(var, NOTHING)

    for eqn in program.eqns:
        inputs = [flow(var) for var in eqn.invars]
        if eqn.primitive.name == "concatenate":
            joints[eqn.outvars[0]] = _joint(eqn, inputs)
        if eqn.primitive.name == "abs":
            magnitudes[eqn.outvars[0]] = inputs[0]
        if _is_even(eqn) and not isinstance(eqn.invars[0], Literal):
            inputs = [magnitudes.get(eqn.invars[0], inputs[0]), *inputs[1:]]
        cut = eqn.primitive.name == "slice" and not isinstance(eqn.invars[0], Literal)
        whole = joints.get(eqn.invars[0]) if cut else None
        outputs = _step(eqn, inputs) if whole is None else [_cut(eqn, whole)]
        known.update(zip(eqn.outvars, outputs, strict=True))
    return [flow(var) for var in program.outvars]


def _is_even(eqn: Any) -> bool:
    """Whether an operation has no kink where what it is given is an absolute value.

    That of log |x| is where it is infinite.
    """
    name = eqn.primitive.name
    return name in ("log", "square") or (name == "integer_pow" and eqn.params["y"] % 2 == 0)


def _joint(eqn: Any, inputs: list[Flow]) -> Joint:
    """Return the flows of what arrays are joined of, as x of x[0] and the rest, piece by piece."""
    axis = eqn.params["dimension"]
    ends = np.cumsum([var.aval.shape[axis] for var in eqn.invars])
    return Joint(axis, [(int(end), flow) for end, flow in zip(ends, inputs, strict=True)])


def _cut(eqn: Any, whole: Joint) -> Flow:
    """Return the flow of a slice of joined arrays: of the pieces that it has elements of."""
    low = eqn.params["start_indices"][whole.axis]
    high = eqn.params["limit_indices"][whole.axis]
    starts = [0, *(end for end, _ in whole.pieces)]
    pieces = zip(starts, whole.pieces, strict=False)
    return join([flow for start, (end, flow) in pieces if start < high and end > low])


def _step(eqn: Any, inputs: list[Flow]) -> list[Flow]:
    """Return the flows of what one operation returns."""
    name, joined = eqn.primitive.name, join(inputs)
    programs = list(programs_in(eqn.params))
    if not joined.latents and not programs:
        infinite = name in SHAPING and inputs[0].infinite
        return [Flow(infinite=infinite)] * len(eqn.outvars)
    if name == "stop_gradient":  # the rest is made so that it does not matter which number this is
        return [joined._replace(kinked=frozenset())]
    if programs:
        return _call(name, eqn, inputs, programs)
    if name == "is_finite" or (name in ("eq", "ne") and eqn.invars[0] is eqn.invars[1]):
        return [NOTHING]  # x != x asks whether x is a number at all
    if name == "select_n" and any(case.infinite for case in inputs[1:]):
        # what the density is outside a support is no step within it
        decides, inside = inputs[0], join(inputs[1:])
        return [inside._replace(ending=inside.ending | decides.latents)]
    from_numbers = any(f.latents for f, v in zip(inputs, eqn.invars, strict=True) if _is_float(v))
    return [
        joined.jumping()
        if name in ROUNDING
        or (from_numbers and not _is_float(out))  # comparisons, whole numbers, indices
        or (name == "sort" and place > 0)  # what is put into the order of something else
        else joined.bending()
        if name in KINKED
        else joined
        for place, out in enumerate(eqn.outvars)
    ]


def _call(name: str, eqn: Any, inputs: list[Flow], programs: list[Jaxpr]) -> list[Flow]:
    """Return the flows through an operation that runs programs."""
    if name == "scan":
        return _scan(eqn, inputs, programs[0])
    if name == "while":
        return _while(eqn, inputs)
    if name == "cond":
        taken, *passed = inputs
        outcomes = [_through(branch, passed) for branch in programs]
        return [join([*parts, taken]) for parts in zip(*outcomes, strict=True)]
    if len(programs[0].invars) == len(inputs):
        return _through(programs[0], inputs)
    # called in a way that is not known here: anything may go anywhere
    joined = join(inputs)
    outcomes = [_through(program, [joined] * len(program.invars)) for program in programs]
    return [join([joined, *(f for o in outcomes for f in o)])] * len(eqn.outvars)


def _scan(eqn: Any, inputs: list[Flow], body: Jaxpr) -> list[Flow]:
    # what is scanned over or stacked has one more axis outside the body than within it
    carried = sum(map(_same_axes, eqn.outvars, body.outvars))
    scanned = len(inputs) - sum(map(_same_axes, eqn.invars, body.invars))
    first = len(inputs) - scanned - carried
    return _repeat(body, inputs, slice(first, first + carried))


def _while(eqn: Any, inputs: list[Flow]) -> list[Flow]:
    of_test, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    body, test = eqn.params["body_jaxpr"].jaxpr, eqn.params["cond_jaxpr"].jaxpr
    state = _repeat(body, inputs[of_test:], slice(of_body, len(inputs) - of_test))
    [goes_on] = _through(test, [*inputs[:of_test], *state])
    return [join([f, goes_on]) for f in state]


def _repeat(body: Jaxpr, inputs: list[Flow], state: slice) -> list[Flow]:
    """Return the flows of what a loop's body returns, whose first outcomes are its next state."""
    given = list(inputs)
    for _ in range(MAX_ROUNDS):
        outputs = _through(body, given)
        before = given[state]
        after = [join([a, b]) for a, b in zip(before, outputs, strict=False)]
        if after == before:
            break
        given[state] = after
    return outputs


def _same_axes(one: Any, other: Any) -> bool:
    return len(one.aval.shape) == len(other.aval.shape)


def _is_float(var: Any) -> bool:
    return bool(jnp.issubdtype(getattr(var.aval, "dtype", np.int32), jnp.inexact))
