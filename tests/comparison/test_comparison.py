"""Comparisons: tables, references, verdicts, failures, interrupts and what is kept on disk."""

from __future__ import annotations

import pickle
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target

import vi_recipes as vr
from vi_recipes.comparison.folder import write_header
from vi_recipes.comparison.left import MethodsLeft
from vi_recipes.comparison.notes import Note, NoteKind, of_kind
from vi_recipes.comparison.page import compose
from vi_recipes.core import silent
from vi_recipes.trust.verdict import Trust, judge

SAMPLER = vr.NUTS(num_warmup=400, num_samples=1_000)


@cache
def compared() -> vr.Comparison:
    """Compare a point, an exact Gaussian and a sampler where the posterior is Gaussian."""
    return vr.compare(target("linear_regression"), [vr.MAP(), vr.Laplace(), SAMPLER], key=3)


def test_is_an_ordered_mapping_of_fits() -> None:
    c = compared()
    assert list(c) == ["map", "laplace", "nuts"]
    assert all(isinstance(fit, vr.Fit) for fit in c.values())
    assert all(fit.provenance.seed == 3 for fit in c.values())
    assert len(c) == 3


def test_tables_are_labelled_and_hold_the_known_answer() -> None:
    c, known = compared(), case("linear_regression")
    assert list(c.means().columns) == ["map", "laplace", "nuts"]
    assert list(c.means(["beta"]).index) == ["beta[0]", "beta[1]"]
    np.testing.assert_allclose(c.means(["beta"])["laplace"], known.mean["beta"], rtol=1e-6)
    np.testing.assert_allclose(c.sds(["beta"])["laplace"], known.sd["beta"], rtol=1e-6)
    assert c.sds()["map"].isna().all()
    covariances = c.covariances(["beta"])
    assert set(covariances) == {"laplace", "nuts"}  # a point has none
    np.testing.assert_allclose(covariances["laplace"], known.cov, rtol=1e-6)
    correlation = c.correlations(["beta"])["laplace"]
    np.testing.assert_allclose(np.diag(correlation), 1.0)
    expected = known.cov[0, 1] / np.prod(known.sd["beta"])
    np.testing.assert_allclose(correlation.loc["beta[0]", "beta[1]"], expected, rtol=1e-6)


def test_unknown_sites_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown site.*gamma.*beta"):
        compared().means(["gamma"])


def test_the_sampler_is_the_reference_by_default() -> None:
    c = compared()
    assert c.reference_name == "nuts"
    assert c.reference is c["nuts"]
    accuracy = c.accuracy(["beta"])
    assert set(accuracy.index.get_level_values("method")) == {"map", "laplace"}


def test_accuracy_is_in_reference_sds_with_its_error() -> None:
    c = compared()
    row = c.accuracy(["beta"]).loc[("beta[0]", "laplace")]
    reference = c["nuts"].summary(["beta"]).loc["beta[0]"]
    difference = (c["laplace"].mean()["beta"][0] - reference["mean"]) / reference["sd"]
    np.testing.assert_allclose(row["difference"], difference)
    error = reference["mcse_mean"] / reference["sd"]  # Laplace's own error is zero
    np.testing.assert_allclose(row["difference_mcse"], error)
    assert row["within_error"] == (abs(difference) <= 2 * error)
    # right answers: 2 scalars within 4.5 standard errors, 1e-5 that this fails
    assert (c.accuracy(["beta"])["difference"].abs() < 4.5 * error).all()


def test_timings_count_and_rate() -> None:
    timings = compared().timings()
    for speed_up, seconds in (("speed_up", "alone_seconds"), ("run_speed_up", "run_seconds")):
        assert timings.loc["nuts", speed_up] == 1.0
        np.testing.assert_allclose(
            timings.loc["map", speed_up],
            timings.loc["nuts", seconds] / timings.loc["map", seconds],
        )
    assert timings["gradient_evaluations"].gt(0).all()
    assert timings.loc["nuts", "ess_per_second"] > 0
    assert np.isnan(timings.loc["map", "ess_per_second"])
    np.testing.assert_allclose(
        timings["total_seconds"], timings["compile_seconds"] + timings["run_seconds"]
    )


