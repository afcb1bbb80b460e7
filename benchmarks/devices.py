"""One fit on many devices: what is communicated, and what memory a process takes.

    python benchmarks/devices.py counts [--devices 4,16,64]
    python benchmarks/devices.py memory [--fits lrvb:10,map:100]

``counts`` compiles criteo's programs for virtual devices of this machine and counts what their text
says is communicated; nothing is timed. ``memory`` fits rows of a Parquet folder in one process, and
in two that have half of them each, joined on the loopback address.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
from scaling import NUM_GROUPS, NUM_ROWS

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
MEMBERS, ROWS = 4, 12
"""Members a device, and rows a member, of the programs that are counted."""


# -- what is communicated --------------------------------------------------------------------------


def communicated(text: str) -> dict[str, int]:
    """Return how many numbers each kind of collective operation of a compiled program gives."""
    found: dict[str, int] = {}
    for kind in COLLECTIVES:
        for made in re.findall(rf"= (.*?) {kind}(?:-start)?\(", text):
            for size in re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", made):
                number = math.prod(int(n or 1) for n in size.split(","))
                found[kind] = found.get(kind, 0) + number
    return found


def rows_of(devices: int) -> dict[str, Any]:
    """Return data of criteo in which every device's rows are those of its own members."""
    import numpy as np

    rng = np.random.default_rng(0)
    num_groups = devices * MEMBERS
    number = num_groups * ROWS
    return {
        "y": rng.integers(0, 2, number).astype(np.int32),
        "X": rng.standard_normal((number, 5)),
        "group": np.repeat(np.arange(num_groups), ROWS),
        "num_groups": num_groups,
    }


def count() -> None:
    """Count the programs on the devices that this process has."""
    import jax

    with jax.enable_x64(True):
        rows = [*_as_it_is(), *_by_xla(), *_by_hand()]
    print(json.dumps(rows))


def _row(name: str, compiled: Any) -> list[Any]:
    memory = compiled.memory_analysis()
    return [
        name,
        communicated(compiled.as_text()),
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
    ]


def _as_it_is() -> list[list[Any]]:
    """Return the programs that fits run, of a target that ``vr.shard`` has made."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh

    import vi_recipes as vr
    from vi_recipes.core import Timing
    from vi_recipes.elbo import CurvedKL

    devices = jax.device_count()
    whole = vr.Target(vr.load_model("criteo"), **rows_of(devices))
    target = vr.shard(whole, Mesh(jax.devices(), ("rows",)))
    z = jnp.asarray(whole.start(jax.random.key(0)))

    def product(z: jax.Array, v: jax.Array, arrays: Any) -> Any:
        return jax.jvp(lambda z: jax.grad(target.log_density_fn)(z, arrays), (z,), (v,))

    kl = vr.MeanField().objective(target, jax.random.key(0), Timing(), CurvedKL, {})
    kl.use_nodes(8)
    kl.use_pairs(16)
    eta = jnp.asarray(kl.factors.start(whole.anywhere(), 0.1).ravel())

    def both(eta: jax.Array, v: jax.Array, held: Any) -> Any:
        gradient, push, value = kl._expanded(eta, held)
        return value, gradient, push(v)

    joint = jax.jit(product).lower(z, z, target.arrays()).compile()
    elbo = jax.jit(both).lower(eta, eta, kl.held).compile()
    return [
        _row("joint density: gradient and a product, as it is", joint),
        _row("ELBO: value, gradient and a product, as it is", elbo),
    ]


def _by_xla() -> list[list[Any]]:
    """Return the same with members asked to lie with their rows, and XLA left to see to it."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import vi_recipes as vr

    devices = jax.device_count()
    mesh = Mesh(jax.devices(), ("rows",))
    target = vr.shard(vr.Target(vr.load_model("criteo"), **rows_of(devices)), mesh)
    border = target.dim - devices * MEMBERS
    divided, same = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("rows",), ()))
    shared = jax.device_put(jnp.zeros(border), same)
    members = jax.device_put(jnp.zeros(devices * MEMBERS), divided)

    def density(theta: jax.Array, u: jax.Array, arrays: Any) -> jax.Array:
        return target.log_density_fn(jnp.concatenate([theta, u]), arrays)

    def product(theta: jax.Array, u: jax.Array, arrays: Any) -> Any:
        slopes = jax.grad(density, (0, 1))
        return jax.jvp(lambda t, u: slopes(t, u, arrays), (theta, u), (theta, u))

    places = ((same, divided), (same, divided))
    compiled = jax.jit(product, out_shardings=places).lower(shared, members, target.arrays())
    return [_row("the same, members divided by XLA", compiled.compile())]


