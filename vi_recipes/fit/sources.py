"""Draws made elsewhere, as they come: trees, netCDF, frames and the CSV files of Stan and brms."""

from __future__ import annotations

import glob
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.core import unreadable
from vi_recipes.data import read_frame
from vi_recipes.fit.names import true_names

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

STATISTICS = {
    "accept_stat__": "acceptance_rate",
    "stepsize__": "step_size",
    "treedepth__": "tree_depth",
    "n_leapfrog__": "n_steps",
    "divergent__": "diverging",
    "energy__": "energy",
}
"""Stan's name of a statistic of its sampler -> ArviZ's."""

CHAIN = ("chain", ".chain", "chain__")
DRAW = ("draw", ".draw", "iteration", ".iteration", "draw__", "iter__")
"""Columns of a frame that count chains and draws."""

INDEXED = re.compile(r"^(?P<name>.+?)(?:\[(?P<list>[\d, ]+)\]|\.(?P<dots>\d+(?:\.\d+)*))$")
"""An element of an array, as Stan's CSV files (``b.1.2``) and the package posterior write it."""

FRAMES = (".parquet", ".feather")

TREE_SUFFIXES = (".nc", ".netcdf", ".nc4", ".h5")

FILES_OF_DRAWS = (*TREE_SUFFIXES, ".csv", *FRAMES)
"""How the names end of files that draws are read from."""


