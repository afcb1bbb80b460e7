"""Latent variables in columns such that an element of the log density reads one of each at most.

Crossed effects are so: a rating reads one student and one lecturer. One product of second
derivatives along all coordinates of a column and all of another then has the entries of every pair
of theirs at once, element by element, and the Hessian of many thousand coordinates is known from a
few passes over the data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from vi_recipes.algebra import Arrow, Bordered, Layout
from vi_recipes.latent.continuous import family_of
from vi_recipes.latent.split import Split, without_latents
from vi_recipes.model import Arrays

MAX_COLUMNS = 40
"""Columns up to which pairs of them are passed over."""

MAX_INNER = 2
"""Coordinates of a member of the family that is integrated out by nodes given all others."""

MAX_BORDER = 100
"""Coordinates beside those of the largest family up to which all points of theta have points of
theirs."""

MAX_CORNER = 2_500
"""The same up to which their matrix is factorised at each."""

MAX_SCATTERED = 20_000
"""Coordinates in all up to which it is."""

MAX_PRODUCTS = 2**25
"""Products that the Schur complement of the largest family may be the sum of."""


@dataclass(frozen=True)
class Columns:
    """The coordinates of a single member, column by column.

    Parameters
    ----------
    split
        The member, of d scalars.
    families
        The members of each of its sites in plates, one site after the other.
    numbers
        Coordinates of every column, 0 to d - 1.
    index
        Site -> coordinate of each column that each of its elements reads, -1 for none.
    """

    split: Split
    families: tuple[Split, ...]
    numbers: tuple[Int[np.ndarray, " _"], ...]
    index: dict[str, Int[np.ndarray, "columns _"]]

    @cached_property
    def largest(self) -> Split | None:
        """The family whose members are independent given all else, and the most; ``None`` for none.

        All other coordinates of the member, its border, are parameters of that split.
        """
        possible = [
            f
            for f in self.families
            if f.num_members > 1
            and f.width <= MAX_INNER
            and f.weights is None
            and not set(f.parameters) & set(f.index)
        ]
        return max(possible, key=lambda f: f.num_members, default=None)

    @cached_property
    def inner(self) -> Split | None:
        """The same, if its border is small."""
        found = self.largest
        if found is None or self.split.width - found.local.size > MAX_BORDER:
            return None
        return found

    @cached_property
    def arrow(self) -> Arrow | None:
        """The members of :attr:`largest` as blocks, and all else as border; ``None`` if too large.

        Its entries are those of :meth:`bends`.
        """
        found, d = self.largest, self.split.width
        if found is None or d > MAX_SCATTERED or d - found.local.size > MAX_CORNER:
            return None
        made = Arrow(*self._parts(found), *self._entries)
        return made if made.pairs <= MAX_PRODUCTS else None

    @cached_property
    def layout(self) -> Layout | None:
        """The members of :attr:`inner` as blocks, and all else as border; ``None`` without one."""
        if self.inner is None:
            return None
        return Layout(self.pattern(), *self._parts(self.inner), False)

    def _parts(self, family: Split) -> tuple[Int[np.ndarray, "blocks w"], Int[np.ndarray, " _"]]:
        """Return the coordinates of a family, member by member, and all others."""
        number = np.full(self.split.target.dim, -1)
        number[self.split.local[0]] = np.arange(self.split.width)
        local = number[family.local]
        return local, np.setdiff1d(np.arange(self.split.width), local)

    @cached_property
    def _directions(self) -> Float[np.ndarray, "columns d"]:
        along = np.zeros((len(self.numbers), self.split.width))
        for c, numbers in enumerate(self.numbers):
            along[c, numbers] = 1.0
        return along

    @cached_property
    def _pairs(self) -> Int[np.ndarray, "pairs 2"]:
        """Pairs of columns that some element reads both of."""
        every = combinations_with_replacement(range(len(self.numbers)), 2)
        return np.array([p for p in every if any(self._met(i, *p).any() for i in self._read)])

    @property
    def _read(self) -> list[Int[np.ndarray, "columns _"]]:
        return list(self.index.values())

    @staticmethod
    def _met(index: np.ndarray, a: int, b: int) -> Bool[np.ndarray, " _"]:
        return np.asarray((index[a] >= 0) & (index[b] >= 0))

    def pattern(self) -> Bool[np.ndarray, "d d"]:
        """Return which entries of the Hessian may not be zero."""
        d = self.split.width
        found = np.eye(d, dtype=bool)
        for index in self._read:
            for a, b in self._pairs:
                met = self._met(index, a, b)
                found[index[a][met], index[b][met]] = True
        return found | found.T

    @cached_property
    def _entries(self) -> tuple[Int[np.ndarray, " entries"], Int[np.ndarray, " entries"]]:
        """Rows and columns of the entries that :meth:`bends` returns; -1 for none."""
        rows, columns = [], []
        for a, b in self._pairs:
            for index in self._read:
                met = self._met(index, a, b)
                rows.append(np.where(met, index[a], -1))
                columns.append(np.where(met, index[b], -1))
        return np.concatenate(rows), np.concatenate(columns)

    def _elements(
        self, theta: Float[Array, " G"], arrays: Arrays
    ) -> Callable[[jax.Array], jax.Array]:
        def of(z: jax.Array) -> jax.Array:
            found = self.split.elements(theta, z[None], arrays)
            parts = [
                jnp.broadcast_to(found[n], self.split.index[n].shape).ravel() for n in self.index
            ]
            return jnp.concatenate(parts)

        return of

    def bends(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> Float[Array, " entries"]:
        """Return minus the second derivatives of all elements by pairs of columns; pure."""
        along, pairs = jnp.asarray(self._directions), jnp.asarray(self._pairs)
        elements = self._elements(theta, arrays)

        def of(pair: jax.Array) -> jax.Array:
            def slope(z: jax.Array) -> jax.Array:
                pushed: jax.Array = jax.jvp(elements, (z,), (along[pair[0]],))[1]
                return pushed

            bent: jax.Array = jax.jvp(slope, (z,), (along[pair[1]],))[1]
            return -bent

        found: jax.Array = jax.lax.map(of, pairs)
        return found.ravel()

    def slopes(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> Float[Array, "columns elements"]:
        """Return the derivatives of all elements by every column; pure."""
        elements = self._elements(theta, arrays)

        def of(along: jax.Array) -> jax.Array:
            pushed: jax.Array = jax.jvp(elements, (z,), (along,))[1]
            return pushed

        return jax.lax.map(of, jnp.asarray(self._directions))

    def rises(
        self, bends: Float[np.ndarray, " entries"], away: Float[np.ndarray, " d"]
    ) -> tuple[Float[np.ndarray, "columns elements"], Float[np.ndarray, "columns elements"]]:
        """Return what :meth:`bends` makes of a move: how :meth:`slopes` fall, and sizes of parts.

        The parts are what each column alone makes of it, their absolute values added up.
        """
        index = np.concatenate(self._read, axis=1)
        moves = np.where(index >= 0, away[index], 0.0)
        falls, parts = np.zeros(index.shape), np.zeros(index.shape)
        for (a, b), bend in zip(self._pairs, bends.reshape(len(self._pairs), -1), strict=True):
            for one, other in {(a, b), (b, a)}:
                falls[one] += bend * moves[other]
                parts[one] += np.abs(bend * moves[other])
        return falls, parts

    def assembler(self, layout: Layout) -> Callable[[Float[Array, " entries"]], Bordered]:
        """Return what lays entries out; pure."""
        (blocks, w), g = layout.local.shape, layout.border.size
        sizes = (blocks * w * w, blocks * w * g, g * g)
        starts = np.cumsum((0, *sizes))
        row = np.full(self.split.width, -1)
        row[layout.local.ravel()] = np.arange(blocks * w)
        of_border = np.full(self.split.width, -1)
        of_border[layout.border] = np.arange(g)
        i, j = self._entries
        taken, places = [], []
        for a, b, once in ((i, j, False), (j, i, True)):
            real = np.flatnonzero((a >= 0) & ~(once & (a == b)))
            a, b = a[real], b[real]
            local_a, local_b, ga, gb = row[a], row[b], of_border[a], of_border[b]
            for some, place in (
                ((local_a >= 0) & (local_b >= 0), starts[0] + local_a * w + local_b % w),
                ((local_a >= 0) & (gb >= 0), starts[1] + local_a * g + gb),
                ((ga >= 0) & (gb >= 0), starts[2] + ga * g + gb),
            ):
                taken.append(real[some])
                places.append(place[some])
        take = np.concatenate(taken).astype(np.int32)
        put = np.concatenate(places).astype(np.int32)

        def assemble(entries: jax.Array) -> Bordered:
            table = jnp.zeros(int(starts[-1])).at[put].add(entries[take])
            parts = [
                table[first : first + size] for first, size in zip(starts[:-1], sizes, strict=True)
            ]
            return Bordered(
                parts[0].reshape(blocks, w, w),
                jnp.zeros((0, w, w)),
                parts[1].reshape(blocks, w, g),
                parts[2].reshape(g, g),
            )

        return assemble


def columns_of(split: Split) -> Columns | None:
    """Return the columns of a single member, looked for once for a target.

    ``None`` where its sites are not of that kind.
    """
    key = ("columns", split.latents, split.local.shape, split.local.tobytes())
    made: Columns | None = split.target.compiled_once(key, lambda: _find_columns(split))
    return made


def _find_columns(split: Split) -> Columns | None:
    bare, target = without_latents(split.target), split.target
    number = np.full(target.dim, -1)
    number[split.local[0]] = np.arange(split.width)
    sizes = {name: place.size for name, place in split.index.items()}
    families, numbers = [], []
    rows: list[dict[str, np.ndarray]] = []
    for name in split.latents:
        own = number[target.slices[name]]
        if not target.sites[name].plates:  # any element may read all of its coordinates
            for j in own if len(own) <= MAX_COLUMNS else ():
                numbers.append(np.array([j]))
                rows.append({n: np.full(size, j) for n, size in sizes.items()})
            if len(own) > MAX_COLUMNS:
                return None
            continue
        found = family_of(bare, name)
        if found is None:
            return None
        families.append(found)
        for k in range(found.width):
            column = number[found.local[:, k]]
            numbers.append(column)
            places = {n: found.index[n].ravel() for n in sizes if n in found.index}
            rows.append({n: np.where(j >= 0, column[j], -1) for n, j in places.items()})
    if len(numbers) > MAX_COLUMNS:
        return None
    index = {
        name: np.stack([row.get(name, np.full(size, -1)) for row in rows])
        for name, size in sizes.items()
    }
    return Columns(split, tuple(families), tuple(numbers), index)
