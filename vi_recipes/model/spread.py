"""Where the arrays of a target lie whose rows are divided over devices, of one host or several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vi_recipes.core import ModelError

type Index = tuple[slice, ...]
"""What of an array a device has."""


@dataclass(frozen=True)
class Spread:
    """An equal part of the rows on each device of a mesh, all else on every one.

    Parameters
    ----------
    mesh
        The devices.
    own_rows
        Rows that this host has.
    num_hosts
        How many hosts have as many.
    """

    mesh: Mesh
    own_rows: int
    num_hosts: int = 1

    @property
    def num_rows(self) -> int:
        """Rows of all hosts."""
        return self.own_rows * self.num_hosts

    def place(self, array: np.ndarray, axis: int = 0) -> jax.Array:
        """Return this host's part of an array as the whole one, on the devices.

        It is divided along ``axis`` where that has an entry a row; all hosts have the same of any
        other.
        """
        array = np.asarray(array)
        array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
        divided = array.ndim > axis and array.shape[axis] == self.own_rows
        axes = (*(None,) * axis, self.mesh.axis_names) if divided else ()
        sharding = NamedSharding(self.mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
        if self.num_hosts == 1:
            return jax.device_put(array, sharding)
        whole = self._scaled(array.shape, axis)
        made: jax.Array = jax.make_array_from_process_local_data(  # type: ignore[no-untyped-call]
            sharding, array, whole
        )
        return made

    def divide[T](self, tree: T) -> T:
        """Return a tree with what has an entry a row divided; within compiled code.

        XLA may else keep all of it on every device, of what it need not communicate for that.
        """

        def divided(value: jax.Array) -> jax.Array:
            if self.num_rows not in value.shape:
                return value
            axes = (*(None,) * value.shape.index(self.num_rows), self.mesh.axis_names)
            spec = PartitionSpec(*axes)  # type: ignore[no-untyped-call]
            place = NamedSharding(self.mesh, spec)
            return jax.lax.with_sharding_constraint(value, place)  # type: ignore[no-untyped-call]

        made: T = jax.tree.map(divided, tree)
        return made

    def whole(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that an array of this host's rows has with those of all."""
        return self._scaled(shape, 0)

    def own(self, value: jax.Array, axis: int = 0) -> np.ndarray:
        """Return what an array on the devices has of this host's rows; all of one without rows."""
        shape = value.shape
        if self.num_hosts == 1:
            return np.asarray(value)
        of_rows = len(shape) > axis and shape[axis] == self.num_rows
        if not of_rows:
            return _read(value)
        first = jax.process_index() * self.own_rows
        rows = (*(slice(None),) * axis, slice(first, first + self.own_rows))
        if _is_here(value):
            return np.asarray(value)[rows]
        # XLA may have divided it in any way. Whether rows are fetched is decided from where all of
        # it lies: fetching is for every host at once, and one that does not join lets others wait
        lies: Mapping[Any, Index] = value.sharding.devices_indices_map(shape)
        places = [(device.process_index, index) for device, index in lies.items()]
        if not self.lies_by_host(places, shape, axis):
            return _read(value)[rows]
        found = np.empty((*shape[:axis], self.own_rows, *shape[axis + 1 :]), value.dtype)
        before = (slice(None),) * axis
        for part in value.addressable_shards:
            start, stop, _ = part.index[axis].indices(shape[axis])
            low, high = max(start, first), min(stop, first + self.own_rows)
            if low < high and _is_whole(part.index, shape, axis):
                to, of = slice(low - first, high - first), slice(low - start, high - start)
                found[(*before, to)] = np.asarray(part.data)[(*before, of)]
        return found

    def lies_by_host(
        self, places: Iterable[tuple[int, Index]], shape: tuple[int, ...], axis: int
    ) -> bool:
        """Whether every host has all of its own rows of an array, so that none need ask another.

        Parameters
        ----------
        places
            Host, and what one of its devices has, for every device of all hosts.
        shape, axis
            Of the whole array, and along which axis the rows are.
        """
        ranges: dict[int, list[tuple[int, int]]] = {host: [] for host in range(self.num_hosts)}
        for host, index in places:
            if _is_whole(index, shape, axis):
                start, stop, _ = index[axis].indices(shape[axis])
                ranges[host].append((start, stop))
        for host, own in ranges.items():
            reached, last = host * self.own_rows, (host + 1) * self.own_rows
            for start, stop in sorted(own):
                if start > reached:
                    break
                reached = max(reached, stop)
            if reached < last:
                return False
        return True

    def own_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that an array of all rows has on this host."""
        if shape and shape[0] == self.num_rows:
            return (self.own_rows, *shape[1:])
        return shape

    def _scaled(self, shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
        if len(shape) <= axis or shape[axis] != self.own_rows:
            return shape
        return tuple(n * self.num_hosts if k == axis else n for k, n in enumerate(shape))


def _is_whole(index: Index, shape: tuple[int, ...], axis: int) -> bool:
    """Whether a part of an array has all of it along every axis but that of the rows."""
    pairs = enumerate(zip(index, shape, strict=True))
    return all(part.indices(n) == (0, n, 1) for k, (part, n) in pairs if k != axis)


def _read(value: jax.Array) -> np.ndarray:
    """Return all of an array that may lie on several hosts; each host calls it."""
    if _is_here(value):
        return np.asarray(value)
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(value, tiled=True))


def _is_here(value: jax.Array) -> bool:
    """Whether this host has all of an array; it has of one that is no JAX array.

    Hosts find the same: an array is on the devices of all of them, or each has one of its own.
    """
    if not isinstance(value, jax.Array):
        return True
    return value.is_fully_addressable or value.is_fully_replicated


def check_order(mesh: Mesh) -> int:
    """Return how many hosts a mesh's devices are of.

    Raises
    ------
    ModelError
        Unless it has all devices of every host in order, as ``jax.devices()`` lists them.
    """
    owners = [device.process_index for device in mesh.devices.flat]
    hosts = len(set(owners))
    if hosts > 1 and (hosts != jax.process_count() or owners != sorted(owners)):
        raise ModelError(
            "mesh: it has devices of several hosts, but not of all of them in order; make it of "
            "jax.devices()"
        )
    counts = {owner: owners.count(owner) for owner in owners}
    if len(set(counts.values())) > 1:
        raise ModelError(
            f"mesh: hosts have {', '.join(map(str, counts.values()))} devices, expected as many of "
            "each"
        )
    if jax.process_count() > 1 and hosts == 1 and owners[0] != jax.process_index():
        raise ModelError("mesh: its devices are those of another host")
    return hosts
