"""An error in any part of a comparison costs that part only, and a line says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import numpy as np
import pytest
from matplotlib.figure import Figure
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.comparison import folder, sections, yardsticks
from vi_recipes.comparison.figures import gallery
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.json import schema
from vi_recipes.core import Status
from vi_recipes.importance import Bound

comparing = sys.modules["vi_recipes.comparison.compare"]
fitting = sys.modules["vi_recipes.comparison.one_fit"]
requesting = sys.modules["vi_recipes.comparison.request"]
assessing = sys.modules["vi_recipes.trust.assess"]
evidencing = sys.modules["vi_recipes.trust.evidence"]


class Broken(Exception):
    """What nobody expects."""


def broken(*_: Any, **__: Any) -> Any:
    raise Broken("it broke")


def text_on_a_figure(text: str) -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.text(0.5, 0.5, text)
    return figure


@pytest.fixture(autouse=True)
def cheap_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw little: what is drawn is no matter here."""
    monkeypatch.setattr(sections, "draw", gallery.draw)
    cheap = {name: (lambda _: text_on_a_figure("x"), *rest) for name, (_, *rest) in FIGURES.items()}
    monkeypatch.setattr(gallery, "FIGURES", {"forest": cheap["forest"]})


FIGURES = dict(gallery.FIGURES)


@cache
def fitted() -> dict[str, vr.Fit]:
    this = target("linear_regression")
    return dict(vr.compare(this, [vr.MAP(), vr.Laplace(), vr.MeanField()]))


def compared() -> vr.Comparison:
    """Return a comparison that has made nothing yet."""
    fits = fitted()
    return vr.Comparison(
        fits, reference=fits["laplace"], reference_name="laplace", target_name="linear"
    )


def terminal(c: vr.Comparison) -> str:
    return repr(sections.on_terminal(c))


# -- sections --------------------------------------------------------------------------------------

WITHOUT = ("exhibits", "means")
"""Sections that have nothing to show of few parameters and no study."""

