"""Minus the ELBO as a function of the factors' parameters, compiled."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import reduce
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.algebra import Push, SecondOrder, forward_is_quick
from vi_recipes.core import CALLS_OF_A_SEARCH, ByIdentity, Timing, shapes_of
from vi_recipes.elbo.expectation import Expectation
from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.held import (
    CHUNK,
    Held,
    HeldNodes,
    SomeDraws,
    chunks_of,
    with_given,
    without_given,
)
from vi_recipes.elbo.inspect import make_plans
from vi_recipes.model import Arrays, Target

NUM_AROUND = 2
"""Pairs of points, to both sides of the factors' means, where the model is looked at once more."""

Bend = Push | jax.Array
"""A Hessian: as a function of a direction, or its products with those taken ahead."""


class _Drawn(NamedTuple):
    """What a chunk of draws adds to minus the ELBO, and what its pairs say one by one.

    Parameters
    ----------
    value, gradient, bend
        What is added, its gradient, and its Hessian.
    values, gradients
        The log density of the drawn sites at every pair, shape (:data:`CHUNK`,), and its
        gradients, shape (:data:`CHUNK`, params).
    """

    value: jax.Array
    gradient: jax.Array
    bend: Bend
    values: jax.Array
    gradients: jax.Array


class KL:
    """Minus the ELBO as a function of the factors' parameters, compiled.

    It is the KL divergence of the factors from the posterior, less log p(y). The parameters are one
    flat vector, ``eta`` of shape (dim, 2) in C order.

    Parameters
    ----------
    target, factors
        The model and the laws.
    expectations
        Overrides of how sites' expectations are taken.
    key
        Seeds the starting point.
    timing
        Charged with compilations and evaluations.
    """

    def __init__(
        self,
        target: Target,
        factors: Factors,
        expectations: Mapping[str, str],
        key: jax.Array,
        timing: Timing,
    ) -> None:
        self.target, self.factors, self.timing = target, factors, timing
        anywhere = target.start(key, value_and_grad=lambda z: (0.0, np.zeros(1)))
        self._plans = make_plans(target, factors, anywhere, expectations, timing.compile)
        left_out = self.left_out
        kept = [plan for plan in self._plans.plans if plan.name not in left_out]
        self.expectation = Expectation(target, factors, kept, anywhere)
        self._site_arrays = self.expectation.site_arrays()
        self._arrays = target.arrays()
        self._last: tuple[bytes, tuple[float, np.ndarray], list[Bend]] | None = None
        self._drawn: tuple[bytes, list[_Drawn]] | None = None
        self._ahead: tuple[np.ndarray, jax.Array] | None = None
        self.num_nodes = self.num_pairs = 0

    def describe(self) -> str:
        """Say how the sites' expectations are taken."""
        return ", ".join(f"{p.name} by {p.describe()}" for p in self.expectation.plans)

    def misjudges(self, flat: Float[np.ndarray, " params"]) -> bool:
        """Return whether sites answer to the latents in ways that were not seen when it was made.

        Where the factors have their mass: the model was looked at near its start, and a hinge may
        lie far from there. One that is made anew after that was looked at there too.
        """
        location, scale = self.location_scale(flat)
        rng = np.random.default_rng(13)
        points = []
        for _ in range(NUM_AROUND):
            away = scale * rng.uniform(0.5, 3.0, scale.size) * rng.choice([-1, 1], scale.size)
            points += [location + away, location - away]
        if not np.isfinite(points).all():
            return False
        names = {plan.name for plan in self.expectation.plans}
        return self._plans.look_again(points, names)

    # -- what is held fixed ----------------------------------------------------------------------

    def use_nodes(self, num_nodes: int) -> None:
        """Integrate with so many nodes from now on."""
        self.num_nodes = num_nodes
        self._nodes = self.nodes(num_nodes)
        self._forget()

    def nodes(self, num_nodes: int, exact_nodes: int = 2) -> dict[str, HeldNodes]:
        """Return nodes for :meth:`evaluate`, which compile nothing up to twice those in use.

        ``num_nodes`` and ``exact_nodes`` are those of :meth:`Expectation.nodes`.
        """
        room = max(16, 2 * self.num_nodes)
        return self.expectation.nodes(num_nodes, room, exact_nodes)

    def use_pairs(self, num_pairs: int, seed: int = 17) -> None:
        """Draw so many antithetic pairs; the first ones of a seed stay the same."""
        self.num_pairs = num_pairs if self.expectation.drawn else 0
        shape = (self.num_pairs, self.target.dim)
        noise = np.random.default_rng(seed).standard_normal(shape)
        self._noise, self._no_noise = jax.device_put((noise, noise[:0]))
        self._chunks, self._drawn = chunks_of(noise), None
        self._forget()

    def as_found(self, num_nodes: int, num_pairs: int) -> Self:
        """Return it with the nodes and pairs that an optimum was found with.

        Fits of one target share it, and a later one may have used others. What is evaluated from
        here on is charged to none of them.
        """
        self.timing = Timing()
        if (num_nodes, num_pairs) != (self.num_nodes, self.num_pairs):
            with jax.enable_x64(True):
                self.use_nodes(num_nodes)
                self.use_pairs(num_pairs)
        return self

    def take_along(self, basis: Float[np.ndarray, "directions params"] | None) -> None:
        """Have every evaluation bring the products along the rows of ``basis``, by one program.

        With ``None`` they have a program of their own, which runs where they are asked for.
        """
        self._ahead = None if basis is None else (basis, jax.device_put(basis))
        self._drawn = None
        self._forget()

    def _forget(self) -> None:
        """Forget what was evaluated at the last point."""
        self._last = None

    @property
    def held(self) -> Held:
        """The arrays that :meth:`value` takes besides the parameters."""
        return Held(self._site_arrays, self._nodes, self._noise, self._arrays)

    # -- the function and its derivatives --------------------------------------------------------

    def value(
        self, flat: Float[Array, " params"], held: Held, *, live: bool = False
    ) -> Float[Array, ""]:
        """Return minus the ELBO; pure. ``live`` makes it differentiable in the data too."""
        total = self._undrawn(flat, held, live=live)
        if self.expectation.drawn:

            def pair(x: jax.Array) -> jax.Array:
                return self.expectation.pair(flat.reshape(-1, 2), x, held.arrays)

            pairs = jax.lax.map(pair, held.noise, batch_size=min(CHUNK, len(held.noise)))
            total = total - jnp.mean(pairs)
        return total

    def _undrawn(
        self, flat: Float[Array, " params"], held: Held, *, live: bool = False
    ) -> Float[Array, ""]:
        """Return what of minus the ELBO no draw takes part in."""
        eta = flat.reshape(-1, 2)
        taken = self.expectation(eta, held, live=live) + self.factors.entropy(eta)
        return -self.instead(eta, held.arrays) - taken

    @property
    def left_out(self) -> Collection[str]:
        """Sites whose log density the objective leaves out: none here."""
        return ()

    def instead(self, eta: Float[Array, "dim 2"], arrays: Arrays) -> Float[Array, ""]:
        """Return what the objective has in place of what it leaves out: nothing here; pure."""
        return jnp.zeros(())

    def evaluate(
        self, flat: Float[np.ndarray, " params"], nodes: dict[str, HeldNodes] | None = None
    ) -> tuple[float, Float[np.ndarray, " params"]]:
        """Return value and gradient, with other nodes than those in use if some are given.

        Remembers the last point and its second derivatives.
        """
        key = flat.tobytes()
        if nodes is None and self._last is not None and self._last[0] == key:
            return self._last[1]
        self._last = None  # what was kept of every row for the last point need not be there too
        x = jnp.asarray(flat, float)
        held = self.held._replace(noise=self._no_noise, nodes=nodes or self._nodes)
        gradient, bend, value = self._second_order(
            self._linearised, self._linearised_along, x, held
        )
        bend = with_given(bend, held)
        drawn = self._at_draws(flat)
        self.timing.gradient_evaluations += 1
        self.timing.hvp_evaluations += 0 if self._ahead is None else len(self._ahead[0])
        first_order = (
            float(value) + sum(float(chunk.value) for chunk in drawn),
            np.asarray(gradient, float) + sum(np.asarray(chunk.gradient) for chunk in drawn),
        )
        if nodes is None:
            self._last = key, first_order, [bend, *(chunk.bend for chunk in drawn)]
        return first_order

    def _expanded(
        self, flat: Float[Array, " params"], held: Held
    ) -> tuple[Float[Array, " params"], Push, Float[Array, ""]]:
        """Return gradient, the Hessian as a function of a direction, and value: without draws."""
        gradient, push, value = self._linearised(flat, held)
        return gradient, with_given(push, held), value

    def _linearised(
        self, flat: Float[Array, " params"], held: Held
    ) -> tuple[Float[Array, " params"], Push, Float[Array, ""]]:
        """Return the same, of which the Hessian is without what it has of ``held``."""

        def gradient(f: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, slope = jax.value_and_grad(self._undrawn)(f, held)
            return slope, value

        slope, push, value = jax.linearize(gradient, flat, has_aux=True)
        made = slope, without_given(push, held), value
        return made if self.target.spread is None else self.target.spread.divide(made)

    def _linearised_along(
        self, flat: Float[Array, " params"], held: Held, basis: Float[Array, "directions params"]
    ) -> tuple[Float[Array, " params"], Float[Array, "directions params"], Float[Array, ""]]:
        """Return gradient, the Hessian times each row of ``basis``, and value: without draws.

        All rows side by side, which is quicker to compile than one after the other.
        """
        gradient, push, value = self._expanded(flat, held)
        return gradient, jax.vmap(push)(basis), value

    def _at_draws(self, flat: Float[np.ndarray, " params"]) -> list[_Drawn]:
        """Return what the draws add, chunk by chunk: one program, however many there are."""
        key = flat.tobytes()
        if self._drawn is None or self._drawn[0] != key:
            self._drawn = None
            x = jnp.asarray(flat, float)
            parts = [
                self._second_order(
                    self._at_chunk, self._at_chunk_along, x, chunk, self._arrays, in_turn=True
                )
                for chunk in self._chunks
            ]
            self._drawn = key, parts
        return self._drawn[1]

    def _at_chunk(self, flat: Float[Array, " params"], chunk: SomeDraws, arrays: Arrays) -> _Drawn:
        known = None
        if forward_is_quick(self.target.dim, self.target.size):
            known = self.expectation.expand(flat.reshape(-1, 2), chunk.noise, arrays)

        def pairs(f: jax.Array) -> tuple[jax.Array, jax.Array]:
            def one(f: jax.Array, x: jax.Array, known: SecondOrder | None) -> jax.Array:
                return self.expectation.pair(f.reshape(-1, 2), x, arrays, known)

            return jax.vmap(jax.value_and_grad(one), (None, 0, 0))(f, chunk.noise, known)

        def gradient(f: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            values, gradients = pairs(f)
            return -chunk.weight @ gradients, (values, gradients)

        slope, push, (values, gradients) = jax.linearize(gradient, flat, has_aux=True)
        return _Drawn(-chunk.weight @ values, slope, push, values, gradients)

    def _at_chunk_along(
        self,
        flat: Float[Array, " params"],
        chunk: SomeDraws,
        arrays: Arrays,
        basis: Float[Array, "directions params"],
    ) -> _Drawn:
        drawn = self._at_chunk(flat, chunk, arrays)
        assert not isinstance(drawn.bend, jax.Array)
        # one after the other: all pairs along all directions are too much for a processor's cache
        return drawn._replace(bend=_along(drawn.bend, basis))

    def products(
        self, flat: Float[np.ndarray, " params"], basis: Float[np.ndarray, "directions params"]
    ) -> Float[np.ndarray, "directions params"]:
        """Return Hessian-vector products along the rows of ``basis``."""
        if self._ahead is None:
            self.timing.hvp_evaluations += len(basis)
            directions = jnp.asarray(basis, float)
            # what is linear does little with every number that it reads
            calls = CALLS_OF_A_SEARCH // 10
            bends = self._bends(flat)
            parts = [self._run(_along, push, directions, calls=calls) for push in bends]
        else:
            if basis is not self._ahead[0]:
                self.take_along(basis)
            parts = self._bends(flat)
        return np.asarray(reduce(np.add, map(np.asarray, parts)))  # sum would begin with a copy

    def _bends(self, flat: Float[np.ndarray, " params"]) -> list[Bend]:
        """Return Hessians at a point that add up to the objective's."""
        KL.evaluate(self, flat)  # those of what is here, where others have a share in the sum
        assert self._last is not None
        return self._last[2]

    def pair_gradients(
        self, flat: Float[np.ndarray, " params"]
    ) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, "pairs params"]]:
        """Return what every antithetic pair says of the sites that are drawn, and its gradient."""
        parts = self._at_draws(flat)
        values = np.concatenate([chunk.values for chunk in parts])[: self.num_pairs]
        return values, np.concatenate([chunk.gradients for chunk in parts])[: self.num_pairs]

    def location_scale(
        self, flat: Float[np.ndarray, " params"]
    ) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
        """Return mean and sd of every coordinate."""
        with np.errstate(over="ignore"):  # what runs off is reported
            return self.factors.location_scale(flat.reshape(-1, 2))

    def _second_order(
        self,
        alone: Callable[..., Any],
        along: Callable[..., Any],
        *args: Any,
        in_turn: bool = False,
    ) -> Any:
        """Run ``alone``, or ``along`` where products are taken ahead, which has the directions.

        ``in_turn`` says that it takes one direction after the other: each is then as much work as
        the gradient; side by side they are less.
        """
        if self._ahead is None:
            return self._run(alone, *args)
        calls = CALLS_OF_A_SEARCH * (len(self._ahead[0]) if in_turn else 1)
        return self._run(along, *args, self._ahead[1], calls=calls)

    def _run(self, function: Callable[..., Any], *args: Any, calls: int = CALLS_OF_A_SEARCH) -> Any:
        """Run a function that is compiled once for the shapes of its arguments."""
        # the target keeps it, and charges it to whichever fits use it
        key = ByIdentity(self), function.__name__, shapes_of(*args)
        compiled = self.target.compiled_once(
            key, lambda: self.timing.compile(function, *args, calls=calls)
        )
        return compiled(*args)


def _along(push: Push, basis: Float[Array, "directions params"]) -> jax.Array:
    """Return ``push`` of every row of ``basis``."""
    return jax.lax.map(push, basis)
