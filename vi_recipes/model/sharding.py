"""The rows of one large fit on several devices."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vi_recipes.model.target import Target, check_target


def shard(target: Target, mesh: Mesh) -> Target:
    """Return a target whose rows lie on the devices of a mesh, an equal part on each.

    Arrays among the data with an entry a row are divided along their first axis, over all axes of
    the mesh; all else, the latent variables too, is on every device. Every method runs as on one
    device: XLA divides what is computed row by row, and adds up over devices what is summed over
    rows. A sum that goes to the members of a plate is one number a member.

    Parameters
    ----------
    target
        A model conditioned on data.
    mesh
        Of JAX's devices: ``jax.sharding.Mesh(jax.devices(), ("rows",))``.

    Returns
    -------
    Target
        The same density, to rounding. What was compiled for ``target`` is not used for it.

    Raises
    ------
    ValueError
        For what is no mesh, rows that the devices do not divide, and a model none of whose arrays
        is traced with an entry a row: one that reads sizes off their values.

    Examples
    --------
    >>> import jax
    >>> mesh = jax.sharding.Mesh(jax.devices(), ("rows",))
    >>> vr.MAP().fit(vr.shard(target, mesh)).status.name
    'OK'
    """
    check_target(target)
    if not isinstance(mesh, Mesh):
        raise ValueError(
            f"mesh: got {type(mesh).__name__}, expected a jax.sharding.Mesh, such as "
            "Mesh(jax.devices(), ('rows',))"
        )
    rows = num_rows(target)
    divided = [a for a in target.arrays() if a.ndim and len(a) == rows]
    if not divided:
        raise ValueError(
            f"mesh: model '{target.name}' has no array with an entry for each of its {rows} rows "
            "that JAX traces, so nothing can be divided: it reads sizes off them, or has them as "
            "constants. Pass sizes, such as the number of groups, as arguments of their own"
        )
    if rows % mesh.size:
        fewer = next(n for n in range(mesh.size - 1, 0, -1) if rows % n == 0)
        raise ValueError(
            f"mesh: its {mesh.size} devices do not divide the {rows} rows of model "
            f"'{target.name}'; use {fewer} of them, or leave {rows % mesh.size} rows out"
        )

    def spread(array: np.ndarray) -> NamedSharding:
        divides = array.ndim > 0 and len(array) == rows
        axes = (mesh.axis_names,) if divides else ()
        spec = PartitionSpec(*axes)  # type: ignore[no-untyped-call]
        return NamedSharding(mesh, spec)

    return target.on(spread)


def num_rows(target: Target) -> int:
    """Return the number of rows: the longest first axis of what is observed, 0 if all is scalar."""
    return max((site.shape[0] for site in target.observed if site.shape), default=0)


def bytes_by_device(target: Target) -> dict[jax.Device, int]:
    """Return how many bytes of the target's traced data lie on each device, in double precision."""
    found: dict[jax.Device, int] = {}
    with jax.enable_x64(True):
        for array in target.arrays():
            for part in array.addressable_shards:
                size = math.prod(part.data.shape) * array.dtype.itemsize
                found[part.device] = found.get(part.device, 0) + size
    return found
