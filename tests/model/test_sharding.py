"""One fit on four virtual devices beside the same on one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.sharding import Mesh

import vi_recipes as vr
from vi_recipes.model import bytes_by_device
from vi_recipes.model.padding import padded
from vi_recipes.model.sharding import rows_of_each
from vi_recipes.model.spread import Spread

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = r"""
import json, math, re
import jax, numpy as np
import vi_recipes as vr
from jax.sharding import Mesh
from vi_recipes.core import Timing
from vi_recipes.elbo import CurvedKL
from vi_recipes.model import bytes_by_device

KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
compile, told = Timing.compile, {}

def noted(self, function, *args, **options):
    # what a collective operation gives is before its name, one array or several
    made, gave = compile(self, function, *args, **options), {}
    for gives, kind in re.findall(rf"= (.*?) ({KINDS})(?:-start)?\(", made.as_text()):
        for size in re.findall(r"\b[a-z]+\d+\[([\d,]*)\]", gives):
            gave[kind] = gave.get(kind, 0) + math.prod(int(n or 1) for n in size.split(","))
    # products are taken one after the other by one program, whose text has one of them
    turns = len(args[-1]) if function.__name__ == "_along" else 1
    told[function.__name__] = [turns, gave]
    return made

def counted():
    return {name: told[name] for name in ("_linearised", "_along")}

Timing.compile = noted
model = vr.load_model("criteo")
one = vr.Target(model, **model.simulate(num_rows=400, num_groups=32))
mesh = Mesh(np.array(jax.devices()), ("rows",))
four = vr.shard(one, mesh)
found = {"bytes": [list(bytes_by_device(t).values()) for t in (one, four)], "errors": {}}

def slope(z, arrays):
    return jax.grad(one.log_density_fn)(z, arrays)

with jax.enable_x64(True):
    z = jax.numpy.asarray(one.start(jax.random.key(0)))
    code = jax.jit(slope).lower(z, four.arrays()).compile().as_text()
    found["slopes"] = [np.asarray(slope(z, t.arrays())).tolist() for t in (one, four)]
# what an all-reduce gives is before its name, one array or several
sums = re.findall(r"= (.*?) all-reduce(?:-start)?\(", code)
sizes = [int(n or 1) for n in re.findall(r"f64\[(\d*)\]", " ".join(sums))]
found["summed"], found["dim"] = sum(sizes), one.dim
found["gathers"] = len(re.findall(r"all-gather|all-to-all", code))
with jax.enable_x64(True):
    kl = vr.MeanField().objective(four, jax.random.key(0), Timing(), CurvedKL, {})
    kl.use_nodes(8)
    kl.use_pairs(16)
    eta = jax.numpy.asarray(kl.factors.start(one.anywhere(), 0.1).ravel())
    compiled = jax.jit(kl._linearised).lower(eta, kl.held).compile()
    found["gathers"] += len(re.findall(r"all-gather|all-to-all", compiled.as_text()))
    of_rows = [a for a in jax.tree.leaves((kl.held, compiled(eta, kl.held))) if 400 in a.shape]
    found["of rows"] = [a.sharding.is_fully_replicated for a in of_rows]
response = vr.LinearResponse(base=vr.MeanField(num_starts=1))
for method in (vr.MAP(), vr.MeanField(), response):
    fits = [method.fit(target, key=0) for target in (one, four)]
    means, sds = ([f.flat(getattr(f, k)()) for f in fits] for k in ("mean", "sd"))
    scale = np.where(np.isnan(sds[0]), 1.0, sds[0])
    off = np.abs(means[0] - means[1]) / scale
    wide = np.abs(np.nan_to_num(sds[1] / sds[0] - 1))
    found["errors"][method.key] = [fits[1].status.name, float(off.max()), float(wide.max())]
found["steps"] = [counted()]  # those of the four are compiled after those of the one
for rows, groups in ((600, 32), (600, 64)):
    told.clear()
    four = vr.shard(vr.Target(model, **model.simulate(num_rows=rows, num_groups=groups)), mesh)
    assert response.fit(four, key=0).status is vr.Status.OK
    found["steps"].append(counted())