SECTIONS = {section.key: section for section in sections.SECTIONS}


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_that_breaks_is_a_line_in_its_place(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sections,
        "SECTIONS",
        tuple(
            replace(s, page=broken, terminal=broken, files=broken) if s.key == key else s
            for s in sections.SECTIONS
        ),
    )
    for module in ("page", "folder"):
        monkeypatch.setattr(f"vi_recipes.comparison.{module}.SECTIONS", sections.SECTIONS)
    c = compared()
    assert "Broken: it broke" in terminal(c)
    c.save(tmp_path)
    for page in ("report.html", "report.md"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert "Broken: it broke" in text
        others = [s.title for s in sections.SECTIONS if s.title and s.key not in (key, *WITHOUT)]
        assert all(title in text for title in others)
    assert any("Broken: it broke" in line for line in c.losses)
    assert list(vr.Comparison.load(tmp_path)) == list(c)


# -- figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", gallery.FIGURES)
@pytest.mark.parametrize("at", ["drawing", "rendering"])
def test_a_figure_that_breaks_is_a_line(
    name: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bad_text(_: Fits) -> Figure:
        return text_on_a_figure(r"$\nonsense{$")

    entry = FIGURES[name]
    makes = broken if at == "drawing" else bad_text
    monkeypatch.setitem(gallery.FIGURES, name, (makes, *entry[1:]))
    monkeypatch.setitem(gallery.FIGURES, "last", (lambda _: text_on_a_figure("x"), "Last", ""))
    c = compared()
    drawn = [figure.name for figure in gallery.draw(c)]
    assert name not in drawn
    assert "last" in drawn
    (line,) = c.losses
    assert line.startswith(f"The figure '{entry[1]}' is left out: ")
    c.report(tmp_path / "report.json")
    assert line in json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["notes"]


def test_an_exhibit_of_a_study_that_cannot_be_drawn_is_a_line(tmp_path: Path) -> None:
    figure = text_on_a_figure(r"$\nonsense{$")
    c = compared()
    c.exhibits.append(vr.Exhibit(name="own", title="My own", caption="", content=figure))
    c.save(tmp_path)
    assert "'My own' is left out: " in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "My own" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert vr.Comparison.load(tmp_path).exhibits == []


# -- numbers of one fit ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["mean", "sd", "mcse_mean", "mcse_sd", "cov", "draws"])
def test_a_fit_that_cannot_tell_costs_its_own_column(what: str, tmp_path: Path) -> None:
    class Posterior:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return broken if name == what else getattr(self._inner, name)

    fits = dict(fitted())
    posterior = Posterior(fits["meanfield"].posterior)
    fits["meanfield"] = replace(fits["meanfield"], posterior=posterior)  # type: ignore[arg-type]
    c = vr.Comparison(fits, reference=fits["laplace"], reference_name="laplace")
    c.save(tmp_path)
    assert {"map", "laplace"} <= set(vr.Comparison.load(tmp_path))
    assert any("Broken: it broke" in line for line in c.remarks)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Broken: it broke" in html
    assert np.isfinite(c.means()["map"]).all()
    assert c.verdict_of["map"].text.startswith("A point")
    jsonschema.validate(json.loads((tmp_path / "result.json").read_text("utf-8")), schema())


# -- assessments -----------------------------------------------------------------------------------

STEPS = {
    "khat": (assessing, "khat"),
    "correction": (assessing, "correct"),
    "bounds": (assessing, "wasserstein_bounds"),
    "stein": (assessing, "kernel_stein"),
    "evidence": (assessing, "evidences"),
    "linear response": (assessing, "_response_ratio"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_of_an_assessment_that_breaks_leaves_the_others(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    this, fit = target("linear_regression"), fitted()["meanfield"]
    monkeypatch.setattr(*STEPS[step], broken)
    found = vr.assess(fit, this, num_draws=400)
    assert found.errors[step].startswith("Broken: it broke")
    known = {
        "khat": np.isfinite(found.khat),
        "correction": found.correction is not None,
        "bounds": "bounds" not in found.errors,  # the draws are too few for them
        "stein": found.stein is not None,
        "evidence": len(found.evidence) > 1,
        "linear response": bool(found.response_ratio),
    }
    assert [name for name, there in known.items() if not there] == [step]


def test_an_assessment_that_breaks_leaves_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "assess", broken)
    monkeypatch.setattr(vr.NestedQuadrature, "is_cheap", lambda *_: False)  # or it would tell
    c = vr.compare(target("linear_regression"), [vr.MAP(), vr.Laplace()], path=tmp_path)
    assert [fit.status for fit in c.values()] == [Status.OK, Status.OK]
    assert "Broken: it broke" in c.verdict_of["laplace"].text
    assert any(line.startswith("laplace: ") and "Broken" in line for line in c.remarks)
    back = vr.Comparison.load(tmp_path)
    assert back.remarks == c.remarks


def test_bridge_sampling_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidencing, "bridge", broken)
    nuts = vr.NUTS(num_warmup=50, num_samples=50, num_chains=2)
    c = vr.compare(target("normal_mean"), [vr.Laplace(), nuts])
    (row,) = [e for e in c["nuts"].assessment.evidence if e.bound is Bound.MISSING]
    assert row.how.startswith("bridge sampling: Broken: it broke")


# -- relabelling, quadrature, files ----------------------------------------------------------------


def test_labels_that_cannot_be_matched_are_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "relabellings", broken)
    c = vr.compare(target("normal_mean"), [vr.MAP()])
    assert any("not put in one order: Broken" in note for note in c.notes)


def test_quadrature_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yardsticks, "integrate", broken)
    c = vr.compare(target("normal_mean"), [vr.MAP()], quadrature=True)
    assert c.quadrature is not None
    assert c.quadrature.how.startswith("quadrature: Broken: it broke")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Broken("it broke")])
