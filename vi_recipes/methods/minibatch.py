"""Minibatches for SVI: rows of a plate are drawn, and the log densities in it scaled up.

With B of N rows drawn, every log density in their plate, of the model and of the guide, counts
N / B times: the mean of the ELBO's estimate over the minibatches of an epoch is the ELBO of all
rows. That takes a model in which nothing outside the plate depends on the rows, which is verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import SVI as Engine
from numpyro.primitives import Messenger

from vi_recipes.batches import ArrayBatches, Batches, Prefetch, draw
from vi_recipes.content import unknown
from vi_recipes.sites import ModelError, Site
from vi_recipes.target import Arrays, Target

MAX_STACK = 2**26
"""Bytes of minibatches that are handed to one chunk of steps."""

ERROR_PER_ROW = 1e-4
"""Monte Carlo error of the last quarters, in nats a row, beyond which flat cannot be told."""

TOLERANCE = 1e-8
"""Relative difference of log densities that counts as rounding."""

SPREAD = 0.1
"""Distance from the start, in each coordinate, of the point at which minibatches are verified."""


class Feed:
    """What SVI's steps see of the data: all of them, at every step.

    Parameters
    ----------
    target
        What is fitted.
    size
        Steps of a chunk.
    """

    num_rows = 0
    """Number of rows, where they come in minibatches."""

    def __init__(self, target: Target, size: int) -> None:
        self.target, self.size = target, size
        self.shown = target
        """The model conditioned on what one step sees."""

    @cached_property
    def _all(self) -> Arrays:
        return self.target.arrays()

    def next(self) -> Any:
        """Return what the next chunk of steps takes."""
        return self._all

    def singles(self, count: int) -> Sequence[Any]:
        """Return what ``count`` chunks of one step each take."""
        return [self._all] * count

    def update(self, engine: Engine, state: Any, arrays: Any, step: Any) -> Any:
        """Take a step, the one of this number in its chunk; to be traced."""
        return engine.update(state, **self.target.keywords(arrays))

    def start(self, z: np.ndarray) -> np.ndarray:
        """Return the coordinates of ``z`` that :attr:`shown` has."""
        return z

    def verify(self, z: np.ndarray) -> None:
        """Raise a :class:`ModelError` where what the steps see is not what is fitted."""

    @property
    def max_error(self) -> float:
        """Monte Carlo error of the objective, in nats, beyond which flat cannot be told."""
        return ERROR_PER_ROW * self.num_rows

    def close(self) -> None:
        """Let go of what reads ahead."""


@dataclass(frozen=True)
class Rows:
    """Where minibatches come from, and the plate that they are rows of.

    Parameters
    ----------
    batches
        The rows.
    plate
        Name of the plate.
    in_memory
        Whether they are the target's own rows.
    """

    batches: Batches
    plate: str
    in_memory: bool

    def local(self, target: Target) -> list[str]:
        """Return the latent sites in the plate."""
        return [site.name for site in target.latents if axis_of(site, self.plate) is not None]


def axis_of(site: Site, plate: str) -> int | None:
    """Return the axis of a site that runs over a plate, ``None`` where none does."""
    return next((axis for name, _, axis in site.plates if name == plate), None)


def find_rows(
    target: Target, batch_size: int | None, plate: str | None, batches: Batches | None
) -> Rows | None:
    """Return what minibatches of ``target`` are drawn from; ``None`` where none are asked for.

    Raises
    ------
    ValueError
        For an unknown plate, no plate that holds the likelihood, arguments whose rows cannot be
        drawn, and more rows in a batch than there are.
    """
    if batch_size is None and batches is None:
        return None
    sizes = {name: size for s in target.sites.values() for name, size, _ in s.plates}
    name = _find_plate(target, sizes, plate)
    arguments = row_arguments(target, sizes[name])
    if not arguments:
        raise ModelError(
            f"plate: '{name}' has size {sizes[name]}, but no argument of model '{target.name}' "
            "has as many rows, along its first axis, that could be drawn; pass the data of the "
            "plate as arrays whose first axis is the plate's"
        )
    if held := [a for a in arguments if a not in target.traced_arguments]:
        raise ModelError(
            f"argument(s) {', '.join(held)}: the model reads sizes off their values, so rows of "
            "them cannot be drawn; pass the sizes, such as the number of groups, as arguments of "
            "their own"
        )
    if batches is None:
        assert batch_size is not None
        if batch_size > sizes[name]:
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most the {sizes[name]} rows of plate "
                f"'{name}'"
            )
        arrays = {argument: target.data[argument] for argument in arguments}
        return Rows(ArrayBatches(arrays, sizes[name], batch_size), name, in_memory=True)
    if not 1 <= batches.batch_size <= batches.num_rows:
        raise ValueError(
            f"batches: got batch_size {batches.batch_size} and num_rows {batches.num_rows}; "
            "expected at least one row in a batch, and no more than there are"
        )
    return Rows(batches, name, in_memory=False)


def row_arguments(target: Target, size: int) -> list[str]:
    """Return the arguments of the model that are arrays with ``size`` rows."""
    arrays = {name: value for name, value in target.data.items() if isinstance(value, np.ndarray)}
    return [name for name, value in arrays.items() if value.ndim and len(value) == size]


def _find_plate(target: Target, sizes: Mapping[str, int], plate: str | None) -> str:
    if target.has_factors and not target.observed:
        raise ModelError(
            f"model '{target.name}' has its likelihood in numpyro.factor terms, or in sums over "
            "discrete latent variables, whose rows cannot be told apart: give it an observed site "
            "(obs=...) in a plate; a mixture has one with dist.MixtureSameFamily"
        )
    if plate is not None and plate not in sizes:
        raise ValueError(f"plate: {unknown('plate', plate, sizes)}")
    holds = {
        name: [s.name for s in target.observed if axis_of(s, name) is not None] for name in sizes
    }
    if plate is not None:
        if not holds[plate]:
            found = [name for name, sites in holds.items() if sites]
            raise ModelError(
                f"plate: no observed site is in '{plate}', so drawing rows of it leaves the "
                f"likelihood whole; observed sites are in {', '.join(found) or 'no plate'}"
            )
        return plate
    every = [name for name, sites in holds.items() if len(sites) == len(target.observed)]
    if not every:
        raise ModelError(
            f"model '{target.name}' has no plate that holds every observed site "
            f"({', '.join(s.name for s in target.observed)}), so no rows can be drawn: put the "
            "likelihood into numpyro.plate('row', len(y))"
        )
    if len(every) > 1:
        raise ValueError(
            f"plate: the observed sites are in {', '.join(every)}; say of which one the rows are "
            f"drawn, as in plate='{every[0]}'"
        )
    return every[0]


class _ScaleUp(Messenger):  # type: ignore[misc]
    """Counts the log densities in a plate several times."""

    def __init__(self, plate: str, factor: float) -> None:
        self.plate, self.factor = plate, factor
        super().__init__()

    @override
    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and _within(msg, self.plate) is not None:
            msg["scale"] = self.factor * (1.0 if msg["scale"] is None else msg["scale"])


def _within(site: Mapping[str, Any], plate: str) -> int | None:
    """Return the dimension of a plate in a site's batch shape, from the right."""
    return next((f.dim for f in site["cond_indep_stack"] if f.name == plate), None)


