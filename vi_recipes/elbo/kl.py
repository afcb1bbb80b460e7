"""Minus the ELBO as a function of the factors' parameters, compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.algebra import (
    MULTIPLE,
    VERIFIED,
    BlockArrow,
    Crossed,
    Families,
    LocalStructure,
    Push,
    dense_structure,
    pad,
    steihaug,
    trust_region_newton,
    verified,
)
from vi_recipes.core import MethodFailure, Progress, Status, Timing
from vi_recipes.elbo.curvature import MAX_BORDER, MAX_BYTES, MAX_DENSE_PARAMETERS
from vi_recipes.elbo.expectation import CHECK_NODES, Expectation
from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.inspect import make_plans
from vi_recipes.elbo.minimise import RUNAWAY, Optimum
from vi_recipes.model import Target, candidates, find_families

if TYPE_CHECKING:
    from vi_recipes.methods import MeanField


class KL:
    """Minus the ELBO as a function of the factors' parameters, compiled, with its Hessian.

    Parameters
    ----------
    target, factors
        The model and the laws.
    expectations
        Overrides of how sites' expectations are taken.
    key
        Seeds the starting point and the fixed draws.
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
        plans = make_plans(target, factors, anywhere, expectations, timing.compile)
        self.expectation = Expectation(target, factors, plans, anywhere)
        self._constants = jax.tree.map(jnp.asarray, self.expectation.constants())
        self._arrays = target.arrays()
        self._compiled: dict[Any, Callable[..., Any]] = {}
        self._memo: tuple[bytes, tuple[float, np.ndarray], Push] | None = None
        self.structure: LocalStructure | None = None
        self.families: Families | None = None
        self.num_nodes = self.num_pairs = 0

    def describe(self) -> str:
        """Say how the sites' expectations are taken."""
        return ", ".join(f"{p.name} by {p.describe()}" for p in self.expectation.plans)

    def use_nodes(self, num_nodes: int) -> None:
        """Integrate with so many nodes from now on."""
        self.num_nodes = num_nodes
        self._nodes = self._room(num_nodes)
        self._memo = None

    def _room(self, num_nodes: int, exact_nodes: int = 2) -> Any:
        room = max(16, 2 * self.num_nodes)
        nodes = self.expectation.nodes(num_nodes, room, exact_nodes)
        return jax.tree.map(jnp.asarray, nodes)

    def use_pairs(self, num_pairs: int) -> None:
        """Draw so many antithetic pairs; the first ones stay the same."""
        self.num_pairs = num_pairs if self.expectation.drawn else 0
        shape = (self.num_pairs, self.target.dim)
        self._noise = jnp.asarray(np.random.default_rng(17).standard_normal(shape))
        self._memo = None

    # -- the function and its derivatives --------------------------------------------------------

    @property
    def held(self) -> Any:
        """The arrays that :meth:`value` takes besides the parameters."""
        return self._constants, self._nodes, self._noise, self._arrays

    def value(self, flat: jax.Array, held: Any, *, live: bool = False) -> jax.Array:
        """Return minus the ELBO; pure. ``live`` makes it differentiable in the data too."""
        constants, nodes, noise, arrays = held
        eta = flat.reshape(-1, 2)
        total = self.expectation(eta, constants, nodes, arrays, live) + self.factors.entropy(eta)
        if self.expectation.drawn:

            def pair(x: jax.Array) -> jax.Array:
                return self.expectation.pair(eta, x, arrays)

            total = total + jnp.mean(jax.lax.map(pair, noise, batch_size=min(16, len(noise))))
        return self.leave_out(eta, arrays) - total

    def leave_out(self, eta: jax.Array, arrays: Any) -> jax.Array:
        """Return what of the expected log density the objective leaves out: nothing here; pure."""
        return jnp.zeros(())

    def _linearised(self, flat: jax.Array, held: Any) -> Any:
        """Return gradient, the Hessian as a function of a direction, and value."""

        def gradient(f: jax.Array) -> tuple[jax.Array, jax.Array]:
            value, found = jax.value_and_grad(self.value)(f, held)
            return found, value

        return jax.linearize(gradient, flat, has_aux=True)

    def _pair_gradients(self, flat: jax.Array, held: Any) -> jax.Array:
        arrays = held[3]

        def one(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            def value(f: jax.Array) -> jax.Array:
                return self.expectation.pair(f.reshape(-1, 2), x, arrays)

            return jax.value_and_grad(value)(flat)

        return jax.lax.map(one, held[2])

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        shapes = (v.shape for v in jax.tree.leaves(args))
        key = (function.__name__, jax.tree.structure(args), *shapes)
        if key not in self._compiled:
            self._compiled[key] = self.timing.compile(function, *args)
        return self._compiled[key](*args)

    def _truncated(self, push: Push, gradient: jax.Array, inverse: Any, radius: jax.Array) -> Any:
        """Return a truncated Newton step, for crossed families."""
        assert self.families is not None
        return steihaug(push, self.families.structure, gradient, inverse, radius)

    def evaluate(self, flat: np.ndarray, nodes: Any = None) -> tuple[float, np.ndarray]:
        """Return value and gradient; remembers the last point and its second derivatives."""
        key = flat.tobytes()
        if nodes is None and self._memo is not None and self._memo[0] == key:
            return self._memo[1]
        held = self._constants, self._nodes if nodes is None else nodes, self._noise, self._arrays
        gradient, push, value = self._run(self._linearised, jnp.asarray(flat, float), held)
        self.timing.gradient_evaluations += 1
        found = float(value), np.asarray(gradient, float)
        if nodes is None:
            self._memo = key, found, push
        return found

    def _push(self, flat: np.ndarray) -> Push:
        """Return the Hessian at a point as a function of a direction."""
        self.evaluate(flat)
        assert self._memo is not None
        return self._memo[2]

    def products(self, flat: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Return Hessian-vector products along the rows of ``basis``."""
        self.timing.hvp_evaluations += len(basis)
        return np.asarray(self._run(along, self._push(flat), jnp.asarray(basis, float)))

    def hessian(self, flat: np.ndarray) -> BlockArrow | Crossed | None:
        """Return the Hessian, with steps measured by the factors' Fisher information."""
        rows = self.products(flat, self._basis)
        if not np.isfinite(rows).all():
            return None
        metric = self._metric(flat)
        if self.families is None:
            assert self.structure is not None
            return self.structure.assemble(rows, metric)

        def run(gradient: np.ndarray, inverse: Any, radius: float) -> Any:
            args = jax.tree.map(lambda a: jnp.asarray(a, float), (gradient, inverse, radius))
            return self._run(self._truncated, self._push(flat), *args)

        return Crossed(self.families.assemble(rows, metric)[0], run)

    def _metric(self, flat: np.ndarray) -> np.ndarray:
        # factors that run off or collapse are reported; they need not overflow on the way
        with np.errstate(over="ignore"):
            metric = self.factors.metric(flat.reshape(-1, 2)).ravel()
        return np.clip(metric, 1e-200, 1e200)

    def full_hessian(self, flat: np.ndarray) -> BlockArrow:
        """Return the Hessian in block-arrow form, whatever the optimiser made do with.

        Raises
        ------
        MethodFailure
            ``NOT_APPLICABLE`` where that takes too much memory, or there is no such form.
        """
        if self.families is None:
            found = self.hessian(flat)
            assert isinstance(found, BlockArrow)
            return found
        structure = candidates(self.target.latents, self.target.slices)[0].widened(2)
        if structure.num_bytes > MAX_BYTES:
            raise MethodFailure(
                Status.NOT_APPLICABLE,
                f"with {', '.join(structure.sites)} as blocks the covariances of the other "
                f"{structure.border.size} parameters take {structure.num_bytes / 1e9:.1f} GB "
                f"(limit {MAX_BYTES / 1e9:.1f})",
                "use MeanField alone, or NUTS",
            )
        if (quick := self._gathered_hessian(flat, structure)) is not None:
            return quick
        basis, rows = structure.basis(), []
        for first in range(0, len(basis), MULTIPLE):
            chunk = pad(basis[first : first + MULTIPLE])
            rows.append(self.products(flat, chunk))
        products = np.concatenate(rows)[: len(basis)]
        error = structure.error(products)
        if not error.max() <= VERIFIED:
            raise MethodFailure(
                Status.NOT_APPLICABLE,
                f"members of plate {structure.plate} are coupled (relative error "
                f"{error.max():.2g}), so the Hessian has no structure to invert it by",
                "use MeanField alone, or NUTS",
            )
        metric = self._metric(flat)
        return structure.assemble(products, metric)

    def _gathered_hessian(self, flat: np.ndarray, structure: LocalStructure) -> BlockArrow | None:
        """Return the Hessian of crossed families that meet only in inputs which gather both.

        ``None`` where a product along a random direction says that they meet elsewhere too.
        """
        assert self.families is not None
        couplings = []
        found = self._run(self._couplings, jnp.asarray(flat, float), self.held)
        for (i, j), block in zip(self.expectation.gathered_pairs, found, strict=True):
            step = np.arange(2)
            rows = np.broadcast_to(2 * i[:, None, None] + step[:, None], block.shape)
            columns = np.broadcast_to(2 * j[:, None, None] + step, block.shape)
            couplings.append((rows, columns, -np.asarray(block)))
        whole = self.families.full(self.products(flat, self._basis), couplings)
        direction = np.random.default_rng(4).standard_normal(structure.dim)
        product = self.products(flat, pad(direction[None]))[0]
        error = np.abs(whole @ direction - product).max() / np.abs(product).max()
        return structure.arrow(whole, self._metric(flat)) if error <= VERIFIED else None

    def _couplings(self, flat: jax.Array, held: Any) -> list[jax.Array]:
        constants, nodes, _, arrays = held
        return self.expectation.couplings(flat.reshape(-1, 2), constants, nodes, arrays)

    def _use(self, structure: LocalStructure | Families) -> None:
        self.structure = self.families = None
        if isinstance(structure, Families):
            self.families = structure
        else:
            self.structure = structure
        self._basis, self._memo = structure.basis(), None

    def find_structure(self, key: jax.Array) -> np.ndarray:
        """Find and verify the Hessian's structure; return a starting point of finite value.

        Raises
        ------
        MethodFailure
            ``NOT_APPLICABLE`` where the Hessian has no affordable form.
        """
        known = self.structure or self.families
        if known is not None:
            self._use(known)
            return self._start(key)
        suggested = [s.widened(2) for s in candidates(self.target.latents, self.target.slices)]
        families = find_families(self.target.latents, self.target.slices)
        reasons = []
        for structure in [*suggested, families, dense_structure(2 * self.target.dim)]:
            if structure is None:
                continue
            if isinstance(structure, Families):
                if structure.structure.border.size > MAX_BORDER // 2:
                    continue
                self._use(structure.widened(2))
                assert self.families is not None
                start = self._start(key)
                error = self.families.assemble(self._moved(start), np.ones(start.size))[1]
                if verified(error):
                    return start
                self.families = None
                reasons.append(f"members within a plate of {structure.structure.plate} couple")
                continue
            limit = MAX_BORDER if structure.local.size else MAX_DENSE_PARAMETERS
            if structure.border.size > limit:
                blocks = f"with {', '.join(structure.sites)} as blocks"
                what = blocks if structure.sites else "dense"
                gigabytes = structure.num_bytes / 1e9
                reasons.append(
                    f"{what}: {structure.border.size} coupled parameters, {gigabytes:.2g} GB"
                )
                continue
            self._use(structure)
            start = self._start(key)
            errors = structure.error(self._moved(start))
            if np.isfinite(errors).all() and errors.max() <= VERIFIED:
                return start
            by_site = errors.reshape(-1, 2).max(axis=1)
            names = [n for n, p in self.target.slices.items() if not by_site[p].max() <= VERIFIED]
            reasons.append(f"members of plate {structure.plate} couple through {', '.join(names)}")
            self.structure = None
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"the Hessian in {2 * self.target.dim} parameters has no form that is affordable: "
            + "; ".join(reasons),
            "use SVI with guide='normal'",
        )

    def _start(self, key: jax.Array) -> np.ndarray:
        def evaluate(z: np.ndarray) -> tuple[Any, Any]:
            return self.evaluate(self.factors.start(z, 0.1).ravel())

        z = self.target.start(key, value_and_grad=evaluate)
        return self.factors.start(z, 0.1).ravel()

    def _moved(self, start: np.ndarray) -> np.ndarray:
        noise = np.random.default_rng(5).standard_normal(start.size)
        return self.products(start + 0.1 * noise, self._basis)

    # -- its minimum ---------------------------------------------------------------------------

    def minimise(
        self,
        start: np.ndarray,
        method: MeanField,
        progress: Progress,
        trace: list[float] | None = None,
    ) -> Optimum:
        """Minimise from ``start`` and judge the outcome."""
        trace = [] if trace is None else trace
        first = np.asarray(start, float).ravel()
        begin, _ = self._location_scale(first)

        def callback(flat: np.ndarray) -> bool:
            trace.append(-self.evaluate(flat)[0])
            progress(len(trace), method.max_steps, f"ELBO {trace[-1]:.6g}")
            location, scale = self._location_scale(flat)
            return bool((np.abs(location - begin) > 1e6 * (1 + scale)).any())

        with np.errstate(all="ignore"):
            flat, why = trust_region_newton(
                self.evaluate,
                self.hessian,
                first,
                max_steps=method.max_steps,
                tolerance=method.tolerance / 10,
                callback=callback,
                radius=float(np.sqrt(first.size)),
            )
        value, gradient = self.evaluate(flat)
        hessian = self.hessian(flat)
        decrement = float("inf") if hessian is None else hessian.decrement(gradient)
        converged = decrement <= method.tolerance
        optimum = Optimum(
            self,
            flat.reshape(-1, 2),
            -value,
            decrement,
            hessian if converged else None,
            trace,
            Status.OK if converged else Status.UNCONVERGED,
            f"Newton decrement {decrement:.2g} after {len(trace)} steps; {self.describe()}",
            num_nodes=self.num_nodes,
            num_pairs=self.num_pairs,
        )
        if not converged:
            self._explain(optimum, flat, why, begin)
            return optimum
        assert hessian is not None
        doubled = self._room(2 * self.num_nodes, CHECK_NODES)
        optimum.node_error = hessian.decrement(self.evaluate(flat, doubled)[1] - gradient)
        if self.expectation.drawn:
            self._draw_error(optimum, flat, hessian)
        return optimum

    def _location_scale(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        m, s = self.factors.location_scale(jnp.asarray(flat).reshape(-1, 2))
        return np.asarray(m), np.asarray(s)

    def _explain(self, optimum: Optimum, flat: np.ndarray, why: str, begin: np.ndarray) -> None:
        location, scale = self._location_scale(flat)
        far = ~(np.abs(location - begin) <= RUNAWAY * np.clip(scale, 1.0, 1e6)) | (scale > 1e12)
        narrow = (scale < 1e-6) & ~self.factors.points
        names = self.target.slices.items()
        if far.any() or narrow.any():
            gone = [n for n, p in names if (far | narrow)[p].any()]
            raise MethodFailure(
                Status.DEGENERATE,
                f"the ELBO still rises (now {optimum.elbo:.6g}) as the factors of "
                f"{', '.join(gone)} run off or collapse",
                "check that the posterior is proper there",
            )
        hessian = self.hessian(flat)
        if isinstance(hessian, BlockArrow) and not hessian.positive:
            why = f"the Hessian of the KL divergence is not positive definite; {why}"
        optimum.message = f"{why}; {optimum.message}"
        optimum.advice = "raise max_steps, or start elsewhere with Model(init=...)"

    def _draw_error(
        self, optimum: Optimum, flat: np.ndarray, hessian: BlockArrow | Crossed
    ) -> None:
        """Estimate the error that the fixed draws leave, from the spread of their gradients."""
        values, gradients = (
            np.asarray(v)
            for v in self._run(self._pair_gradients, jnp.asarray(flat, float), self.held)
        )
        pairs = len(values)
        if pairs < 2:
            optimum.draw_error = float("inf")
            return
        moves = np.stack([hessian.solve(g) for g in gradients - gradients.mean(axis=0)])
        error = moves.std(axis=0, ddof=1) / np.sqrt(pairs)
        optimum.standard_error = error.reshape(-1, 2)
        # a location's error counts in sds of the corrected posterior, where they are known
        spread = self._location_scale(flat)[1]
        if isinstance(hessian, BlockArrow):
            spread = np.sqrt(hessian.variances()).reshape(-1, 2)[:, 0]
        share = optimum.standard_error[:, 0] / spread
        optimum.draw_error = float(share[self.factors.gaussian].max(initial=0.0))
        optimum.elbo_error = float(values.std(ddof=1) / np.sqrt(pairs))


def along(push: Push, basis: jax.Array) -> jax.Array:
    """Return ``push`` of every row of ``basis``."""
    return jax.lax.map(push, basis)
