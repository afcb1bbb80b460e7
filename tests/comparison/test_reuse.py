"""A folder holds one run, whole: never an earlier one's fits, figures or report beside it."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.calibration import calibrate
from vi_recipes.comparison import write_all
from vi_recipes.model.sites import Site
from vi_recipes.posterior import DrawsPosterior

comparing = importlib.import_module("vi_recipes.comparison.one_fit")


def toy(names: str, *, sites: str = "a", target_name: str = "toy") -> vr.Comparison:
    fits = {
        name: vr.Fit(
            method=name,
            status=vr.Status.OK,
            sites=tuple(Site(s, "latent", (), (), (), ()) for s in sites),
            posterior=DrawsPosterior(
                {s: np.random.default_rng(0).normal(size=(1, 9)) for s in sites}
            ),
        )
        for name in names.split()
    }
    return vr.Comparison(fits, target_name=target_name)


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_nothing_of_an_earlier_comparison_is_left(tmp_path: Path) -> None:
    toy("one two three", sites="ab").save(tmp_path / "used")
    (tmp_path / "used" / "fits" / "notes.txt").write_text("mine")
    toy("four", target_name="other").save(tmp_path / "used")
    toy("four", target_name="other").save(tmp_path / "fresh")
    assert files(tmp_path / "used") == files(tmp_path / "fresh") | {"fits/notes.txt"}
    assert list(vr.Comparison.load(tmp_path / "used")) == ["four"]
    assert not [path for path in (tmp_path / "used").iterdir() if "unfinished" in path.name]


def test_a_run_into_a_folder_in_use_leaves_it_until_all_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vr.compare(target("normal_mean"), [vr.MAP(), vr.Laplace()], path=tmp_path).save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    seen: list[dict[str, bytes]] = []
    assess = comparing.assess

    def look(*args: Any, **options: Any) -> Any:
        now = files(tmp_path)
        seen.append({name: (tmp_path / name).read_bytes() for name in now if name in before})
        return assess(*args, **options)

    monkeypatch.setattr(comparing, "assess", look)
    methods = [vr.MAP(), vr.MeanField()]
    c = vr.compare(target("normal_mean"), methods, path=tmp_path, resume=False)
    assert len(seen) == 2
    assert all(one == before for one in seen)  # all that is there is of the earlier run
    assert not (tmp_path / "report.html").exists()  # which is that of no fit that is there now
    c.save(tmp_path)
    assert list(vr.Comparison.load(tmp_path)) == ["map", "meanfield"]
    assert {p.name for p in (tmp_path / "fits").iterdir()} == {"map.nc", "meanfield.nc"}


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupt_before_anything_is_done_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vr.compare(target("normal_mean"), [vr.MAP()], path=tmp_path).save(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}
    monkeypatch.setattr(vr.Laplace, "_fit", interrupted)
    c = vr.compare(target("normal_mean"), [vr.Laplace()], path=tmp_path, resume=False)
    assert c.interrupted
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_an_interrupt_later_keeps_what_was_done_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vr.compare(target("normal_mean"), [vr.MAP(), vr.MeanField()], path=tmp_path).save(tmp_path)
    monkeypatch.setattr(vr.MeanField, "_fit", interrupted)
    methods = [vr.Laplace(), vr.MeanField()]
    c = vr.compare(target("normal_mean"), methods, path=tmp_path, resume=False)
    assert files(tmp_path) == {"comparison.json", "fits/laplace.nc", "fits/meanfield.nc"}
    c.save(tmp_path)
    again = vr.Comparison.load(tmp_path)
    assert again.interrupted
    assert [fit.has_result for fit in again.values()] == [True, False]


def test_a_report_again_leaves_no_table_of_another(tmp_path: Path) -> None:
    c = toy("one")
    c.save(tmp_path)
    whole = files(tmp_path)
    (tmp_path / "tables" / "covariance_gone.csv").write_text("x")
    write_all(vr.Comparison.load(tmp_path), tmp_path)
    assert files(tmp_path) == whole


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    toy("one").save(tmp_path / "c")
    whole = files(tmp_path / "c")
    with pytest.raises(ValueError, match="it holds a comparison"):
        calibrate(target("normal_mean"), vr.Laplace(), num_simulations=2, path=tmp_path / "c")
    assert files(tmp_path / "c") == whole
    (tmp_path / "k").mkdir()
    (tmp_path / "k" / "calibration.npz").write_bytes(b"")
    with pytest.raises(ValueError, match="it holds a calibration"):
        vr.compare(target("normal_mean"), [vr.MAP()], path=tmp_path / "k")


# -- links and names -------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["tables", "figures", "fits", "exhibits"])
def test_nothing_is_written_through_a_link(folder: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    toy("one").save(tmp_path / "c")
    place = tmp_path / "c" / folder
    if place.exists():
        place.rename(tmp_path / "moved")
    place.symlink_to(outside)
    with pytest.raises(ValueError, match="is a symbolic link"):
        toy("two").save(tmp_path / "c")
    with pytest.raises(ValueError, match=r"is a (symbolic )?link"):
        write_all(vr.Comparison.load(tmp_path / "c"), tmp_path / "c")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["report.html", "tables/means.csv", "figures/forest.svg"])
def test_a_file_that_is_a_link_is_replaced_and_not_followed(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    c = toy("one")
    c.save(tmp_path / "c")
    (tmp_path / "c" / name).unlink()
    (tmp_path / "c" / name).symlink_to(outside)
    (tmp_path / "c" / f".{Path(name).name}.{os.getpid()}").symlink_to(outside)
    write_all(c, tmp_path / "c")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "c" / name).is_symlink()


def test_a_fit_outside_of_the_folder_is_not_read(tmp_path: Path) -> None:
    toy("one").save(tmp_path / "c")
    fit = tmp_path / "c" / "fits" / "one.nc"
    fit.rename(tmp_path / "one.nc")
    fit.symlink_to(tmp_path / "one.nc")
    with pytest.raises(ValueError, match="is a link to outside"):
        vr.Comparison.load(tmp_path / "c")


WRONG: tuple[Any, ...] = (
    None,
    7,
    "x",
    [],
    {},
    [None],
    {"a": 1},
    ["../one"],
    [{}],
    True,
    ["one", "one"],
)


@pytest.mark.parametrize(
    "field",
    ["fits", "reference", "target_name", "notes", "interrupted", "description", "quadrature",
     "labels", "exhibits", "left"],
)  # fmt: skip
def test_a_tampered_header_is_refused_or_read(field: str, tmp_path: Path) -> None:
    toy("one").save(tmp_path)
    header = json.loads((tmp_path / "comparison.json").read_text())
    refused = 0
    for wrong in WRONG:
        (tmp_path / "comparison.json").write_text(json.dumps(header | {field: wrong}))
        if (c := loaded(lambda: vr.Comparison.load(tmp_path))) is None:
            refused += 1
        else:
            c.report(tmp_path / "again.html")
    assert refused >= 7
    (tmp_path / "comparison.json").write_text("[" * 100_000)
    assert loaded(lambda: vr.Comparison.load(tmp_path)) is None


def loaded(load: Callable[[], vr.Comparison]) -> vr.Comparison | None:
    try:
        return load()
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return None


def test_fits_of_other_sites_are_no_comparison(tmp_path: Path) -> None:
    toy("one two").save(tmp_path / "c")
    toy("two", sites="xyz").save(tmp_path / "d")
    (tmp_path / "d" / "fits" / "two.nc").replace(tmp_path / "c" / "fits" / "two.nc")
    with pytest.raises(ValueError, match=r"same sites: 'one' has a, and 'two' has x, y, z$"):
        vr.Comparison.load(tmp_path / "c")
