"""Minibatches for SVI: rows of a plate are drawn, and the log densities in it scaled up.

With B of N rows drawn, every log density in their plate, of the model and of the guide, counts
N / B times: the mean of the ELBO's estimate over the minibatches of an epoch is the ELBO of all
rows. That takes a model in which nothing outside the plate depends on the rows, which is verified,
but for priors whose parameters do, such as the mean of the data: those are taken from all rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, override

import numpy as np
import numpyro
from numpyro import handlers
from numpyro.infer import SVI as Engine

from vi_recipes.core import ByIdentity, ModelError, unknown
from vi_recipes.data import draw
from vi_recipes.methods.guides.coordinates import Shown
from vi_recipes.methods.guides.scaling import ScaleUp
from vi_recipes.methods.guides.sites import guided_function
from vi_recipes.methods.minibatch.row_densities import Probe, agree
from vi_recipes.methods.minibatch.rows import Rows, axis_of, row_arguments
from vi_recipes.model import Arrays, Target

SPREAD = 0.1
"""Distance from the start, in each coordinate, of the point at which minibatches are verified."""


class View:
    """What a step of SVI sees of the data: all of them.

    A target keeps one for all its fits, with the code that is compiled for it.

    Parameters
    ----------
    target
        What is fitted.
    """

    key: Hashable = None
    """Sets it apart from the other views of its target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.shown = target
        """The model conditioned on what one step sees."""

    def function(self, **data: Any) -> None:
        """Run the model on what a step sees."""
        guided_function(self.target)(**data)

    def update(self, engine: Engine, state: Any, arrays: Any, step: Any) -> Any:
        """Take a step, the one of this number in its chunk; to be traced."""
        return engine.update(state, **self.target.keywords(arrays))

    def start(self, z: np.ndarray) -> np.ndarray:
        """Return the coordinates of ``z`` that :attr:`shown` has."""
        return z

    def verify(self, z: np.ndarray) -> None:
        """Raise a :class:`ModelError` where what the steps see is not what is fitted."""

    def sweep(self) -> Iterable[Shown]:
        """Yield all members of the target's plates, each with all its rows."""
        yield Shown(self.target, self.target.arrays())


