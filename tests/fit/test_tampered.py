"""A fit's file that was tampered with is refused in one sentence, whatever was changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.fit.checked import ASSESSMENT, HEADER
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.model.sites import Site
from vi_recipes.posterior import MomentsPosterior

WRONG: tuple[Any, ...] = (None, 7, -1, "x", [], {}, [None], {"a": None}, [[]], {"a": {}}, True)


@cache
def whole() -> bytes:
    """Return the file of a fit that nobody has changed."""
    value = {"a": np.arange(2.0)}
    fit = vr.Fit(
        method="toy",
        status=vr.Status.OK,
        sites=(Site("a", "latent", (2,), (2,), (("g", 2, 0),), ("g",), "real", False),),
        coords={"g": np.array(["x", "y"])},
        posterior=MomentsPosterior(value, value, np.eye(2), ("a",), value, value,
                                   {"a": np.zeros((1, 5, 2))}),
        trace={"elbo": np.arange(3.0)},
        diagnostics={"khat": 0.5},
        log_evidence=LogEvidence(-1.0, 0.1, Bound.LOWER, "ELBO"),
        log_likelihood=-2.0,
        assessment=vr.Assessment(num_draws=100, khat=0.1, block_khat={"a": 0.2}),
    )  # fmt: skip
    with TemporaryDirectory() as folder:
        return fit.save(Path(folder, "fit.nc")).read_bytes()


def tamper(path: Path, attribute: str, change: Callable[[Any], Any]) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[attribute] = json.dumps(change(json.loads(file.attrs[attribute])))


def loaded(path: Path) -> vr.Fit | str:
    """Return the fit, or the sentence that refuses it."""
    try:
        return vr.Fit.load(path)
    except ValueError as error:
        said = str(error)
    assert "not a fit saved by vi_recipes" in said
    assert "\n" not in said
    return said


def refused(path: Path) -> str:
    said = loaded(path)
    assert isinstance(said, str)
    return said


FIELDS = [("vi_recipes_fit", name) for name in HEADER]
FIELDS += [("vi_recipes_assessment", name) for name in ASSESSMENT]


@pytest.mark.parametrize(("attribute", "field"), FIELDS)
def test_a_header_with_another_field_is_refused_or_read(
    attribute: str, field: str, tmp_path: Path
) -> None:
    path = tmp_path / "fit.nc"
    path.write_bytes(whole())
    tamper(path, attribute, lambda h: {k: v for k, v in h.items() if k != field})
    assert f"'{field}'" in refused(path)
    num_read = 0
    for k, wrong in enumerate(WRONG):
        changed = tmp_path / f"{k}.nc"
        changed.write_bytes(whole())
        tamper(changed, attribute, lambda h, wrong=wrong: h | {field: wrong})  # type: ignore[misc]
        if isinstance(fit := loaded(changed), str):
            continue
        num_read += 1  # and then it is a fit with which everything can be done
        vr.Comparison({"toy": fit}, target_name="toy").report(tmp_path / "report.html")
        repr(fit), fit.explanation
    assert num_read <= 5


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [3]},
        {"dims": []},
        {"dims": ["h"]},
        {"name": "b"},
        {"plates": [["g", 2]]},
        {"kind": "other"},
        {"shape": [-2]},
    ],
)
def test_sites_that_are_not_those_of_the_arrays_are_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "fit.nc"
    path.write_bytes(whole())
    tamper(path, "vi_recipes_fit", lambda h: h | {"sites": [h["sites"][0] | change]})
    refused(path)


def test_files_that_are_no_fits_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.nc"
    refused(path)
    path.write_bytes(b"CDF")
    refused(path)
    path.unlink()
    path.mkdir()
    assert "directory" in refused(path)
    path.rmdir()
    with h5py.File(path, "w") as file:
        file.attrs["other"] = 1
    refused(path)
    with h5py.File(path, "w") as file:
        file.attrs["vi_recipes_fit"] = "[]"
    refused(path)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "fit.nc")
    assert "is a pipe or a device" in refused(tmp_path / "fit.nc")


@pytest.mark.parametrize("how", ["link", "external", "virtual"])
def test_no_other_file_is_read(how: str, tmp_path: Path) -> None:
    path, secret = tmp_path / "fit.nc", tmp_path / "secret.h5"
    path.write_bytes(whole())
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(2.0)
    with h5py.File(path, "r+") as file:
        del file["mean/a"]
        if how == "link":
            file["mean/a"] = h5py.ExternalLink("secret.h5", "/x")
        elif how == "external":
            file["mean"].create_dataset("a", (2,), "f8", external=[(str(secret), 0, 16)])
        else:
            layout = h5py.VirtualLayout((2,), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "x", (2,))
            file["mean"].create_virtual_dataset("a", layout)
    assert "not followed" in refused(path) or "not read" in refused(path)
