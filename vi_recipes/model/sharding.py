"""The rows of one large fit on several devices."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vi_recipes.core import ModelError, agree, numbers_by_hosts, warn
from vi_recipes.data import fingerprint
from vi_recipes.model.dividing import find_division
from vi_recipes.model.padding import change_rows, padded, rows_of
from vi_recipes.model.spread import Spread, check_order
from vi_recipes.model.target import Target, check_target


def shard(target: Target, mesh: Mesh) -> Target:
    """Return a target whose rows lie on the devices of a mesh, an equal part on each.

    Arrays among the data with an entry a row are divided along their first axis, over all axes of
    the mesh; all else, the latent variables too, is on every device. Every method runs as on one
    device: XLA divides what is computed row by row, and adds up over devices what is summed over
    rows. A sum that goes to the members of a plate is one number a member.

    Where several hosts have joined (:func:`join_hosts`), each gives a target of its own rows and
    all devices in one mesh; the fits are those of all rows, and every host has them. Where no
    member of the largest plate has rows on two hosts (:func:`read_part` with ``whole``), mean field
    and linear response leave every host its own members: the model runs at their number, and hosts
    tell one another sums of a size that members do not change. That it is so is checked at two
    points.

    Parameters
    ----------
    target
        A model conditioned on data: on this host's rows, if there are several.
    mesh
        Of JAX's devices: ``jax.sharding.Mesh(jax.devices(), ("rows",))``.

    Returns
    -------
    Target
        The same density, to rounding. What was compiled for ``target`` is not used for it.

    Raises
    ------
    ValueError
        For what is no mesh, a model none of whose arrays is traced with an entry a row (one that
        reads sizes off their values), fewer rows than devices, and rows that the devices do not
        divide in a model whose rows cannot be filled up. With several hosts also for a mesh
        without all of their devices, hosts of different models or other data than rows, and models
        that have a latent variable or a derived quantity for each row.

    Warns
    -----
    UserWarning
        Where rows without weight are added, because the devices do not divide them; and where
        every host has all members, for what reason.

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
    if target.spread is not None:
        raise ValueError("target: its rows lie on devices already; shard the one that was given")
    num_hosts = check_order(mesh)
    rows = rows_of(target)
    _check_divisible(target, rows)
    of_hosts = [rows]
    if num_hosts > 1:
        _check_hosts(target, rows)
        of_hosts = [numbers[0] for numbers in numbers_by_hosts([rows])]
    if sum(of_hosts) < mesh.size:
        raise ValueError(
            f"mesh: {mesh.size} devices for the {sum(of_hosts)} rows of model '{target.name}'; use "
            "no more devices than there are rows"
        )
    sizes = {n for site in target.latents for n in site.shape} if num_hosts > 1 else set()
    own_rows = rows_of_each(of_hosts, mesh.size // num_hosts, sizes)
    # hosts run one program: if one is filled up, all are
    whole = target if set(of_hosts) == {own_rows} else _filled(target, own_rows, num_hosts)
    if added := own_rows * num_hosts - sum(of_hosts):
        equal = len(set(of_hosts)) == 1 and rows * num_hosts % mesh.size == 0
        warn(
            f"model '{target.name}': {added:,} without weight are added to its {sum(of_hosts):,} "
            + (
                "rows, which would else be as many as a latent site has elements"
                if equal
                else f"rows, so that each of the {mesh.size} devices has as many"
            )
        )
    divided = whole.on(Spread(mesh, own_rows, num_hosts))
    divided.undivided = _undivided(target, divided)
    if num_hosts > 1:
        divided.fingerprint = _fingerprint_of_hosts(target.fingerprint)
        place = partial(_on_own_devices, mesh=mesh)
        divided.members, why = find_division(divided.undivided, divided, place)
        if why:
            warn(f"model '{target.name}': every host has all members, because {why}")
    return divided


def rows_of_each(of_hosts: Sequence[int], devices: int, sizes: Collection[int]) -> int:
    """Return the rows that every host is to have, those without weight included.

    Parameters
    ----------
    of_hosts
        How many each has.
    devices
        Of each host; they divide the rows.
    sizes
        Of other things, which rows must not be taken for: neither one host's nor all.
    """
    rows = -(-max(of_hosts) // devices) * devices
    while {rows, rows * len(of_hosts)} & set(sizes):
        rows += devices
    return rows


def _filled(target: Target, num_rows: int, num_hosts: int) -> Target:
    """Return the target filled up, or raise on every host what one of them cannot."""
    failure: ModelError | None = None
    whole = target
    try:
        whole = padded(target, num_rows)
    except ModelError as error:
        failure = error
    if num_hosts > 1:
        fails = numbers_by_hosts([failure is not None])
        failed = [host for host, numbers in enumerate(fails) if numbers[0]]
        if failed and failure is None:
            failure = ModelError(
                f"host {failed[0]} cannot fill its rows up to {num_rows}; see there"
            )
    if failure is not None:
        raise failure
    return whole


def _on_own_devices(part: Target, mesh: Mesh) -> Target:
    """Return one host's part with its rows on those devices of a mesh that are this host's."""
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    if len(own) == 1 or rows_of(part) < len(own):
        return part
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows without weight have been told of
        try:
            return shard(part, Mesh(np.array(own), ("rows",)))
        except ValueError:  # its rows cannot be filled up
            return part


def _undivided(target: Target, divided: Target) -> Target:
    """Return the target as it was given, which fits of the divided one are fits of.

    Of rows that were filled up both have the part that was there, so that they are in memory once:
    code that was compiled for the one holds it as long as there is the other.
    """
    if divided.padded_rows:
        target.share_rows(divided)
    other = copy.copy(target)
    other.fitted_as = divided
    return other


def _check_divisible(target: Target, rows: int) -> None:
    if not rows:
        raise ValueError(
            f"mesh: model '{target.name}' has no observed site with an entry a row, so there are "
            "no rows to divide (a site over which discrete variables are summed is none)"
        )
    if not any(shape and shape[0] == rows for shape in target.traced_shapes):
        raise ValueError(
            f"mesh: model '{target.name}' has no array with an entry for each of its {rows} rows "
            "that JAX traces, so nothing can be divided: it reads sizes off them, or has them as "
            "constants. Pass sizes, such as the number of groups, as arguments of their own"
        )


def _check_hosts(target: Target, rows: int) -> None:
    """Raise a :class:`ModelError` for what several hosts cannot fit together."""
    plates = {p for site in target.observed for p, size, _ in site.plates if size == rows}
    of_rows = [
        site.name
        for site in target.quantities
        if rows in site.shape
        and (not site.plates or any(name in plates for name, _, _ in site.plates))
    ]
    reason = ""
    if of_rows:
        reason = f"site '{of_rows[0]}' has an element for each row, and no host has them all"
    elif len(_of_rows(jax.tree.leaves(target.data), rows)) > sum(
        shape[:1] == (rows,) for shape in target.traced_shapes
    ):
        reason = "it reads sizes off arrays with an entry a row; pass the sizes as arguments"
    fixed = [(s.name, s.kind, s.shape) for s in target.quantities]
    others = change_rows(target.data, rows, lambda array: f"{array.dtype} {array.shape[1:]}")
    agree(
        f"the model ('{target.name}' here) or its data other than rows; start the same program "
        "with the same arguments on each, numbers of groups among them",
        f"{target.name} {fixed} {target.model.init is None} {fingerprint({'data': others})}",
    )
    agree("what they can fit: " + (reason or "see the other hosts"), reason and "cannot")
    if reason:
        raise ModelError(f"model '{target.name}' cannot be fitted by several hosts: {reason}")
    agree(
        f"the formula's model ('{target.name}' here), whose members and default priors are those "
        "of the rows that it was made of; make it of all rows on each, then give Target one host's",
        _made_of(target),
    )
    agree(
        f"where Model(init=...) of model '{target.name}' has methods start: it is given the rows "
        "of one host; let it depend on sizes alone",
        _starts(target),
    )


def _made_of(target: Target) -> str:
    """Return what the rows that a formula's model was made of have decided; empty without one."""
    model = target.complete_model
    source = getattr(model, "source", "")
    return f"{source} {model.coords}" if source else ""


def _starts(target: Target) -> str:
    """Return where a model's own ``init`` begins, at two keys; an error is what it says."""
    try:
        given = [target.given_start(jax.random.key(k)) for k in range(2)]
    except ModelError as error:
        return str(error)
    starts = {
        f"{name} {k}": np.asarray(value, float)
        for k, one in enumerate(given)
        for name, value in one.items()
    }
    return fingerprint(starts)


def _of_rows(leaves: list[Any], rows: int) -> list[np.ndarray]:
    return [x for x in leaves if isinstance(x, np.ndarray) and x.shape[:1] == (rows,)]


def _fingerprint_of_hosts(own: str) -> str:
    numbers = numbers_by_hosts([int(own[k : k + 4], 16) for k in range(0, len(own), 4)])
    return hashlib.sha256(repr(numbers).encode()).hexdigest()[: len(own)]


def bytes_by_device(target: Target) -> dict[jax.Device, int]:
    """Return how many bytes of the target's traced data lie on each device, in double precision.

    Of this host's devices, where there are several.
    """
    found: dict[jax.Device, int] = {}
    with jax.enable_x64(True):
        for array in target.arrays():
            for part in array.addressable_shards:
                size = math.prod(part.data.shape) * array.dtype.itemsize
                found[part.device] = found.get(part.device, 0) + size
    return found