class Minibatches(Feed):
    """What SVI's steps see of the data: other rows of a plate at every step.

    Parameters
    ----------
    target
        What is fitted. Of rows from elsewhere it need not hold more than a few.
    rows
        Where the minibatches come from.
    size
        Steps of a chunk, at most: minibatches of a chunk are in memory together.
    seed
        Of the order of the rows.
    """

    def __init__(self, target: Target, rows: Rows, size: int, seed: int) -> None:
        self.rows, self.num_rows = rows, rows.batches.num_rows
        self.factor = self.num_rows / rows.batches.batch_size
        if rows.in_memory:
            arguments = row_arguments(target, self.num_rows)
            self._places = np.linspace(0, self.num_rows - 1, rows.batches.batch_size).astype(int)
            first = {name: target.data[name][self._places] for name in arguments}
        else:
            # not the order of the steps: what is verified are two minibatches that differ
            first = dict(next(draw(rows.batches, np.random.default_rng([seed, 1]))))
            self._places = np.arange(rows.batches.batch_size) % self._check_arguments(target, first)
        bytes_each = sum(array.nbytes for array in first.values())
        super().__init__(target, max(1, min(size, MAX_STACK // bytes_each)))
        self.shown = self._condition(first)
        self._ranges: dict[str, tuple[int, int]] = {}
        self._stacks = Prefetch(rows.batches, self.size, seed)

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
        target, plate = self.target, self.rows.plate
        size = self.rows.batches.batch_size
        try:
            shown = Target(target.complete_model, **{**target.data, **first})
        except ModelError as error:
            raise ModelError(
                f"batch_size: the model does not run on {size} rows of plate '{plate}': {error}"
            ) from None
        for site in target.latents:
            axis = axis_of(site, plate)
            expected = tuple(size if k == axis else n for k, n in enumerate(site.shape))
            if shown.sites[site.name].shape != expected:
                raise ModelError(
                    f"site '{site.name}' has shape {site.shape}, and with {size} rows of plate "
                    f"'{plate}' {shown.sites[site.name].shape}, expected {expected}: its size must "
                    "not follow from the rows, so pass it as an argument"
                )
        return shown

    @override
    def next(self) -> Any:
        stack = next(self._stacks)
        if not self.rows.in_memory:
            self._check_indices(stack)
        return jnp.int32(0), self._on_device(stack), self.shown.arrays()

    @override
    def singles(self, count: int) -> Sequence[Any]:
        found: list[Any] = []
        while len(found) < count:
            _, stack, fixed = self.next()
            found += [(jnp.int32(k), stack, fixed) for k in range(self.size)]
        return found[:count]

    @override
    def update(self, engine: Engine, state: Any, arrays: Any, step: Any) -> Any:
        offset, stack, fixed = arrays
        batch = {name: array[offset + step] for name, array in stack.items()}
        with _ScaleUp(self.rows.plate, self.factor):
            return engine.update(state, **self.shown.keywords(self._merge(batch, fixed)))

    @override
    def start(self, z: np.ndarray) -> np.ndarray:
        parts = [
            self._take(z[self.target.slices[site.name]].reshape(site.unconstrained_shape), site)
            for site in self.target.latents
        ]
        return np.concatenate([part.ravel() for part in parts])

    def _take(self, value: np.ndarray, site: Site) -> np.ndarray:
        """Return the value of a site of the target at the rows that are shown at first."""
        axis = axis_of(site, self.rows.plate)
        return value if axis is None else np.take(value, self._places, axis)

    @override
    def close(self) -> None:
        self._stacks.close()

    def _on_device(self, stack: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        return {name: jnp.asarray(array) for name, array in stack.items()}

    def _merge(self, batch: Mapping[str, Any], fixed: Arrays) -> Arrays:
        names = self.shown.traced_arguments
        return tuple(batch.get(name, old) for name, old in zip(names, fixed, strict=True))

    def _check_indices(self, stack: Mapping[str, np.ndarray]) -> None:
        """Raise on an index out of bounds, which JAX would quietly clamp.

        What reaches further than any before is looked at: the smallest and largest integers.
        """
        suspects = set()
        for name, array in stack.items():
            if array.dtype.kind not in "iu":
                continue
            low, high = self._ranges.get(name, (0, -1))
            each = array.reshape(len(array), -1)
            for extremes, beyond in ((each.min(axis=1), -1), (each.max(axis=1), 1)):
                k = int((beyond * extremes).argmax())
                value = int(extremes[k])
                if high < low or value < low or value > high:
                    suspects.add(k)
            both = [int(array.min()), int(array.max()), *([low, high] if low <= high else [])]
            self._ranges[name] = min(both), max(both)
        for k in suspects:
            with jax.enable_x64(True):
                batch = {name: jnp.asarray(array[k]) for name, array in stack.items()}
                self.shown.check_indices(self._merge(batch, self.shown.arrays()))

    # -- whether the estimate is unbiased ---------------------------------------------------------

    @override
    def verify(self, z: np.ndarray) -> None:
        """Raise a :class:`ModelError` unless minibatches add up to the log joint density.

        Every log density is compared, at ``z``, between a minibatch and all rows, or where those
        are elsewhere between two minibatches: outside the plate it must not change, and in it it
        must be that of its rows.
        """
        plate = self.rows.plate
        # at the start itself a coefficient may be zero, and hide what it multiplies
        z = z + SPREAD * np.random.default_rng(0).standard_normal(z.size)
        if self.rows.in_memory:
            latents = _latents(self.target, z)
            other = _elements(self.target, latents, self.target.data, plate, 1.0)
            latents = {n: self._take(value, self.target.sites[n]) for n, value in latents.items()}
        else:
            latents = _latents(self.shown, self.start(z))
            data = {**self.shown.data, **{n: array[-1] for n, array in next(self._stacks).items()}}
            other = _elements(self.shown, latents, data, plate, self.factor)
        part = _elements(self.shown, latents, self.shown.data, plate, self.factor)
        outside = [name for name, (_, dim) in part.items() if dim is None]
        moved = [n for n in outside if not _agree(part[n][0], other[n][0])]
        if moved:
            raise ModelError(
                f"plate: outside '{plate}', the density of site(s) {', '.join(moved)} depends on "
                "which rows are drawn, so that minibatches do not add up to the model; pass what "
                "it takes from the rows, such as a mean, as an argument of its own, or put the "
                "site into the plate"
            )
        if not self.rows.in_memory:
            return
        for name, (value, dim) in part.items():
            if dim is None:
                continue
            own = np.take(other[name][0], self._places, axis=dim) * self.factor
            if not _agree(value, own):
                raise ModelError(
                    f"plate: the density of site '{name}' in '{plate}' depends on other rows than "
                    "its own, so that minibatches do not add up to the model; fit all rows"
                )


def _latents(target: Target, z: np.ndarray) -> dict[str, np.ndarray]:
    """Return the latent sites at ``z``, constrained scale."""
    values = target.constrain(z)
    return {site.name: values[site.name] for site in target.latents}


def _agree(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.allclose(
        one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
    )


def _elements(
    target: Target, latents: Mapping[str, Any], data: Mapping[str, Any], plate: str, factor: float
) -> dict[str, tuple[np.ndarray, int | None]]:
    """Return the log densities of all sites, element by element, and where the plate is in them."""
    dims: dict[str, int | None] = {}

    def run(latents: Mapping[str, Any], arrays: Arrays) -> dict[str, jax.Array]:
        model = handlers.substitute(target.seeded, data=dict(latents))
        with _ScaleUp(plate, factor), jax.numpy_rank_promotion("allow"):
            trace = handlers.trace(model).get_trace(**target.keywords(arrays))
        found = {}
        for name, site in trace.items():
            if site["type"] == "sample":
                value = site["fn"].log_prob(site["value"])
                found[name] = value if site["scale"] is None else site["scale"] * value
                dims[name] = _within(site, plate)
        return found

    with jax.enable_x64(True):
        names = target.traced_arguments
        arrays = tuple(
            jnp.asarray(data[name]) if isinstance(data[name], np.ndarray) else old
            for name, old in zip(names, target.arrays(), strict=True)
        )
        values = jax.jit(run)({n: jnp.asarray(v, float) for n, v in latents.items()}, arrays)
    return {name: (np.asarray(value), dims[name]) for name, value in values.items()}


def make_feed(target: Target, rows: Rows | None, size: int, seed: int) -> Feed:
    """Return what the steps of a run see of the data.

    Parameters
    ----------
    target
        What is fitted.
    rows
        Where minibatches come from; ``None`` shows all data at every step.
    size
        Steps of a chunk, at most.
    seed
        Of the order of the rows.
    """
    return Feed(target, size) if rows is None else Minibatches(target, rows, size, seed)
