"""Means, sds and seconds beside those of the reference, as studies and reports show them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import minimize

import vi_recipes as vr
from vi_recipes.comparison import against_reference, reference_exhibits, seconds_beside, tables
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.figures.agreement import _apart, agreement
from vi_recipes.comparison.figures.times import times
from vi_recipes.core.status import Status
from vi_recipes.core.timing import Timing
from vi_recipes.fit.fit import Fit
from vi_recipes.model.sites import Site
from vi_recipes.posterior.draws import DrawsPosterior, MomentsPosterior, PointPosterior
from vi_recipes.report.cells import DASH

GROUPS = 30
SITES = (
    Site("beta", "latent", (2,), (2,), (), ("k",)),
    Site("tau", "latent", (), (), (), ()),
    Site("u", "latent", (GROUPS,), (GROUPS,), (("t", GROUPS, 0),), ("t",)),
)
RNG = np.random.default_rng(4)
COORDS = {"k": np.arange(2), "t": np.arange(GROUPS)}
MEANS = {"beta": np.array([1.5, -0.2]), "tau": np.array(0.8), "u": RNG.normal(size=GROUPS)}
SDS = {"beta": np.array([0.12, 0.01]), "tau": np.array(0.03), "u": RNG.uniform(0.5, 1, GROUPS)}


def fit(name: str, shift: float, factor: float, **options: Any) -> Fit:
    means = {s: MEANS[s] + shift * SDS[s] for s in MEANS}
    posterior = MomentsPosterior(means, {s: factor * SDS[s] for s in SDS})
    return Fit(
        name, Status.OK, sites=SITES, coords=COORDS, posterior=posterior, kind=name, **options
    )


def compared() -> Comparison:
    """Return two approximations with the same means, a point far away and a failure."""
    far = {**MEANS, "tau": np.array(801.0)}
    fits = [
        Fit(
            "map",
            Status.COLLAPSED,
            sites=SITES,
            coords=COORDS,
            posterior=PointPosterior(far),
            kind="map",
        ),
        Fit("laplace", Status.SINGULAR, sites=SITES, coords=COORDS, timing=Timing(1.0, 2.0)),
        fit("meanfield", 0.1, 0.2, timing=Timing(2.0, 1.0)),
        fit("lrvb", 0.1, 0.9, timing=Timing(0.5, 1.5, shared_seconds=2.0)),
    ]
    stored = Fit(
        "stored",
        Status.OK,
        sites=SITES,
        coords=COORDS,
        posterior=MomentsPosterior(MEANS, SDS),
        timing=Timing(run_seconds=720.0),
    )
    named = {f.method: f for f in fits}
    return Comparison(named, reference=stored, reference_name="stored", target_name="toy")


def panels(figure: Figure | None) -> list[Axes]:
    assert figure is not None
    return figure.axes


def marks(axes: Axes) -> list[Any]:
    return [line for line in axes.lines if line.get_linestyle() == "None"]


def test_every_fit_is_seen_though_marks_coincide() -> None:
    means, sds = panels(agreement(compared()))
    assert [len(marks(axes)) for axes in (means, sds)] == [3, 2]  # a point has no sds
    for axes in (means, sds):
        sizes = [line.get_markersize() for line in marks(axes)]
        assert np.all(np.diff(sizes) <= -2)
        assert len({line.get_marker() for line in marks(axes)}) == len(sizes)
    meanfield, lrvb = marks(means)[1:]
    np.testing.assert_array_equal(meanfield.get_ydata(), lrvb.get_ydata())
    flat = np.concatenate([np.ravel(SDS[s]) for s in ("beta", "tau", "u")])
    for line, factor in zip(marks(sds), (0.2, 0.9), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), flat)
        np.testing.assert_allclose(line.get_ydata(), factor * flat)


def test_the_population_is_named_and_lines_lead_to_their_marks() -> None:
    figure = agreement(compared())
    means, sds = panels(figure)
    for axes, known, lowest in ((means, MEANS, 1.0), (sds, SDS, 0.2)):
        names = [text.get_text() for text in axes.texts if text.get_rotation() == 90]
        values = {"beta[0]": known["beta"][0], "beta[1]": known["beta"][1], "tau": known["tau"]}
        assert names == sorted(values, key=lambda name: float(values[name]))
        leads = [line for line in axes.lines if len(line.get_xdata()) == 3]
        ends = np.array([line.get_xydata()[-1] for line in leads])
        np.testing.assert_allclose(ends[:, 0], sorted(values.values()), rtol=1e-6)
        if lowest < 1:  # down to the lowest mark, which is mean field's
            np.testing.assert_allclose(ends[:, 1], lowest * ends[:, 0], rtol=1e-6)
    # of members alone nothing is named, and of a few parameters all are
    assert all(
        t.get_rotation() != 90 for a in panels(agreement(compared(), ["u"])) for t in a.texts
    )
    few = panels(agreement(compared(), ["beta"]))[0]
    assert [t.get_text() for t in few.texts if t.get_rotation() == 90] == ["beta[1]", "beta[0]"]
    assert len(marks(few)[0].get_xdata()) == 2


def test_named_marks_are_large_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(agreement.__globals__, "MANY", GROUPS)
    _, sds = panels(agreement(compared()))
    small, large = marks(sds)[:2], marks(sds)[2:]
    assert [len(line.get_xdata()) for line in (*small, *large)] == [GROUPS, GROUPS, 3, 3]
    for few, many in zip(large, small, strict=True):
        assert few.get_markersize() > many.get_markersize()


def test_what_is_missing_is_said_where_it_would_be() -> None:
    figure = agreement(compared(), ["beta", "tau"])
    means, _ = panels(figure)
    assert "map: tau = 801\nfar outside, at the edge" in [t.get_text() for t in means.texts]
    assert figure is not None
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "map†: a point, no sds",
        "laplace: no result (singular)",
        "meanfield",
        "lrvb",
    ]


def test_captions_say_what_the_numbers_say() -> None:
    shown = against_reference(compared(), name="x", title="y", after="After z.", sites=["tau"])
    said = shown.caption
    assert "meanfield: means at most 0.10 sds off, sds 0.20 times the reference's;" in said
    assert "lrvb: means at most 0.10 sds off, sds 0.90 times the reference's." in said
    assert "After z." in said
    assert "laplace has no result: singular." in said
    assert "map is provisional (†): collapsed." in said
    everything = against_reference(compared(), name="x", title="y").caption
    assert "map: means at most 26,673 sds off (tau)" in everything


def test_captions_say_where_medians_stand_in() -> None:
    rng = np.random.default_rng(0)
    heavy = {"x": rng.standard_cauchy((4, 1_000)), "y": rng.standard_normal((4, 1_000))}
    sites = tuple(Site(name, "latent", (), (), (), ()) for name in heavy)
    shared = {"sites": sites, "posterior": DrawsPosterior(heavy), "kind": "nuts"}
    chains = {"diverging": np.zeros((4, 1_000), bool)}  # without which they are no sampler's
    a, b = (Fit(name, Status.OK, sample_stats=chains, **shared) for name in ("a", "b"))
    shown = Comparison({"a": a}, reference=b, reference_name="b", target_name="toy")
    said = against_reference(shown, name="x", title="y").caption
    assert "Of x medians and half-widths of the central 68 % are compared." in said
    assert "medians" not in against_reference(shown, name="x", title="y", sites=["y"]).caption


def test_names_stay_in_order_and_move_as_little_as_they_can() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 12):
        wanted = np.sort(rng.random(size) ** 2)
        found = _apart(wanted, 0.06)
        assert np.all(np.diff(found) > 0.06 - 1e-9)
        assert found[0] >= 0
        assert found[-1] <= 1
        gaps = {"type": "ineq", "fun": lambda x: np.diff(x) - 0.06}
        best = minimize(
            lambda x, wanted=wanted: np.sum((x - wanted) ** 2),
            np.linspace(0, 1, size),
            bounds=[(0, 1)] * size,
            constraints=[gaps] if size > 1 else [],
        )
        np.testing.assert_allclose(np.sum((found - wanted) ** 2), best.fun, atol=1e-5)


def test_stored_answers_have_a_total_that_others_are_compared_with() -> None:
    c = compared()
    frame = c.timings()
    assert list(frame.index) == ["map", "laplace", "meanfield", "lrvb", "stored"]
    stored = frame.loc["stored"]
    assert stored["total_seconds"] == 720
    assert np.isnan([stored["compile_seconds"], stored["run_seconds"]]).all()
    assert frame["run_speed_up"].isna().all()
    assert frame.loc["meanfield", "speed_up"] == 240
    assert frame.loc["lrvb", "speed_up"] == 180  # what meanfield compiled is charged to it too
    table = tables.timings(c)
    assert table.rows[0][0].text == "stored"
    assert [cell.text for cell in table.rows[0][2:6]] == [DASH, DASH, "720", "720"]
    assert "stored was stored: its seconds may be of another machine" in table.note
    figure = times(c)
    assert figure is not None
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == "stored (stored)"
    assert all(bar.get_y() > 0.5 for bar in figure.axes[0].patches)  # only its total is known


def test_a_saved_fit_tells_its_compilation_apart() -> None:
    kept = fit("nuts", 0.0, 1.0, timing=Timing(20.0, 40.0))
    named = {"meanfield": fit("meanfield", 0.1, 0.2, timing=Timing(2.0, 1.0))}
    frame = Comparison(named, reference=kept, reference_name="nuts").timings()
    assert frame.loc["nuts", "run_seconds"] == 40
    assert frame.loc["meanfield", ["run_speed_up", "speed_up"]].tolist() == [40, 20]


def test_without_known_seconds_there_is_no_row_and_no_speed_up() -> None:
    answers = Fit(
        "known", Status.OK, sites=SITES, coords=COORDS, posterior=MomentsPosterior(MEANS, SDS)
    )
    named = {"meanfield": fit("meanfield", 0.1, 0.2, timing=Timing(2.0, 1.0))}
    c = Comparison(named, reference=answers, reference_name="known")
    assert list(c.timings().index) == ["meanfield"]
    assert c.timings()["speed_up"].isna().all()
    assert "peed-up:" not in tables.timings(c).note


def test_published_seconds_are_compared_with_nothing() -> None:
    rows = {
        "VB": Timing(2.0, 1.0, shared_seconds=1.0),
        "Laplace": Timing(0.5, 0.5),
        "NUTS": Timing(0.0, 400.0),
    }
    known = {"VB": 57.0, "NUTS": 21_066.0}
    frames = [
        seconds_beside(rows, "NUTS", whole=["NUTS"], failed=["Laplace"], published=published)
        for published in (known, {name: 9 * value for name, value in known.items()})
    ]
    table = frames[0].set_index("method")
    assert table["total (s)"].tolist() == ["4.0", "1.0", "400"]
    assert table["compile (s)"].tolist() == ["3.0", "0.50", DASH]
    assert table["NUTS over it"].tolist() == ["100×", DASH, DASH]
    assert table["published (s)"].tolist() == ["57", DASH, "21,066"]
    assert table.index.tolist() == ["VB", "Laplace (no result)", "NUTS"]
    ours = [frame.drop(columns="published (s)") for frame in frames]
    assert ours[0].equals(ours[1])


def test_a_study_s_exhibits_name_the_reference_and_all_seconds() -> None:
    means, seconds = reference_exhibits("After figure 7.")(compared(), None, 0, None)
    assert means.title == "Means and sds against stored"
    assert "After figure 7." in means.caption
    assert isinstance(means.content, Figure)
    table = seconds.content.set_index("method")  # type: ignore[union-attr]
    assert table.loc["stored", ["compile (s)", "total (s)"]].tolist() == [DASH, "720"]
    assert table.loc["lrvb", "stored over it"] == "180×"
    with pytest.raises(ValueError, match="no result to hold against a reference"):
        against_reference(vr.Comparison({"m": fit("m", 0, 1)}), name="x", title="y")