@dataclass(frozen=True)
class DrawsSource:
    """Draws as they came.

    Parameters
    ----------
    called
        What they are called in complaints.
    variables
        Name -> draws, shape ``(chain, draw, *shape)``.
    columns
        Name of a column of a frame -> its draws, shape (chain, draw).
    stats
        Statistics of their sampler by ArviZ's names, shape (chain, draw).
    library
        What made them, such as ``"pymc"``; "" where they do not say.
    seconds
        What that took; 0 where they do not say.
    max_tree_depth
        Their sampler's limit; ``None`` where they do not say.
    """

    called: str
    variables: Mapping[str, np.ndarray]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    library: str = ""
    seconds: float = 0.0
    max_tree_depth: int | None = None

    def __post_init__(self) -> None:
        shapes = {name: np.shape(value) for name, value in self.variables.items()}
        if not shapes:
            raise ValueError(f"{self.called}: it holds no variables")
        for name, shape in shapes.items():
            if len(shape) < 2:
                raise ValueError(
                    f"{self.called}: '{name}' has shape {shape}, expected (chain, draw, ...): keep "
                    "the chains apart, as R-hat compares them; one chain is draws[None]"
                )
        leading = {shape[:2] for shape in shapes.values()}
        if len(leading) > 1:
            raise ValueError(
                f"{self.called}: its variables have {' and '.join(map(str, sorted(leading)))} "
                "chains and draws, their first two dimensions, expected the same of all; of "
                "cmdstanpy give the fit itself, which keeps its chains apart"
            )
        if twice := self._same_chains():
            raise ValueError(
                f"{self.called}: chains {twice[0] + 1} and {twice[1] + 1} have the same draws; "
                "give each chain once, and each its own seed"
            )

    def _same_chains(self) -> tuple[int, int] | None:
        """Return two chains that are one, if there are: R-hat and ESS would count it twice."""
        values = [np.asarray(v) for v in self.variables.values()]
        chains, draws = self.shape
        for pair in itertools.combinations(range(chains if draws > 1 else 0), 2):
            if all(np.array_equal(v[pair[0]], v[pair[1]]) for v in values) and any(
                (v[pair[0]] != v[pair[0], :1]).any() for v in values
            ):
                return pair
        return None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of chains, and of draws in each."""
        first = next(iter(self.variables.values()))
        return first.shape[0], first.shape[1]

    @property
    def known(self) -> list[str]:
        """Names that can be asked for."""
        return list(dict.fromkeys([*self.variables, *self.columns]))

    def find(self, name: str) -> np.ndarray | None:
        """Return the draws of a variable, a column, or an element such as ``b[0, 1]``."""
        for table in (self.variables, self.columns):
            if name in table:
                return table[name]
        match = INDEXED.match(name)
        if match is None or match["list"] is None or match["name"] not in self.variables:
            return None
        values = self.variables[match["name"]]
        place = tuple(int(k) for k in match["list"].split(","))
        inside = len(place) == values.ndim - 2 and all(
            k < size for k, size in zip(place, values.shape[2:], strict=True)
        )
        if not inside:
            return None
        at = int(np.ravel_multi_index(place, values.shape[2:]))
        return values.reshape(*values.shape[:2], -1)[:, :, at]


def read_source(given: Any) -> DrawsSource:
    """Return draws as they came (see :func:`vi_recipes.from_arviz` for what there may be).

    Raises
    ------
    ValueError
        For what holds no draws by chain.
    """
    import pandas as pd

    if isinstance(given, str | Path):
        return _of_path(given)
    if hasattr(given, "to_pandas") and hasattr(given, "columns"):  # polars, pyarrow
        given = given.to_pandas()
    if isinstance(given, pd.DataFrame):
        return _of_frames([given], "frame")
    if hasattr(given, "runset"):  # cmdstanpy's
        return _of_files([Path(f) for f in given.runset.csv_files], "the fit's CSV files")
    if hasattr(given, "children") or hasattr(given, "posterior"):
        return _of_tree(given, "tree")
    if hasattr(given, "data_vars"):
        return _of_datasets(given, None, "dataset")
    if isinstance(given, Mapping):
        return DrawsSource("draws", {str(n): _array(str(n), v) for n, v in given.items()})
    if isinstance(given, Sequence) and given and all(isinstance(g, str | Path) for g in given):
        return _of_files([Path(g) for g in given], f"{given[0]} and {len(given) - 1} more")
    raise ValueError(
        f"draws: got {type(given).__name__}, expected an ArviZ tree, a path of netCDF or CSV, a "
        "list of CSV files, a data frame, or a mapping: name -> array (chain, draw, ...)"
    )


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError(
            f"draws: the chains of '{name}' are not all of one length, expected an array "
            "(chain, draw, ...)"
        ) from None


# -- trees -----------------------------------------------------------------------------------


def _of_path(path: str | Path) -> DrawsSource:
    import xarray as xr

    called = str(path)
    several = any(sign in called for sign in "*?[,")
    if several and not Path(path).exists():
        found = [file for part in called.split(",") for file in _called(part.strip())]
        return _of_files(found, called)
    if Path(path).suffix.lower() not in TREE_SUFFIXES:
        return _of_files([Path(path)], called)
    if reason := unreadable(Path(path)):
        raise ValueError(f"{called}: {reason}")
    try:
        tree = xr.load_datatree(path, engine="h5netcdf")
    except Exception as error:  # whatever a file that is none makes of it
        raise ValueError(f"{called}: cannot be read as netCDF ({error})") from None
    return _of_tree(tree, called)


def _called(pattern: str) -> list[Path]:
    if not any(sign in pattern for sign in "*?["):
        return [Path(pattern)]
    found = sorted(glob.glob(pattern))
    if not found:
        raise ValueError(f"{pattern}: no file is called so")
    return [Path(file) for file in found]


def _of_tree(tree: Any, called: str) -> DrawsSource:
    groups = [str(n) for n in getattr(tree, "children", None) or _groups(tree)]
    if "posterior" not in groups and getattr(tree, "data_vars", None):  # that group itself
        return _of_datasets(tree, None, called)
    if "posterior" not in groups:
        listed = ", ".join(groups) or "none"
        raise ValueError(f"{called}: it has no group 'posterior'; its groups: {listed}")
    stats = tree["sample_stats"] if "sample_stats" in groups else None
    return _of_datasets(tree["posterior"], stats, called)


def _groups(tree: Any) -> Iterable[str]:
    found = getattr(tree, "groups", ())
    return found() if callable(found) else found


def _of_datasets(posterior: xr.Dataset, stats: xr.Dataset | None, called: str) -> DrawsSource:
    names = true_names(posterior.attrs)
    variables = {}
    for name, value in posterior.data_vars.items():
        if missing := [d for d in ("chain", "draw") if d not in value.dims]:
            raise ValueError(
                f"{called}: '{name}' has no dimension {' and '.join(missing)} but "
                f"{', '.join(map(str, value.dims)) or 'none'}; keep the chains apart, as R-hat "
                "compares them (unstack what was stacked)"
            )
        variables[names.get(str(name), str(name))] = value.transpose("chain", "draw", ...).values
    told = {}
    for name, value in stats.data_vars.items() if stats is not None else ():
        if set(value.dims) == {"chain", "draw"}:
            told[str(name)] = value.transpose("chain", "draw").values
    deepest = told.pop("reached_max_treedepth", None)
    attributes = {**(stats.attrs if stats is not None else {}), **posterior.attrs}
    depth = None
    if deepest is not None and "tree_depth" in told and deepest.any():
        depth = int(told["tree_depth"][deepest.astype(bool)].min())
    return DrawsSource(
        called,
        variables,
        stats=told,
        library=str(attributes.get("inference_library", "")),
        seconds=float(attributes.get("sampling_time", 0.0)),
        max_tree_depth=depth,
    )


# -- frames ----------------------------------------------------------------------------------


def _of_files(paths: Sequence[Path], called: str) -> DrawsSource:
    import pandas as pd

    frames, heads = [], []
    for path in paths:
        if reason := unreadable(path):
            raise ValueError(f"{path}: {reason}")
        try:
            is_text = path.suffix.lower() not in FRAMES
            head = _stan_head(path) if is_text else {}
            comment = "#" if head else None
            frame = pd.read_csv(path, comment=comment) if is_text else read_frame(path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be read as draws ({error})") from None
        if head.get("method", "sample") != "sample":
            raise ValueError(
                f"{path}: it is of Stan's method '{head['method']}', expected draws of 'sample'"
            )
        if head.get("save_warmup", "0").lower() in ("1", "true"):
            thin = int(head.get("thin", "1"))
            frame = frame.iloc[-(-int(head.get("num_warmup", "1000")) // thin) :]
        frames.append(frame)
        heads.append(head)
    seconds = max(float(head.get("seconds", 0.0)) for head in heads)  # chains side by side
    depth = heads[0].get("max_depth")
    return _of_frames(
        frames,
        called,
        library="stan" if heads[0] else "",
        seconds=seconds,
        max_tree_depth=None if depth is None else int(depth),
    )


def _stan_head(path: Path) -> dict[str, str]:
    """Return what the comments of one of Stan's CSV files say; nothing of other files."""
    head: dict[str, str] = {}
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("#"):
                continue
            text = line.lstrip("# ").strip()
            if match := re.match(r"^(\w+) = (\S+)", text):
                head.setdefault(match[1], match[2])
            elif match := re.search(r"([\d.eE+-]+) seconds \(Total\)", text):
                head["seconds"] = match[1]
    return head


