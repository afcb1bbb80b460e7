"""Several hosts that run one program: joined by JAX, told apart, held to one course."""

from __future__ import annotations

import functools
import hashlib
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vi_recipes.core.complaints import require, require_count, require_number
from vi_recipes.core.errors import told, warn
from vi_recipes.core.meeting import go_in, let_in, meet, open_door, parse_address
from vi_recipes.core.memory import hand_back_large
from vi_recipes.core.status import ModelError
from vi_recipes.core.versions import version_of
from vi_recipes.core.watch import begin_watch, together

if TYPE_CHECKING:
    import numpy as np

LAUNCHED_BY_MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK", "MPI_LOCALNRANKS")
"""Variables that launchers of MPI give to what they start."""

COMPARED = ("numpy", "jax", "jaxlib", "numpyro", "vi_recipes")
"""What hosts need in the same version: they compile one program, each for itself."""


@dataclass(frozen=True)
class Hosts:
    """The processes that have joined, and which of them this is.

    Parameters
    ----------
    index, count
        Number of this one, from 0, and how many there are.
    """

    index: int
    count: int

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes files: all have the same result."""
        return self.index == 0


def join_hosts(
    address: str | None = None,
    num_hosts: int | None = None,
    host: int | None = None,
    *,
    timeout: float = 60.0,
) -> Hosts:
    """Join the processes that run this program, one a host, so that their devices make one mesh.

    Every host calls it before anything else computes with JAX; ``jax.devices()`` then lists the
    devices of all. Each needs the same versions, and ``PYTHONHASHSEED=0`` in its environment: they
    compile their programs alike, and what they tell one another has to fit. They talk to one
    another unencrypted, by the coordinator and between any two: use a network that you trust.

    Parameters
    ----------
    address
        Host and port of the first one, ``"10.0.0.1:5000"``. ``None`` reads everything off SLURM
        (``srun``) or off MPI (``mpiexec``; needs mpi4py unless it is Open MPI 4 or older).
    num_hosts, host
        How many there are, and the number of this one, from 0; with ``address``.
    timeout
        Seconds to wait for the others. Under SLURM and MPI it is JAX that waits, and it ends the
        process where they do not come.

    Returns
    -------
    Hosts
        Which one this is.

    Raises
    ------
    ValueError
        For an address without the other two, or that is none; where nothing says how the hosts
        find each other; where the others do not come in time, or have other versions or another
        ``PYTHONHASHSEED``; and where JAX has computed already.

    Examples
    --------
    ::

        hosts = vr.join_hosts("10.0.0.1:5000", num_hosts=2, host=0)  # host=1 on the other
    """
    import jax

    require_number("timeout", timeout)
    given = {"num_hosts": num_hosts, "host": host}
    if address is None:
        if any(value is not None for value in given.values()):
            raise ValueError(
                "address: got None with num_hosts or host, expected host:port of the first one"
            )
        by_mpi = any(name in os.environ for name in LAUNCHED_BY_MPI)
        if not (by_mpi or "SLURM_JOB_ID" in os.environ):
            raise ValueError(
                "address: got None, and neither SLURM nor MPI has started this process; give "
                "address='host:port' of the first host, num_hosts and host, or start it by srun "
                "or mpiexec"
            )
    else:
        for name, value in given.items():
            if value is None:
                raise ValueError(f"{name}: got None with address, expected a number")
        assert num_hosts is not None
        assert host is not None
        require_count("num_hosts", num_hosts)
        require(
            type(host) is int and 0 <= host < num_hosts,
            "host",
            host,
            f"0 to {num_hosts - 1}, one less than num_hosts",
        )
        parse_address(address)
    if jax.distributed.is_initialized():
        raise ValueError("the hosts have joined already; call join_hosts once")
    if address is not None:
        assert num_hosts is not None
        assert host is not None
        meet(address, num_hosts, host, timeout)
    seconds = math.ceil(timeout)
    try:
        if address is not None or "SLURM_JOB_ID" in os.environ:
            jax.distributed.initialize(address, num_hosts, host, initialization_timeout=seconds)
        else:
            by = None if "OMPI_MCA_orte_hnp_uri" in os.environ else "mpi4py"
            jax.distributed.initialize(cluster_detection_method=by, initialization_timeout=seconds)
    except (RuntimeError, ValueError, ImportError) as error:
        if "before any" in str(error):
            raise ValueError(
                "join_hosts: JAX has computed something already; call it first thing in the program"
            ) from None
        raise ValueError(
            f"the hosts have not joined within {timeout:g} s ({told(error)}); start the program on "
            "every one of them"
        ) from None
    hand_back_large()  # several hosts are there for what one has no memory for
    hosts = Hosts(jax.process_index(), jax.process_count())
    if hosts.count > 1:
        versions = {name: version_of(name) for name in COMPARED}
        versions["python"] = platform.python_version()
        agree(f"their versions ({versions} here); install the same on each", repr(versions))
        agree(
            "the order in which Python goes through sets of names, and so through a distribution's "
            "parameters; start each with PYTHONHASHSEED=0 in its environment",
            str(hash(tuple(COMPARED))),
        )
        _watch(hosts, None if address is None else parse_address(address)[0], timeout)
    return hosts


INVITED = 500
"""Bytes that say where the first host listens."""


def _watch(hosts: Hosts, name: str | None, timeout: float) -> None:
    """Have every host hear of the end of the others."""
    door, invitation = None, ""
    if hosts.index == 0:
        try:
            door, invitation = open_door(name)
        except OSError:  # all are told below
            invitation = ""
    said = list(invitation.encode()[:INVITED])
    invitation = bytes(numbers_by_hosts(said + [32] * (INVITED - len(said)))[0]).decode().strip()
    peers = {}
    if door is not None:
        peers = let_in(door, invitation, hosts.count, timeout)
    elif invitation:
        peers = go_in(invitation, hosts.index, timeout)
    there = numbers_by_hosts([len(peers)])
    away = [str(host) for host, (number,) in enumerate(there) if host and not number]
    if away:
        warn(
            f"host {', '.join(away)} cannot reach host 0 at a port of its choice (is there a "
            "firewall?); if one of them fails, the others wait for it for minutes"
        )
    begin_watch(hosts.index, hosts.count, peers, whole=not away)


# -- one course ------------------------------------------------------------------------------------


def said_by_hosts(text: str) -> list[bytes]:
    """Return a digest of what every host says here, in order; each calls it."""
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    with together("what the hosts have to agree on"):
        rows = np.asarray(process_allgather(digest)).reshape(-1, digest.size)
    return [row.tobytes() for row in rows]


def numbers_by_hosts(numbers: Sequence[int]) -> list[list[int]]:
    """Return the integers that every host gives here, in order; each calls it."""
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    mine = np.asarray(numbers, np.int32)  # 64 bits would be cut off outside double precision
    with together("what the hosts tell one another"):
        rows = np.asarray(process_allgather(mine)).reshape(-1, mine.size)
    return [[int(value) for value in row] for row in rows]


def sum_over_hosts(numbers: np.ndarray) -> np.ndarray:
    """Return the sum over hosts of an array of the same shape on each; each calls it.

    In double precision, by one compiled all-reduce, whose result is the same on every host to the
    last bit.
    """
    import jax
    import numpy as np

    own = np.asarray(numbers, float)
    with together("what is summed over the hosts"), jax.enable_x64(True):
        rows, adder = _adder()
        shape = (jax.process_count(), own.size)
        given = jax.make_array_from_process_local_data(rows, own.reshape(1, -1), shape)  # type: ignore[no-untyped-call]
        return np.array(adder(given)).reshape(own.shape)


@functools.cache
def _adder() -> tuple[Any, Any]:
    """Return where a row a host lies, and the sum of such rows, compiled once for each length."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([firsts[k] for k in sorted(firsts)]), ("hosts",))
    rows, whole = (
        NamedSharding(mesh, PartitionSpec(*axes))  # type: ignore[no-untyped-call]
        for axes in (("hosts",), ())
    )
    return rows, jax.jit(lambda given: given.sum(axis=0), out_shardings=whole)


def arrays_by_hosts(array: np.ndarray) -> list[np.ndarray]:
    """Return the array that every host gives here, in order; each calls it.

    Their first axes may differ.
    """
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    sizes = [numbers[0] for numbers in numbers_by_hosts([len(array)])]
    filled = np.zeros((max(sizes), *array.shape[1:]), array.dtype)
    filled[: len(array)] = array
    with together("what the hosts gather"), jax.enable_x64(True):
        whole = np.asarray(process_allgather(filled)).reshape(-1, *filled.shape)
    return [rows[:size] for rows, size in zip(whole, sizes, strict=True)]


def agree(what: str, text: str) -> None:
    """Raise a :class:`ModelError` unless all hosts say the same here; each calls it.

    They would otherwise run different programs, and wait for one another for ever.

    Parameters
    ----------
    what
        What they have to agree on, as the complaint says it, with its cure.
    text
        What this one has.
    """
    said = said_by_hosts(text)
    others = ", ".join(str(k) for k, digest in enumerate(said) if digest != said[0])
    if others:
        raise ModelError(f"the hosts do not agree: host {others} and host 0 differ in {what}")
