"""Discrete latent variables summed out member by member, by one trace of the model for each state.

It is found out, not declared, which member every element of the log density belongs to: the members
are given the digits of their index as states. What NumPyro's enumeration makes of a model is
compared with it: a site that reads states by an index, or across their plate, has another density
there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro import handlers

from vi_recipes.core import COMPILED_QUICKLY
from vi_recipes.model.bound import Arrays
from vi_recipes.model.sites import Site
from vi_recipes.model.weights import SiteWeights, unmasked, weights_of_members
from vi_recipes.model.zeros import IMPOSSIBLE, floored, with_finite_logs

MAX_STATES = 1_024
"""Combined states of one member's discrete latent variables that are summed over."""

SAME_DENSITY = 1e-9
"""Relative difference of log densities that counts as none."""

ValuesAt = Callable[[np.ndarray], dict[str, np.ndarray]]
"""States of the members, by their number -> log densities of all sites, element by element."""


class CoupledError(Exception):
    """Members touch one another; its argument is why."""


def members_of(look: ValuesAt, count: int, members: int) -> dict[str, np.ndarray]:
    """Return, site by site, the member that each element of its log density belongs to.

    The members are given the digits of their index as states. An element of member t then equals,
    digit by digit, its value with everyone in the first state or with everyone in another; random
    states verify it. Sites that no state touches are left out, elements have -1.

    Raises
    ------
    CoupledError
        With the name of the site through which members are coupled.
    """
    rng = np.random.default_rng(3)

    def seen_at(states: np.ndarray) -> dict[str, np.ndarray]:
        return {n: comparable(v) for n, v in look(states).items()}

    everyone = [seen_at(np.full(members, k)) for k in range(count)]
    digits = [(np.arange(members) >> b) & 1 for b in range(max(1, int(members - 1).bit_length()))]
    patterns = {k: [seen_at(np.where(d, k, 0)) for d in digits] for k in range(1, count)}
    random = rng.integers(count, size=(3, members))
    checks = [seen_at(pattern) for pattern in random]
    index = {}
    for name in everyone[0]:
        values = np.stack([e[name] for e in everyone])
        scale = scale_of(values)
        place = np.full(values.shape[1:], -1)
        for k in range(1, count):
            moves = np.abs(values[k] - values[0]) > 1e3 * SAME_DENSITY * scale
            guess = np.zeros(values.shape[1:], int)
            for b, seen in enumerate(patterns[k]):
                nearer = np.abs(seen[name] - values[k]) < np.abs(seen[name] - values[0])
                guess += nearer.astype(int) << b
            place = np.where(moves & (place < 0), guess, place)
        inside = np.clip(place, 0, members - 1)
        for pattern, seen in zip(random, checks, strict=True):
            expected = np.take_along_axis(values, pattern[inside][None], axis=0)[0]
            expected = np.where(place < 0, values[0], expected)
            off = ~(np.abs(seen[name] - expected) <= 1e2 * SAME_DENSITY * scale)
            if off.any() or (place >= members).any():
                raise CoupledError(name)
        if (place >= 0).any():
            index[name] = place
    return index


def comparable(values: Any) -> np.ndarray:
    """Return log densities with a number in place of infinity: states may be impossible."""
    values = np.asarray(values, float)
    return np.asarray(np.nan_to_num(values, nan=np.nan, posinf=-IMPOSSIBLE, neginf=IMPOSSIBLE))


def scale_of(values: np.ndarray) -> np.ndarray:
    """Return what differences along the first axis are relative to: possible values, at least 1."""
    size = np.abs(values)
    return np.asarray(np.maximum(1.0, np.where(size < -IMPOSSIBLE, size, 0.0).max(axis=0)))


# -- the sum over states -------------------------------------------------------------------------