def test_one_method_without_a_reference() -> None:
    c = vr.compare(target("linear_regression"), [vr.Laplace()])
    assert c.reference is None
    assert c.accuracy().empty
    assert c.timings().loc["laplace", "speed_up"] is np.nan or np.isnan(
        c.timings().loc["laplace", "speed_up"]
    )
    assert c.verdict_of["laplace"].trust is Trust.TRUSTWORTHY
    assert "by its own evidence" in c.verdict_of["laplace"].text


@pytest.mark.slow
def test_a_failure_is_a_row_without_numbers() -> None:
    methods = [vr.MAP(), vr.EM(e_step="closed_form"), vr.SVI(num_steps=500)]
    c = vr.compare(target("eight_schools"), methods)
    assert [c[n].status for n in ("map", "em")] == [
        vr.Status.DEGENERATE,
        vr.Status.NOT_APPLICABLE,
    ]
    assert c.means()[["map", "em"]].isna().all(axis=None)
    assert c.means()["svi"].notna().all()
    assert c.verdict_of["map"].text.startswith("No result")
    assert "map" not in c.covariances()
    with pytest.raises(vr.FitError, match="tau runs to"):
        c["map"].mean()


def test_when_every_method_fails_the_tables_still_stand() -> None:
    c = vr.compare(target("eight_schools"), [vr.MAP(), vr.Laplace()])
    assert c.means().isna().all(axis=None)
    assert c.covariances() == {}
    assert c.accuracy().empty
    assert len(c.diagnostics()) == 2


