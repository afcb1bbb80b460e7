"""Minibatches of whole members: the latent variables of groups, each with all its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI as Engine

from vi_recipes.core import ModelError
from vi_recipes.data import MEMBERS, WEIGHTS, ArrayBatches, MemberBatches, draw
from vi_recipes.methods.guides.coordinates import Shown
from vi_recipes.methods.guides.scaling import ScaleUp
from vi_recipes.methods.minibatch.row_densities import Probe, RowDensities, agree
from vi_recipes.methods.minibatch.rows import Rows, axis_of
from vi_recipes.methods.minibatch.view import SPREAD, BatchView, View, key_of
from vi_recipes.model import Target


class MemberView(BatchView):
    """What a step of SVI sees of the data: some members of a plate, with all their rows.

    With B of M members the log densities in their plate and in that of the rows count M / B times.

    Parameters
    ----------
    target
        What is fitted.
    rows
        Where minibatches come from.
    seed
        Of which members stand for the others.
    """

    def __init__(self, target: Target, rows: Rows, seed: int) -> None:
        View.__init__(self, target)
        assert rows.members is not None
        self.rows, self.batches, self._seed = rows, rows.members, seed
        self.key, self.num_rows = key_of(rows), rows.batches.num_rows
        self.factor = self.batches.num_members / self.batches.batch_size
        self._of_members = self._members_arguments()
        first = next(self._drawn(1))
        self.batch_bytes = sum(array.nbytes for array in first.values())
        self._check_rows(first)
        self.shown = self._show(first)
        self._places = first[MEMBERS]
        self._row_plates = sorted(
            {name for site in self.shown.observed for name, _, _ in site.plates}
        )
        self._verified, self._moved, self._traced = False, [], None

    def _drawn(self, stream: int) -> Iterator[Mapping[str, np.ndarray]]:
        return draw(self.batches, np.random.default_rng([self._seed, stream]))

    def _members_arguments(self) -> dict[str, np.ndarray]:
        """Return the arguments that have one entry a member."""
        count = self.batches.num_members
        return {
            name: value
            for name, value in self.target.data.items()
            if isinstance(value, np.ndarray) and value.ndim and len(value) == count
        }

    def _check_rows(self, first: Mapping[str, np.ndarray]) -> None:
        """Raise a :class:`ModelError` for arguments of rows that the minibatches lack, or invent.

        The target has as many rows as it was made of.
        """
        data = self.target.data
        if extra := [n for n in first if n not in data and n not in (MEMBERS, WEIGHTS)]:
            raise ModelError(f"batches: model '{self.target.name}' has no argument '{extra[0]}'")
        size = len(data[self.batches.argument])
        arrays = {n: v for n, v in data.items() if isinstance(v, np.ndarray) and v.ndim}
        if missing := [n for n, v in arrays.items() if len(v) == size and n not in first]:
            raise ModelError(
                f"batches: argument(s) {', '.join(missing)} of model '{self.target.name}' have one "
                f"entry for each of the target's {size} rows, and the batches do not have them"
            )

    def _of(self, batch: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the arguments of the model for a minibatch, but for sizes."""
        of_rows = {n: v for n, v in batch.items() if n not in (MEMBERS, WEIGHTS)}
        of_members = {n: v[batch[MEMBERS]] for n, v in self._of_members.items()}
        return of_members | of_rows

    def _show(self, batch: Mapping[str, np.ndarray]) -> Target:
        """Return the model conditioned on one minibatch."""
        size, count = self.batches.batch_size, self.batches.num_members
        sizes = {n: size for n, v in self.target.data.items() if type(v) is int and v == count}
        cure = (
            "the number of members must be an argument of the model, or be that of an array with "
            "one entry a member"
        )
        return self._shown_by(sizes | self._of(batch), size, "members", cure)

    def _plates(self, weights: Any) -> dict[str, Any]:
        return {self.rows.plate: None, **dict.fromkeys(self._row_plates, weights)}

    @override
    def update(self, engine: Engine, state: Any, arrays: Any, step: Any) -> Any:
        offset, stack, (fixed, _) = arrays
        batch = {name: array[offset + step] for name, array in stack.items()}
        plates = self._plates(batch[WEIGHTS])
        members = {n: jnp.asarray(v)[batch[MEMBERS]] for n, v in self._of_members.items()}
        with ScaleUp(self.factor, plates):
            data = self.shown.keywords(self.merge(members | batch, fixed))
            return engine.update(state, **data)

    @override
    def sweep(self) -> Iterable[Shown]:
        if self.rows.in_memory:
            yield Shown(self.target, self.target.arrays())
            return
        fixed, seen = self.shown.arrays(), np.zeros(self.batches.num_members, bool)
        for batch in self._drawn(3):
            data = jax.tree.map(jnp.asarray, self._of(batch))
            yield Shown(
                self.shown,
                self.merge(data, fixed),
                batch[MEMBERS],
                self._plates(jnp.asarray(batch[WEIGHTS])),
            )
            seen[batch[MEMBERS]] = True
            if seen.all():
                return

    # -- whether the estimate is unbiased ---------------------------------------------------------

    @override
    def _compare(self, z: np.ndarray) -> None:
        z = z + SPREAD * np.random.default_rng(0).standard_normal(z.size)
        probe = Probe(self.shown, list(self._plates(None)), self.factor)

        def at(batch: Mapping[str, np.ndarray]) -> RowDensities:
            return probe(self._at(z, batch[MEMBERS]), {**self.shown.data, **self._of(batch)})

        drawn = self._drawn(2)
        one, other = next(drawn), next(drawn)
        if not self.rows.in_memory:
            self._refuse(at(one).moved(at(other)))
            return
        whole = Probe(self.target, list(self._plates(None)), 1.0)(z, self.target.data)
        size = self.num_rows
        numbered = {n: self.target.data[n] for n in one if n not in (MEMBERS, WEIGHTS)}
        source = ArrayBatches({**numbered, _ROW: np.arange(size)}, size, size)
        batches = MemberBatches(source, self.batches.argument, self.batches.batch_size)
        batches.cover(self.batches.num_members)
        drawn = draw(batches, np.random.default_rng([self._seed, 2]))
        for batch in (next(drawn), next(drawn)):
            batch = dict(batch)
            rows, real = batch.pop(_ROW), batch[WEIGHTS] > 0
            found = at(batch)
            self._refuse(found.moved(whole))
            for name in found.inside:
                local = axis_of(self.target.sites[name], self.rows.plate) is not None
                expected = whole.at(name, batch[MEMBERS] if local else rows[real])
                got = found.at(name, np.arange(len(batch[MEMBERS]))) if local else (
                    found.at(name, np.flatnonzero(real))
                )  # fmt: skip
                if not agree(got, expected * self.factor):
                    raise ModelError(
                        f"plate: the density of site '{name}' depends on other members of "
                        f"'{self.rows.plate}' than its own, so that minibatches do not add up to "
                        "the model; fit all rows"
                    )


_ROW = "number of the row"


def view_of(target: Target, rows: Rows | None, seed: int) -> View:
    """Return what a step sees of the data, which is made once a target.

    Parameters
    ----------
    target
        What is fitted.
    rows
        Where minibatches come from; ``None`` shows all data at every step.
    seed
        Of the order of the rows.
    """

    def make() -> View:
        if rows is None:
            return View(target)
        return (BatchView if rows.members is None else MemberView)(target, rows, seed)

    return target.compiled_once(("view of a step", key_of(rows)), make)
