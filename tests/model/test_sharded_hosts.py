"""Two processes of two virtual devices each, joined on the loopback address, beside one device."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr

ROOT = Path(__file__).resolve().parents[2]
ROWS, GROUPS = 401, 32

PROGRAM = """
import json, sys, warnings
import jax, numpy as np
import vi_recipes as vr
from jax.sharding import Mesh
from vi_recipes.model import bytes_by_device

address, host, folder, num_groups = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
hosts = vr.join_hosts(address, 2, host, timeout=60)
model = vr.load_model("criteo")
columns = {"y": "y", "X": ["x1", "x2", "x3", "x4", "x5"], "group": "group"}
own = vr.read_part(folder, columns, hosts=hosts)
found = {"host": [hosts.index, hosts.count], "devices": len(jax.devices()), "rows": len(own["y"])}
target = vr.Target(model, **own, num_groups=num_groups)
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    divided = vr.shard(target, Mesh(jax.devices(), ("rows",)))
found["told"] = [str(w.message) for w in told]
found["bytes"] = list(bytes_by_device(divided).values())
methods = [vr.MAP(), vr.Laplace(), vr.MeanField()]  # of several starts, and of one
methods += [vr.LinearResponse(base=vr.MeanField(num_starts=1))]
fits = [method.fit(divided, key=0) for method in methods]
found["fits"] = {
    fit.kind: [fit.status.name, fit.flat(fit.mean()).tolist(), fit.flat(fit.sd()).tolist()]
    for fit in fits
}
# hosts wait for one another at every draw
found["trust"] = [vr.assess(fit, divided, num_draws=100).khat for fit in fits[1:]]
found["refused"] = vr.EM().fit(divided).message
found["fingerprint"] = fits[0].provenance.data_fingerprint
found["own rows"] = vr.log_likelihood(fits[2], divided.undivided, num_draws=3)["y"].shape
try:
    vr.log_likelihood(fits[2], divided)
except ValueError as error:
    found["by row"] = str(error)
for other, change in (("groups", {"num_groups": num_groups + hosts.index}), ("same", {})):
    try:
        vr.shard(vr.Target(model, **{**own, "num_groups": num_groups, **change}),
                 Mesh(jax.devices()[: None if change else 3], ("rows",)))
    except ValueError as error:
        found[other] = str(error)
if hosts.writes:
    whole = vr.Target(model, **vr.read_part(folder, columns), num_groups=num_groups)
    fits = [method.fit(whole, key=0) for method in methods]
    found["alone"] = {
        fit.kind: [fit.status.name, fit.flat(fit.mean()).tolist(), fit.flat(fit.sd()).tolist()]
        for fit in fits
    }
    found["trust alone"] = [vr.assess(fit, whole, num_draws=100).khat for fit in fits[1:]]
print(json.dumps(found))
"""


def run(
    *hosts: list[str], flags: str = "", seeds: Sequence[int] = (0, 0), timeout: float = 500
) -> list[tuple[int, str, str]]:
    """Run a program on several hosts; return how each ended, and what it said."""
    flags = f"{os.environ['XLA_FLAGS']} {flags}"
    env = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)}
    begun = [
        subprocess.Popen(
            [sys.executable, "-c", *args],
            env={**env, "PYTHONHASHSEED": str(seed)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for args, seed in zip(hosts, seeds, strict=True)
    ]
    try:
        said = [process.communicate(timeout=timeout) for process in begun]
    finally:
        for process in begun:
            process.kill()
    return [(p.returncode, *texts) for p, texts in zip(begun, said, strict=True)]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def by_ipv6() -> str:
    """Return a free address of this machine's by IPv6; by IPv4 where it has no other."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            return f"[::1]:{free.getsockname()[1]}"
    except OSError:
        return f"127.0.0.1:{free_port()}"


def write(folder: Path, data: dict[str, Any], parts: int) -> None:
    """Write the arguments of criteo as Parquet files of small row groups."""
    columns = {f"x{k + 1}": column for k, column in enumerate(data["X"].T)}
    frame = pd.DataFrame({"y": data["y"], **columns, "group": data["group"]})
    for number, part in enumerate(np.array_split(np.arange(len(frame)), parts)):
        frame.iloc[part].to_parquet(folder / f"{number}.parquet", row_group_size=37)