def _by_hand() -> list[list[Any]]:
    """Return a whole Newton step of each device's own members, with the model at their size.

    It is held to the dense Newton step of the whole target.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    import vi_recipes as vr
    from vi_recipes.model import site_terms

    devices = jax.device_count()
    data = rows_of(devices)
    mesh = Mesh(jax.devices(), ("rows",))
    size = MEMBERS * ROWS
    own = {name: value[:size] for name, value in data.items() if name != "num_groups"}
    model = vr.load_model("criteo")
    local = vr.Target(model, **own, num_groups=MEMBERS)
    border = local.dim - MEMBERS
    shared = [site.name for site in local.latents if site.name != "u"]

    def prior(theta: jax.Array, arrays: Any) -> jax.Array:
        z = jnp.concatenate([theta, jnp.zeros(MEMBERS)])
        terms = site_terms(local, z, arrays)
        return sum((terms[name].total for name in shared), jnp.zeros(()))

    def mine(theta: jax.Array, u: jax.Array, arrays: Any) -> jax.Array:
        whole = local.log_density_fn(jnp.concatenate([theta, u]), arrays)
        return prior(theta, arrays) - whole

    def step(theta: jax.Array, u: jax.Array, arrays: Any) -> tuple[jax.Array, jax.Array]:
        slope = jax.grad(mine, (0, 1))(theta, u, arrays)
        corner = jax.hessian(mine)(theta, u, arrays)
        edge = jax.jacobian(lambda t: jax.grad(mine, 1)(t, u, arrays))(theta)
        blocks = jax.jvp(lambda u: jax.grad(mine, 1)(theta, u, arrays), (u,), (jnp.ones_like(u),))
        turned = edge / blocks[1][:, None]
        sums = jnp.concatenate([corner - edge.T @ turned, (slope[0] - turned.T @ slope[1])[None]])
        sums = jax.lax.psum(sums, "rows")  # the one thing that devices tell one another
        schur = sums[:-1] - jax.hessian(prior)(theta, arrays)
        there = jnp.linalg.solve(schur, sums[-1] - jax.grad(prior)(theta, arrays))
        return -there, -(slope[1] / blocks[1] - turned @ there)

    row, all_of = PartitionSpec("rows"), PartitionSpec()
    divided = jax.shard_map(
        step, mesh=mesh, in_specs=(all_of, row, row), out_specs=(all_of, row), check_vma=False
    )
    numbers = {**data, "group": data["group"] % MEMBERS}
    arrays = tuple(
        jax.device_put(numbers[name], NamedSharding(mesh, row)) for name in local.traced_arguments
    )
    rng = np.random.default_rng(1)
    theta, u = 0.1 * rng.standard_normal(border), 0.1 * rng.standard_normal(devices * MEMBERS)
    given = jnp.asarray(theta), jax.device_put(u, NamedSharding(mesh, row)), arrays
    compiled = jax.jit(divided).lower(*given).compile()
    found = np.concatenate([np.asarray(part) for part in compiled(*given)])
    whole = vr.Target(model, **data)
    z = jnp.asarray(np.concatenate([theta, u]))

    def minus(z: jax.Array) -> jax.Array:
        return -whole.log_density_fn(z, whole.arrays())

    right = -np.linalg.solve(np.asarray(jax.hessian(minus)(z)), np.asarray(jax.grad(minus)(z)))
    off = float(np.abs(found - right).max() / np.abs(right).max())
    assert off < 1e-10, off
    return [_row("a Newton step of the joint density, members divided by hand", compiled)]


def counts(devices: Sequence[int]) -> None:
    """Print what is communicated on so many virtual devices."""
    common.heading("criteo on virtual devices: counts of the compiled programs")
    rows = []
    for number in devices:
        flags = f"--xla_force_host_platform_device_count={number}"
        done = subprocess.run(
            common.worker(__file__, "count"),
            env={**os.environ, "XLA_FLAGS": flags},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        for name, sums, argument, temporary in json.loads(done.stdout.splitlines()[-1]):
            told = ", ".join(f"{kind} {n:,}" for kind, n in sums.items()) or "nothing"
            members = number * MEMBERS
            sizes = [f"{n:,}" for n in (number, members * ROWS, members)]
            rows.append((name, *sizes, told, f"{argument:,}", f"{temporary:,}"))
    rows.sort(key=lambda row: row[0])
    head = ("program", "devices", "rows", "members", "numbers", "arguments, B", "work space, B")
    common.print_table(head, rows)


# -- what memory a process takes -------------------------------------------------------------------


def write(folder: str, factor: str) -> None:
    """Write criteo's rows, times a factor, as Parquet files in row groups of a hundred thousand."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    import vi_recipes as vr

    model = vr.load_model("criteo")
    assert model.simulate is not None
    data = model.simulate(num_rows=int(factor) * NUM_ROWS, num_groups=int(factor) * NUM_GROUPS)
    columns = {f"x{k + 1}": column for k, column in enumerate(data["X"].T)}
    table = pa.table({"y": data["y"], **columns, "group": data["group"]})
    pq.write_table(table, Path(folder) / "rows.parquet", row_group_size=100_000)


