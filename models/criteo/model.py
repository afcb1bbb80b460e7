"""Criteo: random-effects logistic regression of clicks with many groups."""

from __future__ import annotations

import gzip
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

BETA = (1.447, 0.033, 0.110, -0.173, 0.273)
MU = 2.041
TAU = 0.823
MAX_GROUP_SIZE = 20

INTEGERS = tuple(f"I{k}" for k in range(1, 14))
CATEGORIES = tuple(f"C{k}" for k in range(1, 27))
LOG_COLUMNS = ("label", *INTEGERS, *CATEGORIES)


def criteo(y: jax.Array, X: jax.Array, group: jax.Array, num_groups: int) -> None:
    """Clicks, given covariates and the group that a display belongs to.

    Parameters
    ----------
    y
        1 for a click, 0 for none, one per row.
    X
        Covariates, rows by columns, without an intercept: the mean of ``u`` is one.
    group
        Group of each row, 0 to ``num_groups - 1``.
    num_groups
        Number of groups.
    """
    beta = numpyro.sample("beta", dist.Normal(0.0, 10.0**0.5).expand([X.shape[1]]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))  # a precision
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(mu, tau**-0.5))
    with numpyro.plate("observation", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=jnp.matmul(X, beta) + u[group]), obs=y)


def simulate(
    seed: int = 0,
    num_rows: int = 61_895,
    num_groups: int = 5_000,
    collinear: bool = True,
) -> dict[str, Any]:
    """Draw data of the published size and design.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of rows, between one and twenty per group.
    num_groups
        Number of groups.
    collinear
        Whether the first covariate has a few values near -1.9, with sd 0.15, shared by the rows of
        a group. Its coefficient and ``mu`` are then nearly collinear, as they were in the published
        data; all covariates are standard normal otherwise.

    Returns
    -------
    dict
        Arguments of :func:`criteo`.
    """
    rng = np.random.default_rng(seed)
    sizes = _group_sizes(rng, num_rows, num_groups)
    group = np.repeat(np.arange(num_groups), sizes)
    X = rng.standard_normal((num_rows, len(BETA)))
    if collinear:
        values = np.linspace(-1.5, 1.5, 7)  # equally likely, sd 1
        X[:, 0] = -1.9 + 0.15 * values[rng.integers(len(values), size=num_groups)][group]
    u = MU + rng.standard_normal(num_groups) / np.sqrt(TAU)
    logits = X @ np.asarray(BETA) + u[group]
    y = (rng.logistic(size=num_rows) < logits).astype(np.int32)
    return {"y": y, "X": X, "group": group, "num_groups": num_groups}


def _group_sizes(rng: np.random.Generator, num_rows: int, num_groups: int) -> np.ndarray:
    """Draw sizes of 1 to 20 that add up to ``num_rows``, as spread out as that mean allows."""
    if not num_groups <= num_rows <= MAX_GROUP_SIZE * num_groups:
        raise ValueError(
            f"num_rows={num_rows} does not fit num_groups={num_groups}: groups have 1 to "
            f"{MAX_GROUP_SIZE} rows, so give {num_groups} to {MAX_GROUP_SIZE * num_groups} rows"
        )
    from scipy.optimize import brentq
    from scipy.special import softmax

    # The distribution of largest entropy with a given mean is exponential in the size.
    values = np.arange(1, MAX_GROUP_SIZE + 1)
    mean = num_rows / num_groups
    rate = brentq(lambda rate: softmax(rate * values) @ values - mean, -50.0, 50.0)
    sizes = rng.choice(values, size=num_groups, p=softmax(rate * values))
    while (excess := int(sizes.sum()) - num_rows) != 0:
        step = 1 if excess > 0 else -1
        movable = np.flatnonzero((sizes - step >= 1) & (sizes - step <= MAX_GROUP_SIZE))
        sizes[rng.choice(movable, size=min(abs(excess), len(movable)), replace=False)] -= step
    return sizes


