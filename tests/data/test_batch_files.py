"""Minibatches from files: every row once, the same answers as from memory, and files gone wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from numpyro.infer import SVI as Engine
from numpyro.infer import Trace_ELBO

import vi_recipes as vr
from vi_recipes.data import batch_files
from vi_recipes.data.batches import draw
from vi_recipes.methods.minibatch.feed import make_feed
from vi_recipes.methods.minibatch.rows import Rows
from vi_recipes.methods.svi.starts import Starts

NUM_ROWS, NUM_GROUPS = 60, 7
COLUMNS = {"y": "y", "X": ["a", "b"], "group": "group"}


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "y": rng.integers(0, 2, NUM_ROWS),
            "a": rng.standard_normal(NUM_ROWS),
            "label": "text",
            "b": rng.standard_normal(NUM_ROWS),
            "group": np.arange(NUM_ROWS) % NUM_GROUPS,
        }
    )


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_files, "CSV_PIECE", 500)


def write(folder: Path, kind: str, **changes: Any) -> Path:
    """Write the rows as two files of some pieces each, values of the second one changed."""
    parts = [frame()[:25], frame()[25:].assign(**changes)]
    for number, part in enumerate(parts):
        path = folder / f"{number}.{kind}"
        if kind == "csv":
            part.to_csv(path, index=False)
        else:
            part.to_parquet(path, index=False, row_group_size=10)
    return folder


def read(folder: Path, kind: str, **options: Any) -> vr.FileBatches:
    make = vr.batches_from_csv if kind == "csv" else vr.batches_from_parquet
    return make(folder, options.pop("columns", COLUMNS), **{"batch_size": 8, **options})


def logit(y: jax.Array, X: jax.Array, group: jax.Array, num_groups: int) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=X @ beta + u[group]), obs=y)


def of_head(rows: vr.FileBatches, **changes: Any) -> vr.Target:
    return vr.Target(logit, **{**rows.head(), "num_groups": NUM_GROUPS, **changes})


# -- every row, and the same numbers ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_every_row_comes_once_an_epoch(kind: str, tmp_path: Path) -> None:
    rows = read(write(tmp_path, kind), kind, block_rows=20)
    assert isinstance(rows, vr.Batches)
    assert rows.num_rows == NUM_ROWS
    assert len(rows.pieces) > 4
    drawn = draw(rows, np.random.default_rng(0))
    batches = [next(drawn) for _ in range(15)]  # two epochs
    found = np.concatenate([np.column_stack([b["y"], b["X"], b["group"]]) for b in batches])
    expected = frame()[["y", "a", "b", "group"]].to_numpy()
    for epoch in (found[:NUM_ROWS], found[NUM_ROWS:]):
        np.testing.assert_allclose(epoch[np.lexsort(epoch.T)], expected[np.lexsort(expected.T)])
    assert not np.allclose(found[:NUM_ROWS], found[NUM_ROWS:])
    assert {name: array.dtype.kind for name, array in batches[0].items()} == {
        "y": "i",
        "X": "f",
        "group": "i",
    }
    head = rows.head()
    np.testing.assert_allclose(head["X"], expected[:8, 1:3])
    assert len(rows.head(33)["y"]) == 33


@pytest.mark.slow
def test_files_add_up_to_all_rows(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "parquet"), "parquet")
    this = of_head(rows, **rows.head(5))  # as few as one likes
    whole = of_head(rows, **rows.head(NUM_ROWS))
    with jax.enable_x64(True):
        with closing(make_feed(this, Rows(rows, "row", in_memory=False), 4, 7)) as feed:
            z = this.start(jax.random.key(0))
            feed.view.verify(z)
            starts = Starts(
                "normal",
                feed.view.shown,
                lambda g: Engine(logit, g, optax.sgd(1.0), Trace_ELBO()),
                this,
            )
            state = starts.state(feed.view.start(z), jax.random.key(1))
            engine = starts.engine
        with closing(make_feed(this, Rows(rows, "row", in_memory=False), 4, 7)) as feed:
            step = jax.jit(lambda arrays: feed.view.update(engine, state, arrays, 0)[1])
            losses = [float(step(arrays)) for arrays in feed.singles(15)]  # two epochs
        loss = engine.update(state, **whole.keywords(whole.arrays()))[1]
    assert np.mean(losses) == pytest.approx(float(loss), rel=1e-9)
    assert np.std(losses) > 0.1


@pytest.mark.slow
def test_a_fit_from_files_is_that_from_memory(tmp_path: Path) -> None:
    rows = read(write(tmp_path, "parquet"), "parquet", batch_size=20)
    exact = vr.MeanField().fit(of_head(rows, **rows.head(NUM_ROWS)), throw=True)
    fit = vr.SVI(batches=rows, num_steps=6_000).fit(of_head(rows), key=0, throw=True)
    for site in ("beta", "u"):  # the tolerance of a twentieth of a sd, four times
        assert (np.abs(fit.mean()[site] - exact.mean()[site]) < 0.2 * exact.sd()[site]).all()
        np.testing.assert_allclose(fit.sd()[site], exact.sd()[site], rtol=0.2)
    assert fit.config["batches"] == "FileBatches"


# -- what goes wrong in files -------------------------------------------------------------------


def read_through(folder: Path, kind: str) -> None:
    drawn = draw(read(folder, kind), np.random.default_rng(0))
    for _ in range(10):
        next(drawn)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"b": [0.5] * 30 + [np.nan] + [0.5] * 4}, r"1\.\w+, row 30 .*column 'b': nan is missing"),
        (
            {"b": [0.5] * 30 + [np.inf] + [0.5] * 4},
            r"1\.\w+, row 30 .*column 'b': inf is missing, or not",
        ),
        ({"y": [1.0] * 34 + [np.nan]}, r"row 34.*'y'|column 'y' is int64 in .* and float64 in"),
    ],
)
def test_bad_numbers_in_a_later_file(kind: str, changes: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        read_through(write(tmp_path, kind, **changes), kind)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"b": ["0.5"] * 34 + ["half"]}, r"1.csv, row 34 .*column 'b': half is text"),
        ({"y": [1.0] * 34 + [0.5]}, r"row 34 .*column 'y': 0.5 is no integer.*int64"),
        ({"label": ["two\nlines"] * 35}, "rows? .*(line breaks within quotes|well-formed|missing)"),
    ],
)
def test_bad_text_in_a_later_csv(changes: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        read_through(write(tmp_path, "csv", **changes), "csv")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"columns": {"y": "z"}}, "columns: unknown column 'z'.*Known: y, a, label, b, group"),
        ({"columns": None}, r"column\(s\) label of .* hold no numbers"),
        ({"columns": {}}, "columns: got none"),
        ({"batch_size": 61}, "batch_size: got 61, expected 1 to the 60 rows"),
        ({"block_rows": 3}, "block_rows: got 3, expected at least batch_size, 8"),
    ],
)
def test_bad_options(kind: str, options: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=match):
        read(write(tmp_path, kind), kind, **options)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder .* has no \.csv file"):
        vr.batches_from_csv(tmp_path, batch_size=1)
    with pytest.raises(ValueError, match=r"no \.csv file; decompress or convert it"):
        vr.batches_from_csv(tmp_path / "a.csv.gz", batch_size=1)
    with pytest.raises(ValueError, match="does not exist"):
        vr.batches_from_parquet(tmp_path / "a.parquet", batch_size=1)
    with pytest.raises(ValueError, match="got no file"):
        vr.batches_from_parquet([], batch_size=1)
    (tmp_path / "b.csv").write_text("y,group\n")
    with pytest.raises(ValueError, match="the files have no rows"):
        vr.batches_from_csv(tmp_path / "b.csv", batch_size=1)
    (tmp_path / "c.parquet").write_text("y,group\n")
    with pytest.raises(ValueError, match="not a readable Parquet file"):
        vr.batches_from_parquet(tmp_path / "c.parquet", batch_size=1)


# -- what does not fit the model ----------------------------------------------------------------


def test_a_group_out_of_bounds_in_a_later_file(tmp_path: Path) -> None:
    """Rows of the first file, of which the target is made, have good codes only."""
    rows = read(write(tmp_path, "parquet", group=[0] * 34 + [NUM_GROUPS]), "parquet")
    with pytest.raises(ValueError, match="Group codes must run from 0"):
        vr.SVI(batches=rows, num_steps=40).fit(of_head(rows))


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    folder = write(tmp_path, "parquet")
    rows = read(folder, "parquet", columns={"y": "y", "X": ["a", "b"]})
    this = of_head(read(folder, "parquet"))
    with pytest.raises(ValueError, match=r"argument\(s\) group of model 'logit' have one entry"):
        vr.SVI(batches=rows, num_steps=10).fit(this)
    wrong = read(folder, "parquet", columns={**COLUMNS, "groups": "group"})
    with pytest.raises(ValueError, match="unknown argument 'groups'; did you mean 'group'"):
        vr.SVI(batches=wrong, num_steps=10).fit(this)
    wide = read(folder, "parquet", columns={**COLUMNS, "X": ["a", "b", "b"]})
    with pytest.raises(ValueError, match="site 'beta' has shape \\(2,\\), and with 8 rows"):
        vr.SVI(batches=wide, num_steps=10).fit(this)
    assert vr.SVI(batches=rows, guide="laplace").applies(this) is not None


def test_a_prior_that_depends_on_the_rows(tmp_path: Path) -> None:
    def model(y: jax.Array) -> None:
        m = numpyro.sample("m", dist.Normal(y.mean(), 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    rows = read(write(tmp_path, "parquet"), "parquet", columns={"y": "a"})
    with pytest.raises(ValueError, match=r"the density of site\(s\) m depends on which rows"):
        vr.SVI(batches=rows, num_steps=10).fit(vr.Target(model, **rows.head()))


@dataclass(frozen=True)
class Own:
    """What a user might write."""

    parts: tuple[Mapping[str, Any], ...]
    num_rows: int = 4
    batch_size: int = 2

    def blocks(self, rng: np.random.Generator) -> Iterator[Mapping[str, Any]]:
        yield from self.parts


GOOD = Own(({"y": [1.0, 2.0]}, {"y": [3.0, 4.0]}))


@pytest.mark.parametrize(
    ("own", "match"),
    [
        (replace(GOOD, num_rows=5), r"an epoch had 4 row\(s\), and num_rows says 5"),
        (replace(GOOD, parts=(), num_rows=0), "got batch_size 2 and num_rows 0|an epoch had 0"),
        (replace(GOOD, parts=({"y": [1.0]}, {"x": [1.0]})), "block 1 has arguments x.*had y"),
        (replace(GOOD, parts=({"y": [1.0]}, {"y": [[1.0]]})), "'y' has shape .1, 1., expected"),
        (replace(GOOD, parts=({"y": [1.0]}, {"y": [1]})), "'y' has dtype int64, and had float64"),
        (replace(GOOD, parts=({"y": [1.0]}, {"y": [np.nan]})), "block 1, row 0: argument 'y' is n"),
        (replace(GOOD, parts=({"y": ["a"]},)), "argument 'y' has shape .1,. and dtype <U1"),
        (replace(GOOD, parts=([1.0],)), "got a block of list"),
        (replace(GOOD, batch_size=9), "got batch_size 9 and num_rows 4"),
    ],
)
def test_batches_of_ones_own(own: Any, match: str) -> None:
    def model(y: jax.Array) -> None:
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    this = vr.Target(model, y=jnp.arange(4.0))
    with pytest.raises(ValueError, match=match):
        vr.SVI(batches=own, num_steps=10).fit(this)


def test_rows_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, "csv")
    path = folder / "1.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *(line + "," for line in lines[1:])]) + "\n")
    with pytest.raises(ValueError, match="row 1: it has 6 fields and the header 5"):
        read(folder, "csv")
    path.write_text("\n".join([*lines[:7], lines[7] + ",3", *lines[8:]]) + "\n")
    with pytest.raises(ValueError, match=r"rows from 0: .*Expected 5 fields in line 7, saw 6"):
        list(read(folder, "csv").blocks(np.random.default_rng(0)))


def test_parts_of_hosts_are_all_rows_in_order(tmp_path: Path) -> None:
    folder = write(tmp_path, "parquet")
    whole = frame()
    for count in (1, 3, 7):
        parts = [vr.read_part(folder, COLUMNS, hosts=vr.Hosts(k, count)) for k in range(count)]
        sizes = [len(part["y"]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        np.testing.assert_array_equal(np.concatenate([p["X"] for p in parts]), whole[["a", "b"]])
        np.testing.assert_array_equal(np.concatenate([p["y"] for p in parts]), whole["y"])
    assert len(vr.read_part(folder, COLUMNS)["y"]) == NUM_ROWS
    with pytest.raises(ValueError, match="60 rows for 61 hosts"):
        vr.read_part(folder, COLUMNS, hosts=vr.Hosts(0, 61))


def test_parts_of_hosts_are_cut_between_groups(tmp_path: Path) -> None:
    """Groups of 3, 4, 5, ... rows in order, in files of 25 and 35 rows and row groups of 10."""
    group = np.repeat(np.arange(9), np.arange(3, 12))[:NUM_ROWS]
    for number, rows in enumerate((slice(0, 25), slice(25, None))):
        part = frame().assign(group=group)[rows]
        part.to_parquet(tmp_path / f"{number}.parquet", index=False, row_group_size=10)

    def parts(count: int) -> list[dict[str, np.ndarray]]:
        hosts = [vr.Hosts(k, count) for k in range(count)]
        return [vr.read_part(tmp_path, COLUMNS, hosts=h, whole="group") for h in hosts]

    for count in (1, 2, 3, 4):
        found = parts(count)
        np.testing.assert_array_equal(np.concatenate([p["group"] for p in found]), group)
        np.testing.assert_array_equal(np.concatenate([p["y"] for p in found]), frame()["y"])
        members = [set(part["group"]) for part in found]
        assert sum(map(len, members)) == len(set(group))
        # each cut is the last place between groups before the even one
        for k, part in enumerate(found[:-1], start=1):
            end = sum(len(p["y"]) for p in found[:k])
            assert end <= k * NUM_ROWS // count < end + np.sum(group == group[end])
            assert group[end - 1] != group[end]
            assert len(part["y"])
    with pytest.raises(ValueError, match=r"too few groups, or too large ones.*for 30 hosts"):
        vr.read_part(tmp_path, COLUMNS, hosts=vr.Hosts(0, 30), whole="group")
    with pytest.raises(ValueError, match="unknown argument 'groups'; did you mean 'group'"):
        vr.read_part(tmp_path, COLUMNS, hosts=vr.Hosts(0, 2), whole="groups")
    with pytest.raises(ValueError, match="unknown argument 'X'"):
        vr.read_part(tmp_path, COLUMNS, hosts=vr.Hosts(0, 2), whole="X")
    write(tmp_path, "parquet")
    with pytest.raises(ValueError, match="not sorted by 'group', so that a group's rows are apart"):
        vr.read_part(tmp_path, COLUMNS, hosts=vr.Hosts(0, 2), whole="group")


def test_a_host_reads_the_row_groups_of_its_part_only(tmp_path: Path) -> None:
    """Rows 20 to 39 of the first file's 25 in groups of 10, and the second's 35."""
    files = vr.batches_from_parquet(write(tmp_path, "parquet"), COLUMNS, batch_size=1)
    assert isinstance(files, vr.FileBatches)
    read: list[int] = []

    def watched(piece: batch_files.Piece, names: list[str]) -> dict[str, np.ndarray]:
        read.append(piece.rows)
        return files.read(piece, names)

    part = replace(files, read=watched).rows(20, 40)
    assert len(part["y"]) == 20
    assert read == [5, 10, 10]


def test_columns_that_are_no_numbers_are_left_out_and_rows_need_no_pandas(tmp_path: Path) -> None:
    """In a process of its own: this one has imported all. pandas takes 65 MB of every worker."""
    part = frame().assign(label=pd.Categorical(["a", "b"] * (NUM_ROWS // 2)))
    part.to_parquet(tmp_path / "rows.parquet", index=False)
    with pytest.raises(ValueError, match=r"column\(s\) label of .* hold no numbers \(object\)"):
        vr.read_part(tmp_path, {**COLUMNS, "group": "label"})
    script = f"""
import sys
import numpyro, numpyro.distributions as dist
import vi_recipes as vr

rows = vr.read_part({str(tmp_path)!r}, {{"y": "y", "x": "a"}})
assert rows["y"].tolist() == {frame()["y"].tolist()}
assert rows["x"].tolist() == {frame()["a"].tolist()}

def model(y, x):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Bernoulli(logits=slope * x), obs=y)

assert vr.MAP().fit(vr.Target(model, **rows)).has_result
assert "pandas" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