def fit(folder: str, method: str, factor: str, address: str, count: str, host: str) -> None:
    """Fit this host's part with the others; print moments, seconds and peak memory."""
    import jax
    from jax.sharding import Mesh

    import vi_recipes as vr
    from vi_recipes.methods import make_method

    hosts = vr.join_hosts(address, int(count), int(host)) if int(count) > 1 else None
    start = time.perf_counter()
    columns = {"y": "y", "X": [f"x{k}" for k in range(1, 6)], "group": "group"}
    divides = method in ("meanfield", "lrvb")  # members too, which have to be whole for that
    data = vr.read_part(folder, columns, hosts=hosts, whole="group" if divides else None)
    read = time.perf_counter() - start
    num_groups = int(factor) * NUM_GROUPS
    target = vr.Target(vr.load_model("criteo"), **data, num_groups=num_groups)
    del data
    if hosts is not None:
        target = vr.shard(target, Mesh(jax.devices(), ("rows",)))
    start = time.perf_counter()
    done = make_method(method, target).fit(target, key=0)
    seconds = time.perf_counter() - start
    moments = (
        {}
        if not done.has_result
        else {
            name: [done.mean()[name].tolist(), done.sd()[name].tolist()]
            for name in ("beta", "mu", "tau")
        }
    )
    print(
        json.dumps(
            {
                "status": done.status.name,
                "steps": done.diagnostics.get("iterations"),
                "read": read,
                "fit": seconds,
                "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
                "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "rows": len(target.data["y"]),
                "moments": moments,
            }
        )
    )


def _together(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Run commands side by side; return the last line of each."""
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    begun = [
        subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        for c in commands
    ]
    said = [process.communicate() for process in begun]
    for process, (_, errors) in zip(begun, said, strict=True):
        if process.returncode:
            raise SystemExit(errors[-3000:])
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def memory(fits: Sequence[str]) -> None:
    """Print what each process takes, alone and as one of two."""
    common.heading("criteo's rows in Parquet, by one process and by two")
    rows = []
    for entry in fits:
        method, _, factor = entry.partition(":")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(common.worker(__file__, "write", folder, factor), check=True)
            alone: dict[str, Any] = {}
            for number in (1, 2):
                with socket.socket() as free:
                    free.bind(("127.0.0.1", 0))
                    address = f"127.0.0.1:{free.getsockname()[1]}"
                told = _together(
                    [
                        common.worker(
                            __file__, "fit", folder, method, factor, address, str(number), str(k)
                        )
                        for k in range(number)
                    ]
                )
                alone = alone or told[0]
                rows += [
                    (
                        f"{method}, {int(factor) * NUM_ROWS:,} rows",
                        f"{k + 1} of {number}",
                        f"{one['rows']:,}",
                        f"{one['peak']:,.0f}",
                        f"{one['peak'] / alone['peak']:.2f}",
                        f"{one['read']:.1f}",
                        f"{one['fit']:.0f}",
                        f"{one['cpu']:.0f}",
                        f"{one['status'].lower()}, {one['steps']:.0f} steps",
                        f"{_apart(one['moments'], alone['moments']):.1g}",
                    )
                    for k, one in enumerate(told)
                ]
    head = ("fit", "process", "rows", "peak, MB", "÷ alone", "read, s", "fit, s", "CPU, s")
    common.print_table((*head, "how it ended", "apart"), rows)
    print(
        "\napart: the largest distance of a mean or sd of beta, mu and tau from one process's, in"
    )
    print("sds where there are some.")
    print(common.load())


def _apart(moments: dict[str, Any], alone: dict[str, Any]) -> float:
    import numpy as np

    off = 0.0
    for name, (mean, sd) in moments.items():
        right, spread = (np.asarray(v, float) for v in alone[name])
        unit = np.where(np.isnan(spread), 1.0, spread)
        off = max(off, float(np.nanmax(np.abs(np.asarray(mean) - right) / unit)))
        if not np.isnan(spread).all():
            off = max(off, float(np.nanmax(np.abs(np.asarray(sd, float) - spread) / unit)))
    return off


def main() -> None:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("counts", "memory"))
    parser.add_argument("--devices", default="4,16,64", help="numbers of them, %(default)s")
    parser.add_argument("--fits", default="lrvb:10,map:100", help="method:factor, %(default)s")
    options = parser.parse_args()
    parts: dict[str, Callable[[], None]] = {
        "counts": lambda: counts([int(n) for n in options.devices.split(",")]),
        "memory": lambda: memory(options.fits.split(",")),
    }
    parts[options.what]()


if __name__ == "__main__":
    if not common.is_worker({"count": count, "write": write, "fit": fit}):
        main()