def test_any_method_or_fit_may_be_the_reference() -> None:
    by_name = vr.compare(target("linear_regression"), [vr.MAP(), vr.Laplace()], reference="laplace")
    assert by_name.reference_name == "laplace"
    outside = by_name["laplace"].renamed("published")
    c = vr.compare(target("linear_regression"), [vr.MAP()], reference=outside)
    assert list(c.means().columns) == ["map", "published"]
    mode_is_mean = c.accuracy(["beta"])["difference"]
    np.testing.assert_allclose(mode_is_mean, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("methods", "options", "match"),
    [
        ([], {}, "none given"),
        ([vr.MAP(), vr.MAP(space="unconstrained")], {}, "more than one is named map"),
        (["map"], {}, "got 'map', expected a method"),
        ({"a b": vr.MAP()}, {}, "the name 'a b'"),
        ([vr.MAP()], {"reference": "nuts"}, "reference: got 'nuts'.*map"),
    ],
)
def test_bad_methods(methods: list, options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.compare(target("linear_regression"), methods, **options)


def test_adding_a_method_changes_no_other() -> None:
    small = vr.SVI(num_steps=300)
    alone = vr.compare(target("linear_regression"), [small], key=5)
    beside = vr.compare(target("linear_regression"), [vr.MAP(), small], key=5)
    np.testing.assert_array_equal(alone["svi"].mean()["beta"], beside["svi"].mean()["beta"])
    other = vr.compare(target("linear_regression"), [small], key=6)
    assert not np.array_equal(alone["svi"].mean()["beta"], other["svi"].mean()["beta"])


def test_a_bad_reference_is_a_warning() -> None:
    short = vr.NUTS(num_warmup=5, num_samples=20, num_chains=2)
    c = vr.compare(target("linear_regression"), [vr.Laplace(), short])
    assert c["nuts"].status is vr.Status.UNCONVERGED
    assert len(c.warnings) == 1
    assert "did not meet its own convergence criteria" in c.warnings[0]
    assert compared().warnings == []


def test_saved_comparisons_come_back(tmp_path: Path) -> None:
    c = compared()
    c.save(tmp_path)
    back = vr.Comparison.load(tmp_path)
    assert list(back) == list(c)
    assert back.reference_name == "nuts"
    assert back.notes == c.notes
    c.notes.append(Note("Fitted by workers: all.", NoteKind.SIDE_BY_SIDE))
    write_header(c, tmp_path)
    told = vr.Comparison.load(tmp_path).notes
    assert of_kind(told, NoteKind.SIDE_BY_SIDE) == ["Fitted by workers: all."]
    assert of_kind(told, NoteKind.OTHER) == back.notes
    assert of_kind(pickle.loads(pickle.dumps(c.notes)), NoteKind.SIDE_BY_SIDE) == told[-1:]
    for table in ("means", "sds"):
        np.testing.assert_allclose(getattr(back, table)(), getattr(c, table)(), equal_nan=True)
    np.testing.assert_allclose(
        back.covariances()["laplace"], c.covariances()["laplace"], rtol=1e-12
    )
    assert back.verdict_of == c.verdict_of
    with pytest.raises(ValueError, match="no saved comparison"):
        vr.Comparison.load(tmp_path / "elsewhere")


def test_an_interrupt_keeps_what_is_done_also_on_disk(tmp_path: Path) -> None:
    @contextmanager
    def progress(title: str):
        def report(done: int, total: int, text: str = "") -> None:
            if title == "svi":
                raise KeyboardInterrupt

        yield report

    methods = [vr.Laplace(), vr.SVI(), vr.NUTS()]
    c = vr.compare(target("linear_regression"), methods, path=tmp_path, progress=progress)
    assert c.interrupted
    assert list(c) == ["laplace", "svi"]  # nothing is begun after the interrupt
    assert c["laplace"].status is vr.Status.OK
    assert c["svi"].status is vr.Status.INTERRUPTED
    left = "Not begun when the run was interrupted: nuts."
    assert left in c.remarks
    back = vr.Comparison.load(tmp_path)
    assert back.interrupted
    assert left in back.remarks
    assert back.left == c.left == MethodsLeft(("nuts",), sure=True)
    assert back.add(c["laplace"], "nuts").left == MethodsLeft()  # there is one now
    np.testing.assert_array_equal(back["laplace"].mean()["beta"], c["laplace"].mean()["beta"])


def test_an_interrupt_between_two_methods_names_those_that_were_not_begun(tmp_path: Path) -> None:
    """And takes up what an earlier comparison has of them, though it is after what is new."""

    @contextmanager
    def progress(title: str):
        if title == "svi":
            raise KeyboardInterrupt
        yield silent

    this, kept = target("linear_regression"), {"path": tmp_path, "assessed": False}
    vr.compare(this, "laplace", **kept)
    c = vr.compare(this, "map,svi,laplace,nuts", progress=progress, **kept)
    assert c.interrupted
    assert list(c) == ["map", "laplace"]
    left = "Not begun when the run was interrupted: svi, nuts."
    assert left in c.remarks
    assert compose(c).warnings[0].endswith(f"is here. {left}")
    assert list(vr.Comparison.load(tmp_path)) == ["map", "laplace"]


def test_a_run_that_is_killed_names_what_it_has_no_fit_of(tmp_path: Path) -> None:
    """Its process writes nothing any more: the folder is as it was after the last fit."""

    class Killed(BaseException):
        pass

    @contextmanager
    def progress(title: str):
        if title == "laplace":
            raise Killed
        yield silent

    with pytest.raises(Killed):
        vr.compare(target("linear_regression"), "map,laplace", path=tmp_path, progress=progress)
    left = ["Not begun, or not done, when the run was interrupted: laplace."]
    assert vr.Comparison.load(tmp_path).remarks == left


@pytest.mark.slow
def test_labels_are_matched_and_the_report_says_so() -> None:
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-3, 1, 40), rng.normal(3, 1, 60)])

    def mixture(y):
        weight = numpyro.sample("weight", dist.Dirichlet(np.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        with numpyro.plate("point", len(y)):
            component = dist.Normal(mu, 1.0)
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), component), obs=y)

    def model(order: list[int]) -> vr.Model:
        return vr.Model(
            function=mixture,
            name="mixture",
            init=lambda key, y: {"weight": [0.5, 0.5], "mu": np.array([-3.0, 3.0])[order]},
            exchangeable=(vr.Exchangeable(sites={"weight": 0, "mu": 0}),),
        )

    reference = vr.Laplace().fit(vr.Target(model([1, 0]), y=y)).renamed("swapped")
    c = vr.compare(vr.Target(model([0, 1]), y=y), [vr.Laplace()], reference=reference)
    np.testing.assert_allclose(c.accuracy()["difference"], 0.0, atol=1e-6)
    np.testing.assert_allclose(c.accuracy()["sd_ratio"], 1.0, rtol=1e-6)
    first, second = c.covariances(["mu"])["laplace"], c.covariances(["mu"])["swapped"]
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert any("exchangeable" in note for note in c.notes)
    assert any("laplace: components taken in the order [1, 0]" in note for note in c.notes)