@dataclass(frozen=True)
class Summand:
    """A model with discrete latent variables, at given values of the other sites.

    Parameters
    ----------
    function
        The NumPyro model.
    sites
        Its discrete sites by name.
    supports
        The values of each.
    """

    function: Callable[..., Any]
    sites: Mapping[str, Site]
    supports: Mapping[str, Sequence[int]]

    def trace(self, values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
        """Return a trace of the model at values of its latent sites."""
        model = handlers.seed(with_finite_logs(self.function), jax.random.key(0))
        with jax.numpy_rank_promotion("allow"):
            model = handlers.substitute(model, data=dict(values))
            return dict(handlers.trace(model).get_trace(**data))

    def elements(self, values: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Array]:
        """Return the log densities of all sites, element by element, scales and masks applied."""
        elements = {}
        for name, site in self.trace(values, data).items():
            if site["type"] == "sample":
                value = site["fn"].log_prob(site["value"])
                scale = site["scale"]
                elements[name] = jnp.asarray(value if scale is None else scale * value)
        return elements


@dataclass(frozen=True)
class StateSum:
    """The sum over the states of every member.

    Parameters
    ----------
    summand
        What is summed.
    states
        Combined states of a member, shape (K, number of sites).
    index
        Site -> member of each element.
    weights
        Of every member's marginal; ``None`` where all are 1.
    """

    summand: Summand
    states: Int[np.ndarray, "K sites"]
    index: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Float[np.ndarray, " members"] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of every discrete site, whose elements are the members."""
        return next(iter(self.summand.sites.values())).shape

    @property
    def num_members(self) -> int:
        """How many members there are."""
        return int(np.prod(self.shape, dtype=int))

    def given(self, states: Any) -> dict[str, Array]:
        """Return the discrete sites' values for the states of all members, by their number."""
        table = jnp.asarray(self.states)[jnp.broadcast_to(states, (self.num_members,))]
        return {n: table[:, k].reshape(self.shape) for k, n in enumerate(self.summand.sites)}

    def log_joint(self, values: Mapping[str, Any], data: Mapping[str, Any]) -> Float[Array, ""]:
        """Return the log joint density of the other sites, the states summed out; pure."""

        def at(k: jax.Array) -> tuple[jax.Array, jax.Array]:
            trace = self.summand.trace({**values, **self.given(k)}, data)
            rest, members = jnp.zeros(()), jnp.zeros(self.num_members)
            for name, site in trace.items():
                if site["type"] != "sample":
                    continue
                weighted = self.weights is not None and name in self.index
                own = weighted and name in self.summand.sites
                value = (unmasked(site["fn"])[0] if own else site["fn"]).log_prob(site["value"])
                if site["scale"] is not None and not own:
                    value = site["scale"] * value
                if name not in self.index:
                    rest = rest + jnp.sum(value)
                    continue
                place = self.index[name].ravel()
                value = jnp.broadcast_to(value, self.index[name].shape).ravel()
                if weighted and not own:
                    assert self.weights is not None
                    w = self.weights[np.maximum(place, 0)]
                    value = jnp.where(w > 0, value / np.where(w > 0, w, 1.0), 0.0)
                touched = place >= 0
                rest = rest + jnp.where(touched, 0.0, value).sum()
                members = members + jax.ops.segment_sum(
                    jnp.where(touched, value, 0.0), np.maximum(place, 0), self.num_members
                )
            return rest, members

        rest, members = jax.vmap(at)(jnp.arange(len(self.states)))
        by_member = jax.nn.logsumexp(floored(members), axis=0)
        if self.weights is not None:
            by_member = jnp.asarray(self.weights) * by_member
        return rest[0] + by_member.sum()


def state_sum(
    summand: Summand,
    values: Mapping[str, Any],
    keywords: Callable[[Arrays], dict[str, Any]],
    arrays: Arrays,
    weights: SiteWeights,
    plates: Mapping[str, Sequence[str]],
) -> StateSum:
    """Return the sum over the states of every member, verified.

    Parameters
    ----------
    summand
        The model.
    values
        Random values of its other latent sites.
    keywords, arrays
        Make the model's arguments of its traced data.
    weights
        Of all sites.
    plates
        Site -> names of its plates.

    Raises
    ------
    CoupledError
        Where there are no members that do not touch one another.
    ModelError
        Where weights are not those of rows.
    """
    shapes = {site.shape for site in summand.sites.values()}
    names = ", ".join(summand.sites)
    if len(shapes) > 1:
        raise CoupledError(f"{names} have different shapes")
    count = int(np.prod([len(v) for v in summand.supports.values()]))
    if count > MAX_STATES:
        raise CoupledError(f"{names} have {count} combined states, at most {MAX_STATES} are summed")
    states = np.array(list(product(*summand.supports.values()))).reshape(count, -1)
    bare = StateSum(summand, states)
    compiled = jax.jit(
        lambda states, values, arrays: summand.elements(
            {**values, **bare.given(states)}, keywords(arrays)
        ),
        compiler_options=COMPILED_QUICKLY,
    )

    def look(states: np.ndarray) -> dict[str, np.ndarray]:
        return {n: np.asarray(v) for n, v in compiled(jnp.asarray(states), values, arrays).items()}

    try:
        index = members_of(look, count, bare.num_members)
    except CoupledError as error:
        raise CoupledError(f"members of {names} are coupled through {error}") from None
    except (TypeError, ValueError, IndexError) as error:
        raise CoupledError(f"{type(error).__name__}: {error}") from None
    # where all states are as likely a priori, none of them moves the site's own density
    own = np.arange(bare.num_members).reshape(bare.shape)
    index |= {name: own for name in summand.sites if index.get(name, own).shape == own.shape}
    w = weights_of_members(weights, index, list(summand.sites), bare.num_members, plates)
    return StateSum(summand, states, index, w)
