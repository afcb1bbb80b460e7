"""Studies: scripted comparisons, their exhibits, and those that are shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from models_for_tests import target
from scipy import stats
from scipy.integrate import quad
from studies_for_tests import made

import vi_recipes as vr
from vi_recipes.comparison.notes import NoteKind, of_kind
from vi_recipes.core.progress import Progress, silent


def lines(**options: Any) -> vr.Study:
    this = target("linear_regression")
    return vr.Study(
        name="lines", model=this.model, data=this.data, methods={"gauss": vr.Laplace()}, **options
    )


@pytest.mark.slow
def test_a_study_is_its_comparison(tmp_path: Path) -> None:
    this = target("linear_regression")
    study = vr.Study(
        name="lines",
        model=this.model,
        data=this.data,
        methods={"mode": vr.MAP(), "gauss": vr.Laplace()},
        reference="gauss",
        seed=4,
        description="Two ways to one answer.",
    )
    c = study.run(tmp_path)
    assert list(c) == ["mode", "gauss"]
    assert c.reference_name == "gauss"
    assert c.description == "Two ways to one answer."
    assert c["mode"].provenance.seed == 4
    assert (tmp_path / "fits" / "gauss.nc").exists()
    again = study.run()
    np.testing.assert_array_equal(again["gauss"].mean()["beta"], c["gauss"].mean()["beta"])
    assert study.run(seed=9)["mode"].provenance.seed == 9


@pytest.mark.slow
@pytest.mark.parametrize("name", ["radon", "gmm", "neyman_scott", "point_masses", "em_is_vi"])
def test_shipped_studies_name_models_and_methods_that_exist(name: str) -> None:
    study = vr.load_study(name)
    assert study.name == name
    assert study.methods
    assert study.reference in study.methods
    assert study.description
    this = study.target()
    assert all(method.applies(this) is None for method in study.methods.values())


def test_outside_references_become_fits() -> None:
    this = target("linear_regression")
    fit = vr.load_reference(
        {"source": "by hand", "parameters": {"beta[1]": {"mean": 2.0, "sd": 0.5, "mcse": 0.01}}},
        this,
    )
    assert np.isnan(fit.mean()["beta"][0])
    assert fit.mean()["beta"][1] == 2.0
    assert fit.mcse()["beta"][1] == 0.01
    c = vr.compare(this, [vr.Laplace()], reference=fit)
    row = c.accuracy().loc[("beta[1]", "laplace")]
    np.testing.assert_allclose(row["difference"], (c["laplace"].mean()["beta"][1] - 2.0) / 0.5)
    with pytest.raises(ValueError, match=r"beta\[7\]"):
        vr.load_reference({"parameters": {"beta[7]": {"mean": 0.0}}}, this)
    with pytest.raises(ValueError, match="parameters"):
        vr.load_reference({"source": "empty"}, this)


# -- exhibits --------------------------------------------------------------------------------


def shown(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    progress(1, 2, "drawing")
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot(np.random.default_rng(seed).normal(size=5))
    yield vr.Exhibit(name="noise", title="Noise", caption="Five numbers.", content=figure)
    table = pd.DataFrame(
        {"site": list(comparison["gauss"].mean()), "size": 1, "share": 1 / 3, "none": np.nan}
    )
    yield vr.Exhibit(name="sizes", title="Sizes", caption="A row per site.", content=table)


def test_exhibits_are_in_the_report_and_in_the_folder(tmp_path: Path) -> None:
    c = lines(exhibits=shown, description="Look at this.").run(tmp_path / "out")
    c.save(tmp_path / "out")
    assert [e.name for e in c.exhibits] == ["noise", "sizes"]
    names = {p.name for p in (tmp_path / "out" / "exhibits").iterdir()}
    assert names == {"noise.svg", "sizes.csv", "sizes.tex"}
    for report in ("report.html", "report.md"):
        text = (tmp_path / "out" / report).read_text()
        places = [text.index(s) for s in ("Look at this.", "Five numbers.", "A row per site.")]
        assert places == sorted(places)
        assert places[-1] < text.rindex("Verdicts")
    assert "exhibits/noise.svg" in text
    assert "| 0.3333 | – |" in text
    c.report(tmp_path / "alone" / "report.md")
    assert (tmp_path / "alone" / "exhibits" / "noise.svg").exists()


def test_exhibits_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    c = lines(exhibits=shown).run(tmp_path)
    again = vr.Comparison.load(tmp_path)
    again.save(tmp_path / "copy")
    third = vr.Comparison.load(tmp_path / "copy")
    for one in (again, third):
        assert one.exhibits[0].svg == c.exhibits[0].svg
        assert one.exhibits[1].table == c.exhibits[1].table
        assert one.exhibits[1].title == "Sizes"
    (tmp_path / "exhibits" / "noise.svg").unlink()
    with pytest.raises(ValueError, match="'noise' cannot be read"):
        vr.Comparison.load(tmp_path)


@pytest.mark.slow
def test_exhibits_get_the_seed_and_the_style_of_the_report() -> None:
    seeds = []

    def look(c: vr.Comparison, t: vr.Target, seed: int, p: Progress) -> Iterator[vr.Exhibit]:
        seeds.append(seed)
        assert mpl.rcParams["axes.spines.top"] is False
        yield from shown(c, t, seed, p)

    study = lines(exhibits=look, seed=3)
    first, again, other = study.run(), study.run(), study.run(seed=8)
    assert seeds == [3, 3, 8]
    assert first.exhibits[0].svg == again.exhibits[0].svg != other.exhibits[0].svg
    assert mpl.rcParams["axes.spines.top"] is True


def test_an_exhibit_that_fails_is_a_note_and_the_rest_stands(tmp_path: Path) -> None:
    def broken(c: vr.Comparison, t: vr.Target, seed: int, p: Progress) -> Iterator[vr.Exhibit]:
        yield from shown(c, t, seed, p)
        c["nuts"]

    with pytest.warns(UserWarning, match="end after 2: KeyError"):
        c = lines(exhibits=broken).run(tmp_path)
    assert c["gauss"].has_result
    assert len(c.exhibits) == 2
    (told,) = of_kind(vr.Comparison.load(tmp_path).notes, NoteKind.LOST_EXHIBITS)
    assert "KeyError" in told
    with pytest.warns(UserWarning, match="two exhibits are named 'noise'"):
        lines(exhibits=lambda *a: [*shown(*a), *shown(*a)]).run()


def test_an_interrupt_keeps_the_exhibits_that_are_done() -> None:
    def slow(c: vr.Comparison, t: vr.Target, seed: int, p: Progress) -> Iterator[vr.Exhibit]:
        yield from shown(c, t, seed, p)
        raise KeyboardInterrupt

    c = lines(exhibits=slow).run()
    assert c.interrupted
    assert len(c.exhibits) == 2


def test_an_exhibit_is_a_figure_or_a_frame() -> None:
    with pytest.raises(ValueError, match="exhibit 'a': got list, expected a Matplotlib Figure"):
        vr.Exhibit(name="a", title="", caption="", content=[])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="letters, digits"):
        vr.Exhibit(name="../a", title="", caption="", content=Figure())
    with pytest.raises(ValueError, match="is a table"):
        vr.Exhibit(name="a", title="", caption="", content=pd.DataFrame()).png  # noqa: B018


@pytest.mark.slow
def test_neyman_scotts_exhibits_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("neyman_scott")
    small = {
        "NUM_MEMBERS": (10, 30),
        "NUM_REPLICATES": (2, 3),
        "FITTED": ((10, 2), (100, 3)),
        "NUM_DATA_SETS": 5,
        "EXPLAINED": (3,),
        "TILTED": (3,),
    }
    growth, table, picture, gaps = made(study, study.target(), {}, small, monkeypatch)
    assert growth.png
    # the climb stops a millionth of a standard error from the top
    assert table.content["largest relative difference"].max() < 1e-5
    assert picture.png
    (row,) = gaps.content.to_dict("records")  # type: ignore[union-attr]
    assert row["slope"] == pytest.approx(0.5, abs=1e-5)
    assert row["tilt"] == pytest.approx(0.5 * np.log(1.5), abs=1e-5)
    for name in ("(M - 1) / (M - 1 + 2 slope)", "top of F / h", "MAP / MarginalMLE"):
        assert row[name] == pytest.approx(2 / 3, abs=1e-5), name


@pytest.mark.slow
def test_the_gap_of_points_is_that_of_normals_by_quadrature() -> None:
    """Likelihood, gap and where F is highest, against integrals over z by SciPy."""
    study = vr.load_study("neyman_scott")
    y = np.array([[0.3, 1.9, 1.1], [-2.0, -0.6, -1.5]])
    gap = study.exhibits.__globals__["Gap"](study.target().model, y)  # type: ignore[union-attr]
    h = float(np.var(y, axis=1, ddof=1).mean())
    assert gap.top == pytest.approx(h)
    ratio, sd = 0.7, 0.2
    sigma = np.sqrt(ratio * h)

    def logs(row: np.ndarray, z: float) -> tuple[float, float]:
        q = stats.norm.logpdf(z, row.mean(), sd)
        return stats.norm.logpdf(row, z, sigma).sum(), q

    likelihood, kl = 0.0, 0.0
    for row in y:
        m = row.mean()
        ends = (m - 8, m + 8)
        evidence = np.log(quad(lambda z, r=row: np.exp(logs(r, z)[0]), *ends, points=[m])[0])
        likelihood += evidence / 2

        def lost(z: float, row: np.ndarray = row, evidence: float = evidence) -> float:
            joint, q = logs(row, z)
            return np.exp(q) * (q - joint + evidence)

        kl += quad(lost, *ends, points=[m])[0] / 2
    assert gap.log_likelihood(ratio) == pytest.approx(likelihood, abs=1e-8)
    assert gap.kl(sd, ratio) == pytest.approx(kl, abs=1e-8)
    # half as wide as the best q: (M - 1 + 1/4) / M
    assert gap.estimate(0.5) == pytest.approx(2.25 / 3, abs=1e-6)
    assert gap.sd == pytest.approx(np.sqrt(h / 3))


@pytest.mark.slow
def test_the_mixtures_exhibits_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("gmm")
    methods = {"em": vr.EM(num_starts=1), "map": vr.MAP()}
    constants = {"NUM_COMPONENTS": (1, 2), "NUM_STARTS": 1, "NUM_DRAWS": 3}
    components, choice = made(study, study.target(), methods, constants, monkeypatch)
    assert isinstance(components.content, Figure)
    drawn = [[len(axes.lines), len(axes.patches)] for axes in components.content.axes]
    # the data; ellipses of the estimate, and of each method's own draws or the reference's estimate
    assert drawn[:2] == [[1, 2 + 3 * 2], [1, 2 + 2]]
    assert choice.png


@pytest.mark.slow
def test_point_masses_profiles_have_the_marginal_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("point_masses")
    this = study.target()
    method = vr.MarginalMLE(objective="map")
    best = method.fit(this, key=0)
    sigmas = np.array([0.01, 0.1, float(best.mean()["sigma_a"])])
    made_all = made(study, this, {"top": method}, {"SIGMA_A": sigmas}, monkeypatch)
    exhibit, *_, checked = made_all
    assert len(made_all) == 5
    assert made_all[2].png
    # the library's estimates and likelihoods are those of the formulas that the rest is made with
    np.testing.assert_allclose(checked.content["MarginalMLE"].astype(float), 1, atol=1e-6)
    assert checked.content["largest difference of log p"].max() < 1e-10
    assert isinstance(exhibit.content, Figure)
    joint, marginal = (line.get_ydata() for line in exhibit.content.axes[0].lines)
    assert (np.diff(joint) < 0).all()
    assert (np.diff(marginal) > 0).all()
    profile = study.exhibits.__globals__["profile"]  # type: ignore[union-attr]
    with jax.enable_x64(True):
        (top,) = profile(this, sigmas[-1:], silent, integrate=True)
    assert top == pytest.approx(best.trace["log_posterior"][0, -1], abs=1e-6)


@pytest.mark.slow
def test_kl_exercises_are_solved_on_another_target_too(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("kl_exercises")
    assert isinstance(study.reference, Path)
    assert study.reference.exists()
    other = vr.Target(study.target().model, mean=[0.3, 1.0], sds=[0.7, 1.5], correlation=-0.6)
    methods = {"laplace": vr.Laplace(), "meanfield": vr.MeanField()}
    contours, table = made(study, other, methods, {"NUM_GRID": 81}, monkeypatch)
    assert isinstance(contours.content, Figure)
    assert len(contours.content.axes) == 8
    difference = table.content["largest difference"]
    assert len(difference) == 9
    assert difference[:8].max() < 1e-5
    assert np.isnan(difference[8])  # of a point nothing is defined