@pytest.mark.parametrize(
    ("centres", "named", "told"),
    [(0.0, (), True), (np.array([-1.0, 1.0]), (), False), (0.0, ("weight", "mu"), False)],
)
def test_a_comparison_tells_components_that_a_model_does_not_declare_exchangeable(
    centres: Any, named: tuple[str, ...], told: bool
) -> None:
    def mixture(y: Any) -> None:
        weight = numpyro.sample("weight", dist.Dirichlet(np.ones(2)))
        numpyro.sample("other", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with numpyro.plate("component", 2):
            mu = numpyro.sample("mu", dist.Normal(centres, 5.0))
        with numpyro.plate("point", len(y)):
            parts = dist.Normal(mu, 1.0)
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(weight), parts), obs=y)

    groups = (vr.Exchangeable(sites=dict.fromkeys(named, 0)),) if named else ()
    model = vr.Model(function=mixture, name="mixture", exchangeable=groups)
    y = np.array([-4.1, -3.2, -2.9, -3.6, 2.2, 3.1, 2.7, 3.9, 3.3])
    c = vr.compare(vr.Target(model, y=y), "laplace,meanfield" if told else "laplace")
    said = "Model(exchangeable=[Exchangeable(sites={'weight': 0, 'mu': 0})])"
    assert any(said in note for note in c.notes) == told
    assert (said in str(c.recommend())) == told  # mean field has seen the other order


def test_a_fit_that_is_misnamed_is_told_the_names_there_are() -> None:
    c = compared()
    with pytest.raises(KeyError, match=r"unknown fit 'laplce'; did you mean 'laplace'\? Known: "):
        c["laplce"]
    assert c.get("laplce") is None


def test_verdicts_on_clear_cases() -> None:
    c = compared()
    assert c.verdict_of["laplace"].text.startswith("Trustworthy")
    assert c.verdict_of["nuts"].text.startswith("The reference: it met its own criteria")
    assert c.verdict_of["map"].text.startswith("A point, without spread: close to the means")
    narrow = vr.compare(target("linear_regression"), [vr.SVI(num_steps=4_000), SAMPLER])
    # the two coefficients have correlation -0.87: mean field halves their sds
    said = narrow.verdict_of["svi"].text
    assert "understates uncertainty" in said
    assert not said.startswith("Trustworthy")
    alone = replace(c["laplace"], assessment=None)
    assert "its draws were not weighed" in judge(alone).text


def forgotten(y: np.ndarray) -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a, 1.0))


def test_data_that_nothing_is_held_against_are_noted() -> None:
    c = vr.compare(vr.Target(forgotten, y=np.arange(3.0)), [vr.MAP()])
    assert "The model has data, and no site with obs=...: what is fitted is its prior." in c.notes