@pytest.mark.parametrize("place", ["save_fit", "write_header", "place_for"])
def test_a_fit_that_cannot_be_kept_is_compared_all_the_same(
    place: str, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(comparing, place, refuse)
    with pytest.warns(UserWarning, match="is not in the folder"):
        c = vr.compare(target("normal_mean"), [vr.MAP(), vr.Laplace()], path=tmp_path)
    assert [fit.status for fit in c.values()] == [Status.OK, Status.OK]
    assert any(str(error) in line for line in c.losses)
    monkeypatch.undo()
    c.save(tmp_path)  # there is room again
    assert list(vr.Comparison.load(tmp_path)) == ["map", "laplace"]


def whole_files(directory: Path) -> set[str]:
    return {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}


@cache
def all_files() -> set[str]:
    """Return the files of a folder for which there is room."""
    with TemporaryDirectory() as place:
        compared().save(place)
        return whole_files(Path(place))


@pytest.mark.parametrize(
    "refused", ["means.csv", "forest.svg", "result.json", "report.md", "report.html", "map.nc"]
)
def test_a_file_that_the_disk_refuses_costs_that_file(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace: Callable[..., Any] = Path.replace

    def full(path: Path, goal: Path) -> Any:
        if Path(goal).name == refused:
            raise OSError(28, "No space left on device")
        return replace(path, goal)

    there = all_files()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left on device\); make room"):
        compared().save(tmp_path)
    here = whole_files(tmp_path)
    assert {Path(name).name for name in there - here} == {refused}
    assert here <= there  # no half file either


def test_a_table_that_cannot_be_written_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "latex", broken)
    c = compared()
    c.save(tmp_path)
    assert "means.tex is not in the folder: Broken: it broke" in "\n".join(c.losses)
    assert (tmp_path / "tables" / "means.csv").exists()
    assert "means.tex is not in the folder" in (tmp_path / "report.md").read_text("utf-8")


# -- interrupts ------------------------------------------------------------------------------------


def test_an_interrupted_assessment_keeps_its_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "assess", interrupt)
    c = vr.compare(target("normal_mean"), [vr.Laplace(), vr.MAP()])
    assert c.interrupted
    assert list(c) == ["laplace"]
    assert c["laplace"].status is Status.OK


# -- what is asked for -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((lambda y: None,), {}, "target: got <lambda>, expected a Target; make one with"),
        ((None,), {}, "target: got NoneType, expected a Target"),
        ((target("normal_mean"), 3), {}, "methods: got 3, expected names such as 'map,nuts'"),
        ((target("normal_mean"), "mop"), {}, "methods: unknown method 'mop'; did you mean 'map'"),
        ((target("normal_mean"), [vr.MAP]), {}, "methods: got <class .*expected a method such"),
        ((target("normal_mean"), {1: vr.MAP()}), {}, "the name 1 must be letters"),
        ((target("normal_mean"),), {"progress": 3}, "progress: got 3, expected what makes"),
        ((target("normal_mean"),), {"reference": 3}, "reference: got int, expected the name"),
        ((target("normal_mean"),), {"reference": vr.NUTS()}, "reference: got NUTS, expected"),
    ],
)
def test_what_cannot_be_compared_is_said(
    arguments: tuple[Any, ...], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        vr.compare(*arguments, **options)


def test_two_methods_may_not_share_a_checkpoint(tmp_path: Path) -> None:
    svi = vr.SVI(checkpoint=tmp_path / "one.npz")
    with pytest.raises(ValueError, match="for a and for b, expected a file for each"):
        vr.compare(target("normal_mean"), {"a": svi, "b": svi})


def test_without_methods_those_of_the_command_line_are_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    this = target("normal_mean")
    asked = []
    monkeypatch.setattr(
        requesting, "default_methods", lambda t: asked.append(t) or {"map": vr.MAP()}
    )
    assert list(vr.compare(this)) == ["map"]
    assert asked == [this]