given = vr.Target(model, **model.simulate(num_rows=402, num_groups=32))
given.log_density(given.start(jax.random.key(0)))  # by code that holds the target
filled = vr.shard(given, mesh)
found["twice"] = [
    name
    for name in ("y", "X", "group")
    for target in (given, filled.undivided)
    if not np.shares_memory(filled.data[name], target.data[name])
]
print(json.dumps(found))
"""


def normal(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def between(start: int | None, stop: int | None) -> tuple[slice, ...]:
    return (slice(None), slice(start, stop))


def test_hosts_fetch_rows_where_one_of_them_lacks_some() -> None:
    """Three hosts of two rows each decide alike, from where everything lies."""
    spread = Spread(Mesh(np.array(jax.devices()[:1]), ("rows",)), own_rows=2, num_hosts=3)
    own = [(0, between(None, 2)), (1, between(2, 4)), (2, between(4, None))]
    more = [(0, between(None, 4)), (1, between(2, None)), (2, between(None, None))]
    apart = [(h, between(k, k + 1)) for h, k in ((0, 1), (0, 0), (1, 2), (1, 3), (2, 5), (2, 4))]
    for places in (own, more, apart):
        assert spread.lies_by_host(places, (3, 6), 1)
    swapped = [(0, between(None, 2)), (2, between(2, 4)), (1, between(4, None))]
    short = [*apart[:-1], (2, between(5, 6))]
    in_columns = [(h, (slice(h, h + 1), slice(None))) for h in range(3)]
    for places in (swapped, short, in_columns, [*own[:2], in_columns[2]]):
        assert not spread.lies_by_host(places, (3, 6), 1)


def test_a_method_of_one_host_names_those_that_fit_rows_on_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = vr.Target(normal, y=np.arange(6.0))
    target.spread = Spread(Mesh(np.array(jax.devices()[:1]), ("rows",)), 6, num_hosts=2)
    assert vr.Laplace().refusal(target) is None
    assert "Use one that does (laplace, lrvb, map, meanfield)" in str(vr.EM().refusal(target))
    monkeypatch.setattr(vr.Laplace, "over_hosts", False)
    assert "Use one that does (lrvb, map, meanfield)" in str(vr.Laplace().refusal(target))


def test_a_mesh_of_one_device_changes_nothing_and_new_data_stay_on_it() -> None:
    target = vr.Target(normal, y=np.arange(6.0))
    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    placed = vr.shard(target, mesh)
    z = np.array([0.3])
    assert placed.log_density(z) == target.log_density(z)
    other = placed.with_data(y=np.arange(6.0) + 1)
    with jax.enable_x64(True):
        assert other.arrays()[0].sharding.mesh == mesh
    assert bytes_by_device(other) == {jax.devices()[0]: 48}
    assert other.undivided is not None
    np.testing.assert_array_equal(other.undivided.data["y"], other.data["y"])


def test_what_cannot_be_divided_is_refused() -> None:
    target = vr.Target(normal, y=np.arange(6.0))
    with pytest.raises(ValueError, match=r"mesh: got int, expected a jax.sharding.Mesh"):
        vr.shard(target, 4)  # type: ignore[arg-type]

    def scalar(y: float) -> None:
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal()), 1.0), obs=y)

    mesh = Mesh(np.array(jax.devices()[:1]), ("rows",))
    with pytest.raises(ValueError, match="no observed site with an entry a row, so there are no"):
        vr.shard(vr.Target(scalar, y=1.0), mesh)

    def reads_sizes(y: jax.Array, group: jax.Array) -> None:
        with numpyro.plate("groups", int(group.max()) + 1):
            u = numpyro.sample("u", dist.Normal())
        numpyro.sample("y", dist.Normal(u[group], 1.0), obs=np.asarray(y))

    with pytest.raises(ValueError, match="each of its 6 rows that JAX traces, so nothing can be"):
        vr.shard(vr.Target(reads_sizes, y=np.arange(6.0), group=np.arange(6) % 2), mesh)
    with pytest.raises(ValueError, match="its rows lie on devices already"):
        vr.shard(vr.shard(target, mesh), mesh)


# -- rows without weight ---------------------------------------------------------------------------


def regression(y: jax.Array, x: jax.Array, group: jax.Array, num_groups: int) -> None:
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("groups", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(slope * x + u[group], 1.0), obs=y)


def rows(number: int) -> dict[str, np.ndarray | int]:
    rng = np.random.default_rng(4)
    y, x = rng.standard_normal((2, number))
    return {"y": y, "x": x, "group": np.arange(number) % 3, "num_groups": 3}


def test_rows_without_weight_change_no_fit_and_are_not_read_row_by_row() -> None:
    target = vr.Target(regression, **rows(7))
    filled = padded(target, 12)
    assert [len(a) for a in filled.data.values() if isinstance(a, np.ndarray)] == [12] * 4
    same = padded(target, 7)  # that one of several hosts which has most, whose rows are not copied
    assert all(np.shares_memory(same.data[name], target.data[name]) for name in ("y", "x", "group"))
    # the posterior of a linear regression, by its normal equations
    data = rows(7)
    design = np.column_stack([data["x"], np.eye(3)[data["group"]]])
    precision = design.T @ design + np.eye(4)
    mean = np.linalg.solve(precision, design.T @ np.asarray(data["y"]))
    fit = vr.LinearResponse().fit(filled)
    np.testing.assert_allclose(fit.flat(fit.mean()), mean, rtol=1e-9)
    sd = np.sqrt(np.diag(np.linalg.inv(precision)))
    np.testing.assert_allclose(fit.flat(fit.sd()), sd, rtol=1e-9)
    with pytest.raises(ValueError, match="filled up by 5 without weight"):
        vr.log_likelihood(fit, filled)
    with pytest.raises(ValueError, match="filled up by 5 without weight"):
        filled.with_data(y=np.zeros(12))
    assert vr.log_likelihood(fit, target, num_draws=2)["y"].shape == (1, 2, 7)


def test_rows_of_hosts_are_as_many_and_taken_for_nothing_else() -> None:
    assert rows_of_each([200, 201], 2, {32}) == 202
    assert rows_of_each([200, 200], 1, ()) == 200
    assert rows_of_each([5_000, 5_000], 1, {5_000}) == 5_001  # as many as members
    assert rows_of_each([10, 10], 5, {20, 15}) == 25  # as many of both hosts as members


def centred(y: jax.Array, x: jax.Array) -> None:
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(slope * (x - x.mean()), 1.0), obs=y)


def effects(y: jax.Array) -> None:
    with numpyro.plate("row", len(y)):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)


def test_rows_are_not_filled_up_where_others_would_feel_it() -> None:
    data = rows(7)
    for model, names, why in (
        (centred, ("y", "x"), "its density is no sum over rows"),
        (effects, ("y",), "latent site 'u' has an element for each"),
    ):
        target = vr.Target(model, **{name: data[name] for name in names})
        message = f"7 rows of model '{model.__name__}' would have to be filled up to 8, and {why}"
        with pytest.raises(ValueError, match=message):
            padded(target, 8)


@pytest.fixture(scope="module")
def on_four_devices() -> dict[str, Any]:
    """What the program finds where it has four virtual devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_four_devices_find_what_one_finds(on_four_devices: dict[str, Any]) -> None:
    found = on_four_devices
    whole, parts = found["bytes"]
    assert parts == [whole[0] / 4] * 4
    np.testing.assert_allclose(found["slopes"][1], found["slopes"][0], rtol=1e-12)
    # the sums over rows: one number for beta's coefficients and for every member
    assert 0 < found["summed"] <= found["dim"] + 1
    assert found["gathers"] == 0
    for status, mean, sd in found["errors"].values():
        assert status == "OK"
        assert mean < 1e-9
        assert sd < 1e-9
    # what the ELBO holds of each row, and what its linearisation keeps of it, are divided too: what
    # it was given is not kept again, so that there are 14
    assert len(found["of rows"]) > 10
    assert not any(found["of rows"])
    # rows that were filled up are in memory once, whoever has the target that was given
    assert found["twice"] == []


@pytest.mark.slow
def test_a_step_of_mean_field_sums_two_numbers_a_member_for_each_derivative(
    on_four_devices: dict[str, Any],
) -> None:
    """Whatever the rows, and nothing but sums: as docs/scale.md has it, 36 numbers a member."""
    fewer, more_rows, more_members = (
        {
            name: (turns, kinds["all-reduce"], kinds.keys() - {"all-reduce"})
            for name, (turns, kinds) in one.items()
        }
        for one in on_four_devices["steps"]
    )
    assert fewer == more_rows
    assert {name: kinds for name, (_, _, kinds) in fewer.items()} == {
        "_linearised": set(),
        "_along": set(),
    }
    assert fewer["_along"][0] == 17
    for name, (_, summed, _) in fewer.items():
        assert more_members[name][1] - summed == 2 * 32
        # and of what is no member's: two parameters of each of 7 coordinates, and the value
        assert 2 * 7 <= summed - 2 * 32 <= 4 * 7
    steps = [
        sum(turns * summed for turns, summed, _ in one.values()) for one in (fewer, more_members)
    ]
    assert steps[1] - steps[0] == 36 * 32