def load(
    path: Path | str,
    category: str = "C10",
    integers: tuple[str, ...] = ("I11", "I2", "I5", "I7", "I9"),
    num_groups: int = 5_000,
    max_rows_in_log: int = 300,
    max_rows: int = MAX_GROUP_SIZE,
    num_lines: int | None = 1_000_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Read and subsample the public Criteo display advertising log.

    The log is tab-separated without a header: a label (0 or 1), 13 integers, called I1 to I13 here,
    and 26 categories, C1 to C26. Rows that lack a chosen column are dropped; the covariates are the
    normal scores of the integers among the rows that remain.

    Parameters
    ----------
    path
        The log; ``.gz`` is decompressed.
    category
        Column that makes the groups.
    integers
        Columns that make the covariates.
    num_groups
        Number of groups to draw; all of them where there are fewer.
    max_rows_in_log
        Groups with more rows than this are left out, as in the published study.
    max_rows
        Rows to draw from a group that has more.
    num_lines
        Number of lines to read; ``None`` reads all.
    seed
        Seed of NumPy's generator, for the choice of groups and rows.

    Returns
    -------
    dict
        Arguments of :func:`criteo`.
    """
    import pandas as pd
    from scipy.special import ndtri

    unknown = [name for name in (category,) if name not in CATEGORIES]
    unknown += [name for name in integers if name not in INTEGERS]
    if unknown or not integers:
        raise ValueError(
            f"category={category!r}, integers={integers!r}: choose one category from C1 to C26 "
            "and at least one integer column from I1 to I13"
        )
    _check_columns(path, num_lines)
    frame = pd.read_csv(
        path,
        sep="\t",
        header=None,
        names=list(LOG_COLUMNS),
        usecols=["label", category, *integers],
        dtype=str,
        nrows=num_lines,
    )
    labels = frame["label"].isin(["0", "1"])
    if not labels.all():
        line = int(np.flatnonzero(~labels)[0]) + 1
        raise ValueError(
            f"{path}, line {line}: the label is {frame['label'].iloc[line - 1]!r}, not 0 or 1; the "
            "first column of the Criteo log is the click, and it has no header"
        )
    frame = frame.dropna()
    scores = np.empty((len(frame), len(integers)))
    for k, name in enumerate(integers):
        try:
            ranks = pd.to_numeric(frame[name]).rank()
        except ValueError as error:
            raise ValueError(f"{path}: column {name} should hold integers ({error})") from None
        scores[:, k] = ndtri((ranks - 0.5) / len(ranks))

    rng = np.random.default_rng(seed)
    code = np.unique(frame[category].to_numpy(), return_inverse=True)[1]
    counts = np.bincount(code)
    candidates = np.flatnonzero(counts <= max_rows_in_log)
    if len(candidates) == 0:
        raise ValueError(
            f"{path}: no group left: of {len(counts)} value(s) of {category} in {len(frame)} "
            f"complete row(s), none has {max_rows_in_log} rows or fewer; choose another category, "
            "read more lines or raise max_rows_in_log"
        )
    size = min(num_groups, len(candidates))
    chosen = np.sort(rng.choice(candidates, size=size, replace=False))
    index = np.full(len(counts), -1)
    index[chosen] = np.arange(size)

    # In random order within groups, the rows to keep are the first few of each.
    row = np.flatnonzero(index[code] >= 0)
    row = row[np.lexsort((rng.random(len(row)), index[code[row]]))]
    kept = counts[chosen]
    place = np.arange(len(row)) - np.repeat(np.cumsum(kept) - kept, kept)
    row = row[place < max_rows]
    return {
        "y": frame["label"].to_numpy()[row].astype(np.int32),
        "X": scores[row],
        "group": index[code[row]],
        "num_groups": size,
    }


def _check_columns(path: Path | str, num_lines: int | None) -> None:
    """Refuse a file whose lines are not those of a Criteo log.

    pandas would ignore what a line has too much and take what it lacks for missing values.
    """
    with gzip.open(path) if str(path).endswith(".gz") else open(path, "rb") as file:
        line = 0
        for line, text in enumerate(islice(file, num_lines), start=1):
            width = text.count(b"\t") + 1
            if width == 1:
                raise ValueError(
                    f"{path}, line {line} is not tab-separated: it has no tab. The Criteo log has "
                    f"{len(LOG_COLUMNS)} tab-separated columns and no header"
                )
            if width != len(LOG_COLUMNS):
                raise ValueError(
                    f"{path}, line {line} has {width} tab-separated columns; the Criteo log has "
                    f"{len(LOG_COLUMNS)}: a label, 13 integers and 26 categories (its test set "
                    "lacks the label and will not do)"
                )
        if line == 0:
            raise ValueError(f"{path} is empty; give it the Criteo log")


MODEL = vr.Model(
    function=criteo,
    name="criteo",
    data=simulate,
    load=load,
    simulate=simulate,
    parameters=("beta", "mu", "tau"),
    latents=("u",),
    dims={"beta": ("covariate",), "u": ("group",)},
    coords=lambda X, **_: {"covariate": [f"x_{k + 1}" for k in range(X.shape[1])]},
    description="Random-effects logistic regression of clicks, 61,895 rows in 5,000 groups.",
    citation=(
        "Giordano, Broderick and Jordan (2018), Covariances, Robustness, and Variational Bayes, "
        "JMLR 19(51), section 5.3, https://jmlr.org/papers/v19/17-670.html"
    ),
)
