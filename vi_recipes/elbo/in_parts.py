"""Minus the ELBO of a model whose members are divided over hosts."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import override

import jax
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.algebra import VERIFIED, BlockArrow, BlockArrowInParts, Crossed, recovery_error
from vi_recipes.core import Timing, said_by_hosts
from vi_recipes.elbo.curvature import MAX_BORDER, WIDTHS, CurvedKL
from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.held import Held, HeldNodes
from vi_recipes.elbo.plan import Plan
from vi_recipes.model import Division, Target


class NotInParts(Exception):
    """An ELBO that has to be evaluated with all members on every host; says why."""


class KLInParts(CurvedKL):
    """Minus the ELBO, of which every host has what its own members and rows add.

    What belongs to no member, its prior and its entropy, is the first host's. Values, gradients by
    what all hosts have, and Schur complements are summed over hosts; vectors of parameters have
    those of this host's members.

    Parameters
    ----------
    target
        A host's part of a division: :attr:`vi_recipes.model.Target.part_of`.
    factors, expectations, key, timing
        As for :class:`CurvedKL`.

    Notes
    -----
    Whether something was summed before is decided by which array a caller gives, and not by its
    numbers: those of one host may be what they were, and those of another not.

    Raises
    ------
    NotInParts
        Where expectations are over draws, or hosts plan them differently.
    """

    def __init__(
        self,
        target: Target,
        factors: Factors,
        expectations: Mapping[str, str],
        key: jax.Array,
        timing: Timing,
    ) -> None:
        assert target.part_of is not None
        self.division: Division[Target] = target.part_of
        self._shared = self.division.border
        self._border = (2 * self._shared[:, None] + np.arange(2)).ravel()
        self._summed: tuple[np.ndarray, tuple[float, np.ndarray]] | None = None
        failure: Exception | None = None
        plans: list[Plan] = []
        try:
            super().__init__(target, factors, expectations, key, timing)
            plans = self._plans.plans
        except Exception as error:  # the others are waiting to be told
            failure = error
        said = "; ".join(f"{plan.name} {plan.describe()}" for plan in plans)
        if len(set(said_by_hosts(said))) > 1:
            raise NotInParts("one of them takes expectations in other ways") from failure
        if failure is not None:
            raise failure
        drawn = [plan.name for plan in plans if plan.draws]
        if drawn:
            raise NotInParts(f"the expectation of site '{drawn[0]}' is over draws")

    @override
    def describe(self) -> str:
        return ", ".join(f"{plan.name} by {plan.describe()}" for plan in self._plans.plans)

    @property
    def _is_first(self) -> bool:
        return self.division.index == 0

    @property
    @override
    def left_out(self) -> Collection[str]:
        return () if self._is_first else self.division.shared

    @override
    def _undrawn(
        self, flat: Float[Array, " params"], held: Held, *, live: bool = False
    ) -> Float[Array, ""]:
        total = super()._undrawn(flat, held, live=live)
        if self._is_first:
            return total
        of = Factors(self.factors.code[self._shared], self.factors.offset[self._shared])
        return total + of.entropy(flat.reshape(-1, 2)[self._shared])

    @override
    def evaluate(
        self, flat: Float[np.ndarray, " params"], nodes: dict[str, HeldNodes] | None = None
    ) -> tuple[float, Float[np.ndarray, " params"]]:
        if nodes is None and self._summed is not None and self._summed[0] is flat:
            return self._summed[1]
        value, own = super().evaluate(flat, nodes)
        broken = not (np.isfinite(value) and np.isfinite(own).all())
        total, failed, *slopes = self.division.add(
            np.concatenate([[value, float(broken)], own[self._border]])
        )
        gradient = own.copy()
        gradient[self._border] = slopes
        found = (np.nan if failed else float(total)), gradient
        if nodes is None:
            self._summed = flat, found
        return found

    def let_go(self) -> None:
        """Let go of what is kept of every row for the last point; it is found again if need be."""
        self._forget()

    @override
    def _forget(self) -> None:
        super()._forget()
        self._summed = None

    @override
    def hessian(self, flat: Float[np.ndarray, " params"]) -> BlockArrow | Crossed | None:
        own = super().hessian(flat)
        if self.any(own is None):
            return None
        assert isinstance(own, BlockArrow)
        return BlockArrowInParts(own, self.division)

    @override
    def misjudges(self, flat: Float[np.ndarray, " params"]) -> bool:
        return self.any(super().misjudges(flat))

    @property
    @override
    def num_parameters(self) -> int:
        return 2 * self.division.whole.dim

    @override
    def any(self, flag: bool) -> bool:
        return self.division.any(flag)

    @property
    @override
    def work(self) -> int:
        return len(self._basis) * self.division.size * self.num_nodes

    @override
    def find_structure(self, key: jax.Array) -> Float[np.ndarray, " params"]:
        structure = self.structure
        if structure is None:
            structure = self.division.structure(self.target).widened(2)
            if structure.border.size > MAX_BORDER:
                raise NotInParts(f"{structure.border.size} parameters belong to no member")
            for attempt in range(len(WIDTHS)):
                self.narrow(attempt)
                self._use(structure)
                errors = recovery_error(structure, self._moved_products(self.start(key)))
                if not self.any(self._overflows):
                    break
            if self.any(not (np.isfinite(errors).all() and errors.max() <= VERIFIED)):
                self.structure = None
                raise NotInParts(f"members of plate {structure.plate} are coupled, or it overflows")
        self._use(structure)
        return self.start(key)

    @override
    def own_units(self) -> Float[np.ndarray, " dim"]:
        return self.division.own(self.division.whole.units)

    @override
    def start(self, key: jax.Array, *, scatter: float = 0.0) -> Float[np.ndarray, " params"]:
        """Return this host's part of where a fit on one host starts."""

        def narrow(z: np.ndarray) -> np.ndarray:
            return self.factors.start(self.division.own(z), self.width).ravel()

        z = self.division.whole.start(
            key, scatter=scatter, value_and_grad=lambda z: self.evaluate(narrow(z))
        )
        return narrow(z)