@pytest.mark.slow
def test_two_hosts_of_two_devices_find_what_one_device_finds(tmp_path: Path) -> None:
    model = vr.load_model("criteo")
    assert model.simulate is not None
    data = model.simulate(num_rows=ROWS, num_groups=GROUPS)
    write(tmp_path, dict(data), 3)
    address = f"127.0.0.1:{free_port()}"
    ended = run(
        *([PROGRAM, address, str(host), str(tmp_path), str(GROUPS)] for host in range(2)),
        flags="--xla_force_host_platform_device_count=2",
    )
    for code, _, err in ended:
        assert code == 0, err[-3000:]
    found = [json.loads(out.splitlines()[-1]) for _, out, _ in ended]
    assert [f["host"] for f in found] == [[0, 2], [1, 2]]
    assert [f["devices"] for f in found] == [4, 4]
    # 401 rows: 200 and 201, filled up to 202 each
    assert [f["rows"] for f in found] == [ROWS // 2, ROWS - ROWS // 2]
    warning = "model 'criteo': 3 without weight are added to its 401 rows, so that each of the 4"
    for one in found:
        filled, members = one["told"]
        assert filled.startswith(warning)
        # group 15 or so has rows on both
        assert "every host has all members, because no argument has the member of each" in members
    row = 4 + 5 * 8 + 8 + 1  # y, X, group, whether it counts
    assert found[0]["bytes"] == found[1]["bytes"] == [101 * row] * 2
    assert found[0]["fits"] == found[1]["fits"]
    assert found[0]["fingerprint"] == found[1]["fingerprint"]
    for kind, (status, *moments) in found[0]["fits"].items():
        known, *expected = found[0]["alone"][kind]
        assert status == known == "OK"
        (mean, sd), (right, spread) = (np.array(m, float) for m in (moments, expected))
        unit = np.where(np.isnan(spread), 1.0, spread)
        np.testing.assert_allclose(mean / unit, right / unit, rtol=0, atol=1e-9)
        np.testing.assert_allclose(sd / unit, spread / unit, rtol=0, atol=1e-9)
    np.testing.assert_allclose(found[0]["trust"], found[0]["trust alone"], rtol=1e-6)
    assert "em does not fit rows that lie on 2 hosts" in found[1]["refused"]
    assert found[1]["own rows"] == [1, 3, ROWS - ROWS // 2]
    assert "as it was before vr.shard" in found[0]["by row"]
    assert "host 1 and host 0 differ in the model ('criteo' here)" in found[1]["groups"]
    assert "hosts have 2, 1 devices, expected as many of each" in found[1]["same"]


IN_PARTS = """
import json, sys, warnings
import jax, numpy as np, numpyro, numpyro.distributions as dist
import vi_recipes as vr
from jax.sharding import Mesh
from vi_recipes.model import division

address, host, folder, num_groups = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
hosts = vr.join_hosts(address, 2, host, timeout=60)
columns = {"y": "y", "X": ["x1", "x2", "x3", "x4", "x5"], "group": "group"}
own = vr.read_part(folder, columns, hosts=hosts, whole="group")
whole = vr.read_part(folder, columns)
mesh, found = Mesh(jax.devices(), ("rows",)), {}
summed, add = [], division.sum_over_hosts

def counted(numbers):
    summed.append(np.size(numbers))
    return add(numbers)

def walk(y, group, num_groups):
    # each member's law has the one before it
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    numpyro.factor("near", -0.5 * ((u[1:] - u[:-1]) ** 2).sum())
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=u[group]), obs=y)

def product(y, group, num_groups):
    # two coordinates that enter by their product
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.deterministic("square", u**2)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=u[group] * tau), obs=y)

def divided(model, rows, number):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        target = vr.shard(vr.Target(model, **rows, num_groups=number), mesh)
    return target, [str(w.message) for w in told if "members" in str(w.message)]

def fitted(name, method, model, rows, number):
    target, told = divided(model, rows, number)
    division.sum_over_hosts = counted
    summed.clear()
    fit = method.fit(target, key=0, throw=True)
    division.sum_over_hosts = add
    found[name] = {
        "told": told,
        "moments": [fit.flat(fit.mean()).tolist(), fit.flat(fit.sd()).tolist()],
        "message": fit.message,
        "sums": sorted(set(summed)),
        "dims": target.members and [target.members.local.dim, target.dim],
    }
    return fit

model = vr.load_model("criteo")
response = vr.LinearResponse(base=vr.MeanField(factors={"tau": "gamma"}))
fit = fitted("criteo", response, model, own, num_groups)
more = {**own, "group": 2 * own["group"] + np.arange(len(own["y"])) % 2}
fitted("twice as many", vr.MeanField(num_starts=1), model, more, 2 * num_groups)
few = {"y": own["y"], "group": own["group"]}
found["walk"] = divided(walk, few, num_groups)[1]
other = fitted("product", vr.MeanField(num_starts=1), product, few, num_groups)
if hosts.writes:
    few = {"y": whole["y"], "group": whole["group"]}
    for name, method, model, rows, fit in (
        ("criteo", response, model, whole, fit),
        ("product", vr.MeanField(num_starts=1), product, few, other),
    ):
        alone = method.fit(vr.Target(model, **rows, num_groups=num_groups), key=0)
        found[name]["alone"] = [alone.flat(alone.mean()).tolist(), alone.flat(alone.sd()).tolist()]
        off = fit.cov(["tau", "u"]).to_numpy() - alone.cov(["tau", "u"]).to_numpy()
        found[name]["covariances"] = float(np.abs(off).max())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_hosts_of_their_own_members_find_what_one_host_finds(tmp_path: Path) -> None:
    """Linear response and mean field, and why all members stay on every host elsewhere."""
    model = vr.load_model("criteo")
    assert model.simulate is not None
    write(tmp_path, dict(model.simulate(num_rows=ROWS, num_groups=GROUPS)), 3)
    address = f"127.0.0.1:{free_port()}"
    ended = run(
        *([IN_PARTS, address, str(host), str(tmp_path), str(GROUPS)] for host in range(2)),
        flags="--xla_force_host_platform_device_count=2",
    )
    for code, _, err in ended:
        assert code == 0, err[-3000:]
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in ended)
    assert first["criteo"]["dims"][0] + second["criteo"]["dims"][0] == GROUPS + 2 * 7
    for name in ("criteo", "product"):
        one = first[name]
        assert one["moments"] == second[name]["moments"]
        assert one["message"] == second[name]["message"]
        (mean, sd), (right, spread) = (np.array(one[key]) for key in ("moments", "alone"))
        np.testing.assert_allclose(mean / spread, right / spread, rtol=0, atol=1e-9)
        np.testing.assert_allclose(sd / spread, 1, rtol=0, atol=1e-9)
        assert one["covariances"] < 1e-10
    assert not first["criteo"]["told"]
    assert not first["product"]["told"]
    end = "; every host has all members, because the expectation of site 'y' is over draws"
    assert first["product"]["message"].endswith(end)
    assert "all members, because the density of plate 'group' is no sum over" in first["walk"][0]
    # what is summed has two parameters of 7 coordinates, G of them, whatever the members are: a
    # flag or length, the border of a product, that of a gradient with a value, a Schur complement
    border = 2 * 7
    assert first["twice as many"]["dims"][1] == 2 * GROUPS + 7
    assert first["twice as many"]["sums"] == [1, border, border + 2, border**2]
    assert first["criteo"]["sums"] == first["twice as many"]["sums"]
    assert first["product"]["sums"] == [1]


FORMULA = """
import json, sys, warnings
import jax, numpy as np, pandas as pd
import vi_recipes as vr
from dataclasses import replace
from jax.sharding import Mesh

hosts = vr.join_hosts(sys.argv[1], 2, int(sys.argv[2]), timeout=60)
rng = np.random.default_rng(3)
frame = pd.DataFrame({"x": 2_000 + 3 * rng.normal(size=160), "g": np.arange(160) // 8})
frame["y"] = rng.poisson(np.exp(0.2 * (frame["x"] - 2_000) + rng.normal(size=20)[frame["g"]]))
model = vr.glmm("y ~ x + (1 | g)", frame, "poisson")
here = np.array_split(np.arange(len(frame)), hosts.count)[hosts.index]
mesh, method = Mesh(jax.devices(), ("rows",)), vr.LinearResponse()

def divided(model):
    own = {name: v[here] if np.ndim(v) else v for name, v in model.data().items()}
    return vr.shard(vr.Target(model, **own), mesh)

target, found = divided(model), {}
fit = method.fit(target, key=0, throw=True)
found["moments"] = [fit.flat(fit.mean()).tolist(), fit.flat(fit.sd()).tolist()]
found["members"] = target.members is not None
of_rows = replace(model, init=lambda key, **data: {"Intercept": data["y"].mean()})
own = vr.glmm("y ~ x + (1 | g)", frame.iloc[here], "poisson")
for name, made in (
    ("init", lambda: divided(of_rows)), ("own", lambda: vr.shard(vr.Target(own), mesh))
):
    try:
        made()
    except ValueError as error:
        found[name] = str(error)
if hosts.writes:
    alone = method.fit(vr.Target(model), key=0, throw=True)
    found["alone"] = [alone.flat(alone.mean()).tolist(), alone.flat(alone.sd()).tolist()]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_hosts_fit_a_model_by_formula_from_one_start() -> None:
    """Made of all rows: of its own a host has other members and priors, which nobody sees."""
    address = f"127.0.0.1:{free_port()}"
    ended = run(*([FORMULA, address, str(host)] for host in range(2)))
    for code, _, err in ended:
        assert code == 0, err[-3000:]
    first, second = (json.loads(out.splitlines()[-1]) for _, out, _ in ended)
    assert first["moments"] == second["moments"]
    (mean, sd), (right, spread) = (np.array(first[key]) for key in ("moments", "alone"))
    np.testing.assert_allclose(mean / spread, right / spread, rtol=0, atol=1e-9)
    np.testing.assert_allclose(sd / spread, 1, rtol=0, atol=1e-9)
    assert first["members"]
    for found in (first, second):
        assert "differ in where Model(init=...) of model 'y' has methods start" in found["init"]
        assert "differ in the formula's model ('y' here), whose members and" in found["own"]


JOIN = """
import sys
import vi_recipes as vr
try:
    vr.join_hosts(sys.argv[1], 2, int(sys.argv[2]))
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_hosts_that_would_compile_otherwise_are_refused() -> None:
    """NumPyro goes through a distribution's parameters in the order of a set."""
    address = f"127.0.0.1:{free_port()}"
    ended = run(*([JOIN, address, str(host)] for host in range(2)), seeds=(1, 2), timeout=120)
    for code, out, err in ended:
        assert code == 0, err[-2000:]
        assert "start each with PYTHONHASHSEED=0" in out


OWN = """
import json, sys
import jax, numpy as np
import vi_recipes as vr
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from vi_recipes.model.spread import Spread

vr.join_hosts(sys.argv[1], 3, int(sys.argv[2]), timeout=60)
devices = jax.devices()
spread = Spread(Mesh(devices, ("rows",)), own_rows=2, num_hosts=3)
rows, found = np.arange(12.0).reshape(6, 2), []
for order in ((0, 1, 2), (0, 2, 1)):
    mesh = Mesh([devices[k] for k in order], ("rows",))
    place = NamedSharding(mesh, PartitionSpec("rows"))
    value = jax.make_array_from_callback(rows.shape, place, lambda index: rows[index])
    found.append(spread.own(value).tolist())
print(json.dumps(found))
"""


@pytest.mark.slow
def test_three_hosts_read_their_rows_though_one_has_them_and_two_have_each_others() -> None:
    address = by_ipv6()
    ended = run(*([OWN, address, str(host)] for host in range(3)), seeds=(0, 0, 0), timeout=120)
    for host, (code, out, err) in enumerate(ended):
        assert code == 0, err[-2000:]
        own = [[4.0 * host, 4 * host + 1], [4 * host + 2, 4 * host + 3]]
        assert json.loads(out.splitlines()[-1]) == [own, own]


READ = """
import sys
import vi_recipes as vr
hosts = vr.join_hosts(sys.argv[1], 2, int(sys.argv[2]), timeout=60)
for folder in sys.argv[3:]:
    try:
        print(len(vr.read_part(folder, hosts=hosts)["y"]))
    except ValueError as error:
        print(error)
"""


@pytest.mark.slow
def test_hosts_that_have_other_files_are_told_so_and_do_not_wait(tmp_path: Path) -> None:
    frame = pd.DataFrame({"y": np.arange(12.0)})
    for folder, rows in (("a", 12), ("b", 11)):
        (tmp_path / folder).mkdir()
        frame[:rows].to_parquet(tmp_path / folder / "0.parquet")
    a, b, none = (str(tmp_path / name) for name in ("a", "b", "none"))
    address = f"127.0.0.1:{free_port()}"
    each = [READ, address, "0", a, a, a], [READ, address, "1", b, none, a]
    ended = run(*each, timeout=120)
    for code, _, err in ended:
        assert code == 0, err[-2000:]
    first, other = (out.splitlines()[-3:] for _, out, _ in ended)  # before them is Gloo's
    what = "host 1 and host 0 differ in the files that rows are read from; give every host the same"
    assert what in first[0]
    assert what in other[0]
    assert what in first[1]
    assert other[1].startswith(f"{none} ")
    assert "decompress" not in other[1]
    assert first[2] == other[2] == "6"


ENDS = """
import os, signal, sys
import vi_recipes as vr
hosts = vr.join_hosts(sys.argv[1], 2, int(sys.argv[2]), timeout=60)
if hosts.index == int(sys.argv[3]):
    if sys.argv[4] == "raises":
        raise ValueError("the rows of May are bad")
    os.kill(os.getpid(), signal.SIGKILL)
vr.read_part(sys.argv[5], hosts=hosts)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("who", "how"), [(0, "raises"), (1, "raises"), (1, "is killed")])
def test_a_host_that_ends_early_is_not_waited_for(tmp_path: Path, who: int, how: str) -> None:
    """JAX waits 300 seconds for one that raises; the limit here is half of that."""
    pd.DataFrame({"y": np.arange(12.0)}).to_parquet(tmp_path / "0.parquet")
    address = f"127.0.0.1:{free_port()}"
    ended = run(*([ENDS, address, str(k), str(who), how, str(tmp_path)] for k in (0, 1)),
                timeout=150)  # fmt: skip
    why = f"host {who} has failed (ValueError: the rows of May are bad"
    if how == "is killed":
        why = f"host {who} is gone (killed, out of memory, or cut off)"
    for host, (code, _, err) in enumerate(ended):
        if (host, how) == (who, "is killed"):
            continue
        assert code == 1, err[-2000:]
        assert why in err
        assert ("Traceback" in err) == (host == who)


LATE = """
import sys, time
import vi_recipes as vr
hosts = vr.join_hosts(sys.argv[1], 2, int(sys.argv[2]), timeout=60)
if hosts.writes:
    time.sleep(3)
    print("written", flush=True)
"""


@pytest.mark.slow
def test_a_host_that_still_writes_is_not_ended_by_jax() -> None:
    """JAX ends all where one comes to its end long after another: here a second."""
    short = LATE.replace(
        "import vi_recipes as vr",
        "import jax, functools, vi_recipes as vr\n"
        "jax.distributed.initialize = functools.partial(\n"
        "    jax.distributed.initialize, shutdown_timeout_seconds=1)",
    )
    address = f"127.0.0.1:{free_port()}"
    ended = run(*([short, address, str(host)] for host in (0, 1)), timeout=150)
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert ended[0][1].splitlines()[-1] == "written"