def _of_frames(frames: Sequence[pd.DataFrame], called: str, **told: Any) -> DrawsSource:
    chains: list[pd.DataFrame] = []
    for frame in frames:
        if any(name in CHAIN for name in frame.index.names):
            frame = frame.reset_index()
        counter = next((c for c in CHAIN if c in frame.columns), None)
        chains += [frame] if counter is None else [f for _, f in frame.groupby(counter, sort=True)]
    counters = {*CHAIN, *DRAW}
    names = [c for c in chains[0].columns if c not in counters and not _is_row_number(c)]
    lengths = sorted({len(chain) for chain in chains})
    if len(lengths) > 1:
        raise ValueError(
            f"{called}: its chains have {' and '.join(map(str, lengths))} draws, expected the "
            "same number in each"
        )
    if {"variable", "value"} <= set(map(str, names)):
        raise ValueError(
            f"{called}: it has a row a draw and parameter, expected a column a parameter: "
            ".pivot(index=['chain', 'draw'], columns='variable', values='value')"
        )
    table = {}
    for name in names:
        missing = next((k for k, chain in enumerate(chains) if name not in chain.columns), None)
        if missing is not None:
            raise ValueError(f"{called}: chain {missing + 1} has no column '{name}'")
        values = np.stack([chain[name].to_numpy() for chain in chains])
        if values.dtype.kind in "fiub":
            table[str(name)] = values
    stats = {ours: table.pop(theirs) for theirs, ours in STATISTICS.items() if theirs in table}
    columns = {n: v for n, v in table.items() if not n.endswith("__")}
    return DrawsSource(called, _arrays(columns), columns, stats, **told)


def _is_row_number(column: object) -> bool:
    return str(column) == "" or str(column).startswith("Unnamed: ")


def _arrays(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return columns with those of one array put together: ``b.1``, ``b.2``, or ``b[1]``, ``b[2]``.

    Indices in brackets count from 1, as R's do, unless there is a 0 among them; after dots from 1.
    """
    elements: dict[str, dict[tuple[int, ...], np.ndarray]] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, values in columns.items():
        match = INDEXED.match(name)
        if match is None:
            arrays[name] = values
            continue
        index = tuple(int(k) for k in re.split(r"[.,]", match["list"] or match["dots"]))
        elements.setdefault(match["name"], {})[index] = values
    for name, parts in elements.items():
        indices = np.array(list(parts)) if len({len(k) for k in parts}) == 1 else np.zeros((0, 1))
        first = 0 if (indices == 0).any() else 1
        shape = tuple(int(n) for n in indices.max(0, initial=0) + 1 - first)
        if len(indices) != np.prod(shape) or name in arrays:
            continue  # not all of an array: the columns can be named one by one
        places = np.ravel_multi_index(tuple((indices - first).T), shape)
        stacked = np.stack([parts[tuple(k)] for k in indices[np.argsort(places)].tolist()], -1)
        arrays[name] = stacked.reshape(*stacked.shape[:2], *shape)
    return arrays or dict(columns)