class BatchView(View):
    """What a step of SVI sees of the data: some rows of a plate.

    Parameters
    ----------
    target
        What is fitted. Of rows from elsewhere it need not hold more than a few.
    rows
        Where the minibatches come from.
    seed
        Of which rows stand for the others, where they are elsewhere.
    """

    def __init__(self, target: Target, rows: Rows, seed: int) -> None:
        super().__init__(target)
        self.rows, self.num_rows = rows, rows.batches.num_rows
        self.key = key_of(rows)
        self.factor = self.num_rows / rows.batches.batch_size
        if rows.in_memory:
            arguments = row_arguments(target, self.num_rows)
            self._places = np.linspace(0, self.num_rows - 1, rows.batches.batch_size).astype(int)
            first = {name: target.data[name][self._places] for name in arguments}
        else:
            # not the order of the steps: what is verified are two minibatches that differ
            first = dict(next(draw(rows.batches, np.random.default_rng([seed, 1]))))
            self._places = np.arange(rows.batches.batch_size) % self._check_arguments(target, first)
        self.batch_bytes = sum(array.nbytes for array in first.values())
        """Bytes of a minibatch."""
        self.shown = self._condition(first)
        self._seed = seed
        self._verified = False
        self._moved: list[str] = []
        self._traced: Arrays | None = None

    def _check_arguments(self, target: Target, first: Mapping[str, np.ndarray]) -> int:
        """Return how many rows the target has, of the arguments that the batches must have."""
        for name in first:
            if name not in target.data:
                raise ModelError(f"batches: {unknown('argument', name, target.data)}")
        size = next(
            size for site in target.observed for name, size, _ in site.plates
            if name == self.rows.plate
        )  # fmt: skip
        if missing := [name for name in row_arguments(target, size) if name not in first]:
            raise ModelError(
                f"batches: argument(s) {', '.join(missing)} of model '{target.name}' have one "
                f"entry for each of the target's {size} rows, and the batches do not have them"
            )
        return size

    def _condition(self, first: Mapping[str, np.ndarray]) -> Target:
        """Return the model conditioned on one minibatch."""
        cure = "its size must not follow from the rows, so pass it as an argument"
        return self._shown_by(first, self.rows.batches.batch_size, "rows", cure)

    def _shown_by(self, data: Mapping[str, Any], size: int, what: str, cure: str) -> Target:
        """Return the model with other data, of which ``size`` are in the plate.

        Raises
        ------
        ModelError
            Where it does not run, or latent sites do not have as many in the plate and all else as
            before.
        """
        target, plate = self.target, self.rows.plate
        try:
            shown = Target(target.complete_model, **{**target.data, **data})
        except ModelError as error:
            raise ModelError(
                f"batch_size: the model does not run on {size} {what} of plate '{plate}': {error}"
            ) from None
        for site in target.latents:
            axis = axis_of(site, plate)
            expected = tuple(size if k == axis else n for k, n in enumerate(site.shape))
            if shown.sites[site.name].shape != expected:
                raise ModelError(
                    f"site '{site.name}' has shape {site.shape}, and with {size} {what} of plate "
                    f"'{plate}' {shown.sites[site.name].shape}, expected {expected}: {cure}"
                )
        return shown

    @override
    def update(self, engine: Engine, state: Any, arrays: Any, step: Any) -> Any:
        offset, stack, (fixed, self._traced) = arrays
        batch = {name: array[offset + step] for name, array in stack.items()}
        try:
            with ScaleUp(self.factor, {self.rows.plate: None}):
                return engine.update(state, **self.shown.keywords(self.merge(batch, fixed)))
        finally:
            self._traced = None

    @override
    def function(self, **data: Any) -> None:
        trace = handlers.trace(self.shown.model.function).get_trace(**data)
        if not self._moved:
            return
        drawn = {
            site.name: trace[site.name]["value"]
            for site in self.target.latents
            if axis_of(site, self.rows.plate) is None
        }
        model = handlers.substitute(self.target.seeded, data=drawn)
        arrays = self.target.arrays() if self._traced is None else self._traced
        # what only the likelihood of all rows needs, the compiler leaves out
        with handlers.block():
            whole = handlers.trace(model).get_trace(**self.target.keywords(arrays))
        for name in self._moved:
            laws = whole[name]["fn"], trace[name]["fn"]
            of_all, of_batch = (law.log_prob(drawn[name]).sum() for law in laws)
            scale = whole[name]["scale"]
            change = (of_all - of_batch) * (1.0 if scale is None else scale)
            numpyro.factor(f"{name}_of_all_rows", change)

    def fixed(self) -> tuple[Arrays, Arrays | None]:
        """Return arrays of which a step takes what it has no rows of, all rows where priors do."""
        return self.shown.arrays(), self.target.arrays() if self._moved else None

    def merge(self, batch: Mapping[str, Any], fixed: Arrays) -> Arrays:
        """Return the arrays of :attr:`shown` with those of a minibatch in their places."""
        names = self.shown.traced_arguments
        return tuple(batch.get(name, old) for name, old in zip(names, fixed, strict=True))

    @override
    def start(self, z: np.ndarray) -> np.ndarray:
        return self._at(z, self._places)

    def _at(self, z: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Return the coordinates of ``z`` that belong to some rows of the target, or to no row."""
        parts = []
        for site in self.target.latents:
            value = z[self.target.slices[site.name]].reshape(site.unconstrained_shape)
            axis = axis_of(site, self.rows.plate)
            parts.append(value.ravel() if axis is None else np.take(value, places, axis).ravel())
        return np.concatenate(parts)

    # -- whether the estimate is unbiased ---------------------------------------------------------

    @override
    def verify(self, z: np.ndarray) -> None:
        """Raise a :class:`ModelError` unless minibatches add up to the log joint density.

        At ``z`` the log densities of two minibatches are compared with those of all rows, or with
        each other where the rows are elsewhere. In the plate they must be those of their own rows,
        and outside it they must not change, but for priors that can be had from all rows. That is
        found out once.
        """
        if not self._verified:
            self._compare(z)
            self._verified = True

    def _compare(self, z: np.ndarray) -> None:
        # at the start itself a coefficient may be zero, and hide what it multiplies
        z = z + SPREAD * np.random.default_rng(0).standard_normal(z.size)
        of_batch = Probe(self.shown, [self.rows.plate], self.factor)
        one = of_batch(self.start(z), self.shown.data)
        if not self.rows.in_memory:
            another = next(draw(self.rows.batches, np.random.default_rng([self._seed, 2])))
            data = {**self.shown.data, **another}
            self._refuse(one.moved(of_batch(self.start(z), data)))
            return
        whole = Probe(self.target, [self.rows.plate], 1.0)(z, self.target.data)
        places = (self._places + 1) % self.num_rows
        names = row_arguments(self.target, self.num_rows)
        shifted = {n: self.target.data[n][places] for n in names}
        other = of_batch(self._at(z, places), {**self.shown.data, **shifted})
        pairs = ((one, self._places), (other, places))
        moved = {name for densities, _ in pairs for name in densities.moved(whole)}
        free = {s.name for s in self.target.latents if axis_of(s, self.rows.plate) is None}
        # a support that moves is known to the guide too
        fixed = {n for n in free if all(agree(d.values[n], whole.values[n]) for d, _ in pairs)}
        self._refuse(sorted(moved - fixed))
        self._moved = sorted(moved)
        for densities, rows in pairs:
            for name in densities.inside:
                expected = whole.at(name, rows) * self.factor
                if not agree(densities.elements[name], expected):
                    raise ModelError(
                        f"plate: the density of site '{name}' in '{self.rows.plate}' depends on "
                        "other rows than its own, so that minibatches do not add up to the model; "
                        "fit all rows"
                    )

    def _refuse(self, moved: Sequence[str]) -> None:
        if moved:
            raise ModelError(
                f"plate: outside '{self.rows.plate}', the density of site(s) {', '.join(moved)} "
                "depends on which rows are drawn, so that minibatches do not add up to the model; "
                "pass what it takes from the rows, such as a mean, as an argument of its own, or "
                "put the site into the plate"
            )


def key_of(rows: Rows | None) -> Hashable:
    """Return what sets the view of some rows apart from others of the same target."""
    if rows is None:
        return None
    return rows.plate, rows.batches.batch_size if rows.in_memory else ByIdentity(rows.batches)
