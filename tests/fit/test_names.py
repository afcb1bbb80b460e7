"""Sites and dimensions of any name: files hold them, and give them back as they were."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from numpyro.handlers import scope

import vi_recipes as vr
from vi_recipes.fit.names import safe_names
from vi_recipes.model.labels import coordinate_labels, labels_by_site
from vi_recipes.model.sites import Site
from vi_recipes.posterior import DrawsPosterior

NAMES = [
    "lin/a",
    "lin_a",
    "$x^{$",
    "new\nline",
    "\x1b[31mred",
    "",
    "  pad ",
    "draw",
    "chain",
    "sample",
    "é名",
    "=cmd",
    "..",
    "x" * 300,
    "x" * 299 + "/",
    "_nc4_non_coord_b",
    "\ud800",
    "nul\0",
    "a_index",
    "a_dim_0",
    "mean",
]
DIMS = ("chain", "draw", "lin/a", "", "new\nline", "lin_a", "g", "g")


def named(names: list[str], *, sampler: bool = False) -> vr.Fit:
    """Return a fit with a vector of each name, in dimensions named as badly."""
    rng = np.random.default_rng(0)
    dims = [DIMS[k % len(DIMS)] for k in range(len(names))]
    shapes = [(3,) if dim == "" else (2,) for dim in dims]
    sites = tuple(
        Site(name, "latent", shape, shape, (), (dim,))
        for name, shape, dim in zip(names, shapes, dims, strict=True)
    )
    sites += (Site("square", "deterministic", (2, 2), (2, 2), (), ("g", "g")),)
    samples = {site.name: rng.normal(size=(2, 50, *site.shape)) for site in sites}
    return vr.Fit(
        method="toy",
        status=vr.Status.OK,
        sites=sites,
        coords={dim: np.arange(2) for dim in DIMS}
        | {
            "chain": np.array(["\x1b[2J", "nul\\x00"]),
            "g": np.array(["2020-01-01", "2020-02-01"], "M8[D]"),
            "": np.array([0.5, 1.5, 2.5]),
        },
        posterior=DrawsPosterior(samples),
        trace={name: np.arange(3.0) for name in names},
        latents=dict(zip(names, rng.normal(size=(len(names), 4)), strict=True)),
        sample_stats={"diverging": np.zeros((2, 50), bool)} if sampler else {},
    )


@pytest.mark.parametrize("sampler", [False, True])
def test_a_fit_with_names_that_files_refuse_is_the_same_when_read_back(
    sampler: bool, tmp_path: Path
) -> None:
    fit = named(NAMES, sampler=sampler)
    again = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
    assert again.sites == fit.sites
    assert again.labels() == fit.labels()
    assert len(set(fit.labels())) == len(fit.labels())
    for what in ("mean", "sd", "mcse", "mcse_sd"):
        for name, value in getattr(fit, what)().items():
            np.testing.assert_array_equal(getattr(again, what)()[name], value)
    for what in ("trace", "latents"):
        for name, value in getattr(fit, what).items():
            np.testing.assert_array_equal(getattr(again, what)[name], value)
    for dim, labels in fit.coords.items():
        assert again.coords[dim].dtype == labels.dtype
        np.testing.assert_array_equal(again.coords[dim], labels)


def test_an_arviz_tree_says_which_site_is_which() -> None:
    tree = named(["lin/a", "lin_a", "draw"]).to_arviz()
    assert sorted(map(str, tree["posterior"].data_vars)) == ["draw_2", "lin_a", "lin_a_2", "square"]
    assert tree["posterior"].attrs["vi_recipes_names"] == '{"lin_a_2": "lin/a", "draw_2": "draw"}'
    assert tree["posterior"]["square"].dims == ("chain", "draw", "g", "g_2")


def test_a_name_that_files_hold_is_left_alone() -> None:
    assert safe_names(["a", "b_2", "é"]) == {"a": "a", "b_2": "b_2", "é": "é"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)], ["2020-01-01", "2020-01-02"]),
        (pd.to_datetime(["2020-01-01", "2020-01-02"]), ["2020-01-01", "2020-01-02"]),
        (pd.period_range("2020-01", periods=2, freq="M"), ["2020-01", "2020-02"]),
        (np.array(["2020", "2021"], "M8[Y]"), ["2020", "2021"]),
        ([pd.Timestamp("2020-01-01 12:30")], ["2020-01-01T12:30"]),
        (pd.Categorical(["a", "b"]), ["a", "b"]),
        ([(1, "a"), (2, "b")], ["(1, 'a')", "(2, 'b')"]),
        ([b"a", None], ["a", "None"]),
        ([1, 2], ["1", "2"]),
        ([0.5, float("nan")], ["0.5", "nan"]),
        ([True, False], ["True", "False"]),
        (pd.date_range("2020-01-01", periods=1, tz="UTC"), ["2020-01-01 00:00:00+00:00"]),
        (range(2), ["0", "1"]),
    ],
)
def test_coordinates_of_any_kind_are_kept(given: Any, expected: list[str], tmp_path: Path) -> None:
    labels = coordinate_labels(given)
    assert [str(label) for label in labels] == expected
    site = Site("a", "latent", labels.shape, labels.shape, (), ("t",))
    fit = vr.Fit(
        method="toy",
        status=vr.Status.OK,
        sites=(site,),
        coords={"t": labels},
        posterior=DrawsPosterior({"a": np.zeros((1, 4, len(labels)))}),
    )
    again = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
    assert again.labels() == fit.labels() == [f"a[{label}]" for label in expected]
    np.testing.assert_array_equal(again.coords["t"], labels)


def test_no_two_scalars_have_one_label() -> None:
    sites = [
        Site("a", "latent", (3,), (3,), (), ("g",)),
        Site("a[y]", "latent", (), (), (), ()),
        Site("b", "latent", (2, 2), (2, 2), (), ("h", "k")),
    ]
    coords = {"g": np.array(["x", "x", "y"]), "h": np.array(["p, q", "p"])}
    table = labels_by_site(sites, coords | {"k": np.array(["r", "q, r"])})
    assert table["a"] == ["a[x #0]", "a[x #1]", "a[y] (site a)"]
    assert table["a[y]"] == ["a[y] (site a[y])"]
    assert len(set(table["b"])) == 4


def test_scopes_and_plates_of_reserved_names_are_fitted_kept_and_reported(tmp_path: Path) -> None:
    def model(y: np.ndarray) -> None:
        with scope(prefix="lin"):
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("chain", 2):
            b = numpyro.sample("$b_{", dist.Normal(0.0, 1.0))
        with numpyro.plate("draw", len(y)):
            numpyro.sample("y", dist.Normal(a + b.sum(), 1.0), obs=y)

    target = vr.Target(model, y=np.array([0.1, 0.4, 0.7]))
    c = vr.compare(target, [vr.Laplace()], path=tmp_path)
    c.save(tmp_path)
    again = vr.Comparison.load(tmp_path)
    assert again["laplace"].labels() == ["lin/a", "$b_{[0]", "$b_{[1]"]
    pd.testing.assert_frame_equal(again.means(), c.means())
    assert (tmp_path / "figures" / "forest.svg").stat().st_size > 1_000
    assert isinstance(c["laplace"].to_arviz(target, log_likelihood=True), xr.DataTree)
    assert c.loo(target)["elpd_loo"].notna().all()


def test_plates_of_one_name_and_several_sizes_have_labels_of_their_own() -> None:
    def model(y: np.ndarray) -> None:
        with numpyro.plate("row", 2):
            a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(a.sum(), 1.0), obs=y)

    target = vr.Target(model, y=np.zeros(3))
    assert target.labels(coords=True) == ["a[0]", "a[1]"]
    assert target.sites["y"].dims == ("y_dim_0",)
