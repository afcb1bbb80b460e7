"""The Hessian of the KL divergence, and the structure it has."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.algebra import (
    MULTIPLE,
    VERIFIED,
    BlockArrow,
    Crossed,
    Families,
    InverseParts,
    LocalStructure,
    Push,
    SparseEntries,
    TruncatedStep,
    dense_structure,
    pad,
    recovery_error,
    steihaug,
    verified,
)
from vi_recipes.core import SEVERAL, MethodFailure, ModelError, Status, fold_key
from vi_recipes.elbo.held import Held
from vi_recipes.elbo.kl import KL
from vi_recipes.model import candidates, find_families

MAX_BORDER = 600
"""Largest border, in parameters of the factors, whose Hessian is recovered at every step."""


MAX_DENSE_PARAMETERS = 2_000
"""Most parameters for which a Hessian without structure is formed."""


AHEAD = 100_000
"""Directions times numbers in the data up to which products come with every gradient.

One program is quicker to compile than two; points that the search steps back from need no products.
"""


MAX_BYTES = 6_000_000_000
"""Most memory that the covariances of crossed families may take."""


WIDTHS = (0.1, 0.01, 0.001)
"""Sds of the laws at a start: the first that leaves curvatures below :data:`HUGE`.

A slope on a column of hundreds moves what is in an exponential by hundreds of them. So all but the
first are in units of the coordinates, which are looked for where they are needed.
"""

HUGE = 1e50
"""Curvatures beyond it are of a start where nothing but an overflow is seen."""


class CurvedKL(KL):
    """Minus the ELBO with its Hessian, in the cheapest form that the model's plates allow.

    Parameters
    ----------
    target, factors, expectations, key, timing
        As for :class:`KL`.

    Attributes
    ----------
    structure
        The local structure of the Hessian, in parameters of the factors; all border where it has
        none.
    families
        The crossed families in its place, where no structure has a border that is affordable.
    width
        The sd of every law at a start, or of each.
    """

    structure: LocalStructure | None = None
    families: Families | None = None
    width: float | Float[np.ndarray, " dim"] = WIDTHS[0]
    _whole: tuple[bytes, tuple[int, int], BlockArrow] | None = None

    # -- in the optimiser's form -----------------------------------------------------------------

    def hessian(self, flat: Float[np.ndarray, " params"]) -> BlockArrow | Crossed | None:
        """Return the Hessian, with steps measured by the factors' Fisher information.

        ``None`` where it is not finite.
        """
        rows = self.products(flat, self._basis)
        if not np.isfinite(rows).all():
            return None
        metric = self._metric(flat)
        if self.families is None:
            assert self.structure is not None
            return BlockArrow.recover(self.structure, rows, metric)

        def product(vector: np.ndarray) -> np.ndarray:
            return self.products(flat, pad(vector[None]))[0]

        def run(gradient: np.ndarray, inverse: InverseParts, radius: float) -> TruncatedStep:
            args = jax.tree.map(lambda a: jnp.asarray(a, float), (gradient, inverse, radius))
            push, *drawn = self._bends(flat)
            stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *drawn) if drawn else None
            taken: TruncatedStep = self._run(self._truncated, push, stacked, *args)
            return taken

        return Crossed(self.families.assemble(rows, metric)[0], product, run)

    def _metric(self, flat: Float[np.ndarray, " params"]) -> Float[np.ndarray, " params"]:
        # factors that run off or collapse are reported; they need not overflow on the way
        with np.errstate(over="ignore"):
            metric = self.factors.metric(flat.reshape(-1, 2)).ravel()
        return np.clip(metric, 1e-200, 1e200)

    def _truncated(
        self,
        push: Push,
        drawn: Push | None,
        gradient: Float[Array, " params"],
        inverse: InverseParts,
        radius: Float[Array, ""],
    ) -> TruncatedStep:
        """Return a truncated Newton step, for crossed families.

        ``drawn`` has what chunks of draws add to ``push``, one after the other along a first axis.
        """
        assert self.families is not None

        def product(vector: jax.Array) -> jax.Array:
            if drawn is None:
                return push(vector)
            return push(vector) + jax.lax.map(lambda part: part(vector), drawn).sum(axis=0)

        return steihaug(product, self.families.structure, gradient, inverse, radius)

    # -- in a form that has an inverse -----------------------------------------------------------

    def full_hessian(
        self, flat: Float[np.ndarray, " params"], known: BlockArrow | Crossed | None = None
    ) -> BlockArrow:
        """Return the Hessian in block-arrow form, whatever the optimiser made do with.

        ``known`` is what it made do with there. The last one is kept, so that linear response has
        that by which mean field was judged.

        Raises
        ------
        MethodFailure
            ``NOT_APPLICABLE`` where that takes too much memory, or there is no such form.
        """
        at = flat.tobytes(), (self.num_nodes, self.num_pairs)
        if self._whole is None or self._whole[:2] != at:
            self._whole = None  # there need not be two
            self._whole = *at, self._find_whole(flat, known)
        return self._whole[2]

    def forget_hessian(self) -> None:
        """Forget the one that :meth:`full_hessian` returned last."""
        self._whole = None

    def _find_whole(
        self, flat: Float[np.ndarray, " params"], known: BlockArrow | Crossed | None
    ) -> BlockArrow:
        if self.families is None:
            hessian = self.hessian(flat) if known is None else known
            assert isinstance(hessian, BlockArrow)
            return hessian
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
        error = recovery_error(structure, products)
        if not error.max() <= VERIFIED:
            raise MethodFailure(
                Status.NOT_APPLICABLE,
                f"members of plate {structure.plate} are coupled (relative error "
                f"{error.max():.2g}), so the Hessian has no structure to invert it by",
                "use MeanField alone, or NUTS",
            )
        return BlockArrow.recover(structure, products, self._metric(flat))

    def _gathered_hessian(
        self, flat: Float[np.ndarray, " params"], structure: LocalStructure
    ) -> BlockArrow | None:
        """Return the Hessian of crossed families that meet only in inputs which gather both.

        ``None`` where a product along a random direction says that they meet elsewhere too.
        """
        assert self.families is not None
        if self.target.num_hosts > 1:  # whose inputs are each other host's
            return None
        couplings = []
        blocks = self._run(self._couplings, jnp.asarray(flat, float), self.held)
        for (i, j), block in zip(self.expectation.gathered_pairs, blocks, strict=True):
            step = np.arange(2)
            rows = np.broadcast_to(2 * i[:, None, None] + step[:, None], block.shape)
            columns = np.broadcast_to(2 * j[:, None, None] + step, block.shape)
            couplings.append(SparseEntries(rows, columns, -np.asarray(block)))
        whole = self.families.full(self.products(flat, self._basis), couplings)
        direction = np.random.default_rng(4).standard_normal(structure.dim)
        product = self.products(flat, pad(direction[None]))[0]
        error = np.abs(whole @ direction - product).max() / np.abs(product).max()
        if not error <= VERIFIED:
            return None
        return BlockArrow.from_sparse(structure, whole, self._metric(flat))

    def _couplings(self, flat: Float[Array, " params"], held: Held) -> list[Float[Array, "_ 2 2"]]:
        return self.expectation.couplings(flat.reshape(-1, 2), held)

    # -- its structure ---------------------------------------------------------------------------

    def find_structure(self, key: jax.Array) -> Float[np.ndarray, " params"]:
        """Find and verify the Hessian's structure; return a starting point of finite value.

        Raises
        ------
        MethodFailure
            ``NOT_APPLICABLE`` where the Hessian has no affordable form, ``DIVERGED`` where it may
            be dense and has no digits near any of several starts.
        """
        known = self.structure or self.families
        if known is not None:
            self._use(known)
            return self.start(key)
        dense = 2 * self.target.dim <= MAX_DENSE_PARAMETERS
        for number in range(SEVERAL if dense else 1):
            again = fold_key(key, number) if number else key
            for attempt in range(len(WIDTHS)):
                self.narrow(attempt)
                form_or_reasons = self._find_form(again, 1.0 if number else 0.0)
                if isinstance(form_or_reasons, np.ndarray):
                    return form_or_reasons
                if not self._overflows:
                    break
        if dense or self._overflows:
            raise MethodFailure(
                Status.DIVERGED,
                f"second derivatives of the ELBO near {SEVERAL} starts are not finite, or so large "
                "that they have no digits left",
                "start elsewhere with Model(init=...), scale inputs that are in the hundreds, or "
                "write the density so that it does not underflow there (log_ndtr for the log of a "
                "normal probability)",
            )
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"the Hessian in {2 * self.target.dim} parameters has no form that is affordable: "
            + "; ".join(form_or_reasons),
            "use SVI with guide='normal'",
        )

    def _find_form(
        self, key: jax.Array, scatter: float
    ) -> Float[np.ndarray, " params"] | list[str]:
        """Return a start near which a form of the Hessian holds, or why none does."""

        def start() -> Float[np.ndarray, " params"]:
            return self.start(key, scatter=scatter)

        suggested = [s.widened(2) for s in candidates(self.target.latents, self.target.slices)]
        families = find_families(self.target.latents, self.target.slices)
        reasons: list[str] = []
        try:
            for form in [*suggested, families, dense_structure(2 * self.target.dim)]:
                if isinstance(form, LocalStructure):
                    begin = self._try_structure(form, start, reasons)
                else:
                    begin = None if form is None else self._try_families(form, start, reasons)
                if begin is not None:
                    return begin
        except ModelError:  # no point has a finite value, of laws as wide as these
            self._overflows, self.structure, self.families = True, None, None
            self.target.start(key, scatter=scatter)  # raises where the density itself has none
        return reasons

    def _try_structure(
        self,
        structure: LocalStructure,
        start_of: Callable[[], Float[np.ndarray, " params"]],
        reasons: list[str],
    ) -> Float[np.ndarray, " params"] | None:
        """Use a structure if it holds and return a start, or add to the reasons why it does not."""
        limit = MAX_BORDER if structure.local.size else MAX_DENSE_PARAMETERS
        if structure.border.size > limit:
            blocks = f"with {', '.join(structure.sites)} as blocks"
            what = blocks if structure.sites else "dense"
            gigabytes = structure.num_bytes / 1e9
            reasons.append(
                f"{what}: {structure.border.size} coupled parameters, {gigabytes:.2g} GB"
            )
            return None
        self._use(structure)
        start = start_of()
        products = self._moved_products(start)
        if self._overflows:
            self.structure = None
            return None
        errors = recovery_error(structure, products)
        if np.isfinite(errors).all() and errors.max() <= VERIFIED:
            return start
        by_site = errors.reshape(-1, 2).max(axis=1)
        names = [n for n, p in self.target.slices.items() if not by_site[p].max() <= VERIFIED]
        reasons.append(f"members of plate {structure.plate} couple through {', '.join(names)}")
        self.structure = None
        return None

    def _try_families(
        self,
        families: Families,
        start_of: Callable[[], Float[np.ndarray, " params"]],
        reasons: list[str],
    ) -> Float[np.ndarray, " params"] | None:
        """Use crossed families if they hold and return a start, or add to the reasons why not."""
        if families.structure.border.size > MAX_BORDER // 2:
            return None
        wide = families.widened(2)
        self._use(wide)
        start = start_of()
        products = self._moved_products(start)
        if not self._overflows:
            error = wide.assemble(products, np.ones(start.size))[1]
            if verified(error):
                return start
        self.families = None
        reasons.append(f"members within a plate of {families.structure.plate} couple")
        return None

    def _use(self, form: LocalStructure | Families) -> None:
        self.structure = self.families = None
        if isinstance(form, Families):
            self.families = form
        else:
            self.structure = form
        self._basis = form.basis()
        quick = len(self._basis) * self.target.size <= AHEAD and self.families is None
        self.take_along(self._basis if quick and self.target.spread is None else None)

    @property
    def work(self) -> int:
        """Numbers that one Hessian of known structure takes, about: directions times data."""
        places = max(self.num_nodes, 2 * self.num_pairs)
        return len(self._basis) * self.target.size * places

    @property
    def num_parameters(self) -> int:
        """Parameters of all factors."""
        return 2 * self.target.dim

    def any(self, flag: bool) -> bool:
        """Return whether something holds of any coordinate; ``flag`` says so of those here."""
        return flag

    def start(self, key: jax.Array, *, scatter: float = 0.0) -> Float[np.ndarray, " params"]:
        """Return parameters of finite value, of laws that are narrow.

        ``key`` and ``scatter`` are those of :meth:`vi_recipes.model.Target.start`.
        """

        def evaluate(z: np.ndarray) -> tuple[float, np.ndarray]:
            return self.evaluate(self.factors.start(z, self.width).ravel())

        z = self.target.start(key, scatter=scatter, value_and_grad=evaluate)
        return self.factors.start(z, self.width).ravel()

    def narrow(self, attempt: int) -> None:
        """Begin with laws as wide as an attempt has them, of which nothing is known to overflow."""
        self._overflows = False
        self.width = WIDTHS[attempt] * self.own_units() if attempt else WIDTHS[0]

    def own_units(self) -> Float[np.ndarray, " dim"]:
        """Return the units of the coordinates of the factors."""
        return self.target.units

    def _moved_products(
        self, start: Float[np.ndarray, " params"]
    ) -> Float[np.ndarray, "directions params"]:
        """Return the products along the basis a little way off a start; note if they overflow."""
        noise = np.random.default_rng(5).standard_normal(start.size).reshape(-1, 2)
        width = np.broadcast_to(self.width, len(noise))
        # locations by as much as the laws are wide, logarithms of sds by no more than a tenth
        moved = start + (noise * np.stack([width, np.minimum(width, WIDTHS[0])], axis=1)).ravel()
        products = self.products(moved, self._basis)
        largest = np.abs(products).max(initial=0.0)
        self._overflows = self._overflows or not largest <= HUGE
        return products
