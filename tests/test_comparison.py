"""The comparison: its tables against figures worked out by hand, its reference, its verdicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, override

import jax
import numpy as np
import pandas as pd
import pytest
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.alignment import PermutedPosterior
from vi_recipes.methods.base import Result
from vi_recipes.posterior import MomentsPosterior, PointPosterior
from vi_recipes.status import MethodFailure
from vi_recipes.verdict import audit

NUTS = vr.NUTS(num_warmup=300, num_samples=400, num_chains=2)


@dataclass(frozen=True, kw_only=True)
class Scripted(vr.Method):
    """A method that does as it is told."""

    summary = "for tests"

    label: str = "scripted"
    error: type[BaseException] | None = None
    status: vr.Status = vr.Status.SINGULAR

    @property
    @override
    def name(self) -> str:
        return self.label

    @override
    def _fit(self, target: Any, key: jax.Array, timing: Any, progress: Any) -> Result:
        if self.error is not None:
            raise self.error("as told")
        raise MethodFailure(self.status, "as told", "tell it otherwise")


@cache
def precision() -> vr.Comparison:
    methods = [vr.MAP(), vr.Laplace(), Scripted(), vr.SVI(num_steps=2_000), NUTS]
    return vr.compare(target("normal_precision"), methods, key=5)


@cache
def mixtures() -> vr.Comparison:
    return vr.compare(target("mixture"), [vr.EM(), vr.MAP(), vr.Laplace(), NUTS], key=1)


# -- tables --------------------------------------------------------------------------------------


def test_it_is_a_mapping_in_the_order_given() -> None:
    c = precision()
    assert list(c) == ["map", "laplace", "scripted", "svi", "nuts"]
    assert len(c) == 5
    assert c["nuts"] is c.reference
    assert c.reference_name == "nuts"
    assert "scripted: SINGULAR" in repr(c)
    assert "<h4>Means</h4>" in c._repr_html_()


def test_means_and_sds() -> None:
    c = precision()
    for table, of in ((c.means(), vr.Fit.mean), (c.sds(), vr.Fit.sd)):
        assert list(table.index) == ["tau", "mu", "sigma"]
        assert list(table.columns) == list(c)
        for name in ("laplace", "nuts"):
            np.testing.assert_array_equal(table[name], c[name].flat(of(c[name])))
        assert table["scripted"].isna().all()
    assert c.sds()["map"].isna().all()
    assert list(c.means(["sigma", "tau"]).index) == ["sigma", "tau"]
    assert (c.mcses()["laplace"] == 0).all()
    assert (c.mcses_sd()["nuts"] > 0).all()


def test_covariances_and_correlations() -> None:
    c = precision()
    covariances, correlations = c.covariances(["mu", "tau"]), c.correlations(["mu", "tau"])
    assert list(covariances) == list(correlations) == ["laplace", "svi", "nuts"]  # not points
    for name, cov in covariances.items():
        pd.testing.assert_frame_equal(cov, c[name].cov(["mu", "tau"]))
        sd = c.sds(["mu", "tau"])[name]
        np.testing.assert_allclose(np.diag(correlations[name]), 1, rtol=1e-10)
        np.testing.assert_allclose(correlations[name], cov / np.outer(sd, sd), rtol=1e-5, atol=1e-9)


def test_too_large_a_covariance_is_refused() -> None:
    sites = target("eight_schools").quantities
    wide = replace(sites[2], shape=(250,), dims=("row",))
    posterior = MomentsPosterior({"theta": np.zeros(250)}, {"theta": np.ones(250)})
    fit = vr.Fit(method="wide", status=vr.Status.OK, sites=(wide,), posterior=posterior,
                 coords={"row": np.arange(250)})  # fmt: skip
    with pytest.raises(ValueError, match=r"250 scalars .* at most 200"):
        vr.Comparison({"wide": fit}).covariances()


def test_timings() -> None:
    c, table = precision(), precision().timings()
    assert list(table.index) == list(c)
    nuts = c["nuts"]
    assert table.loc["nuts", "speed_up"] == 1
    assert table.loc["laplace", "speed_up"] == pytest.approx(
        nuts.timing.total_seconds / c["laplace"].timing.total_seconds
    )
    smallest = min(v.min() for v in nuts.convergence()["ess_bulk"].values())
    assert table.loc["nuts", "ess_per_second"] == pytest.approx(smallest / nuts.timing.run_seconds)
    assert table["ess_per_second"].drop("nuts").isna().all()
    assert (table["total_seconds"] == table["compile_seconds"] + table["run_seconds"]).all()
    assert table.loc["scripted", "status"] == "SINGULAR"
    assert table.loc["laplace", "hvp_evaluations"] > 0


def test_diagnostics() -> None:
    table = precision().diagnostics()
    assert table.loc["scripted", "message"] == "as told"
    assert table.loc["scripted", "advice"] == "tell it otherwise"
    assert np.isnan(table.loc["scripted", "log_evidence"])
    evidence = precision()["laplace"].log_evidence
    assert evidence is not None
    assert table.loc["laplace", "log_evidence"] == evidence.value
    assert {"r_hat_max", "newton_decrement", "elbo"} <= set(table.columns)
    likelihood = mixtures().diagnostics().loc["em", "log_likelihood"]
    assert likelihood == mixtures()["em"].log_likelihood


def made(name: str, mean: Any, sd: Any, mcse: Any = 0.0, mcse_sd: Any = 0.0) -> vr.Fit:
    """Return a fit of ``beta`` (2) and ``contrast`` with the moments given, in that order."""

    def split(v: Any) -> dict[str, np.ndarray]:
        v = np.broadcast_to(np.asarray(v, float), (3,))
        return {"beta": v[:2], "contrast": v[2]}

    return vr.Fit(
        method=name,
        status=vr.Status.OK,
        sites=target("linear_regression").quantities,
        coords=target("linear_regression").coords,
        posterior=MomentsPosterior(
            split(mean), split(sd), mcse_means=split(mcse), mcse_sds=split(mcse_sd)
        ),
    )


REFERENCE = made("nuts", [1.0, 2.0, -3.0], [0.5, 2.0, 1.0], 0.03, 0.02)


def compared(*fits: vr.Fit, reference: vr.Fit | None = REFERENCE) -> vr.Comparison:
    named = {f.method: f for f in fits}
    return vr.Comparison(
        named, reference=reference, reference_name=reference.method if reference else None
    )


def test_accuracy_by_hand() -> None:
    fit = made("vb", [1.08, 2.0, -2.0], [0.4, 2.0, 3.0], [0.04, 0.0, 0.0], [0.0, 0.0, 0.1])
    table = compared(fit, REFERENCE).accuracy()
    assert table.index.names == ["parameter", "method"]
    assert list(table.index) == [("beta[0]", "vb"), ("beta[1]", "vb"), ("contrast", "vb")]
    np.testing.assert_allclose(table["difference"], [0.08 / 0.5, 0.0, 1.0])
    joint = [np.hypot(0.03, 0.04) / 0.5, 0.03 / 2, 0.03]
    np.testing.assert_allclose(table["difference_mcse"], joint)
    assert table["within_error"].tolist() == [True, True, False]
    np.testing.assert_allclose(table["sd_ratio"], [0.8, 1.0, 3.0])
    # the error of a / b: hypot(error of a, ratio * error of b) / b
    errors = [0.8 * 0.02 / 0.5, 0.02 / 2, np.hypot(0.1, 3 * 0.02)]
    np.testing.assert_allclose(table["sd_ratio_mcse"], errors)
    assert list(compared(fit).accuracy(["contrast"]).index) == [("contrast", "vb")]


def test_accuracy_without_a_reference_is_empty() -> None:
    table = compared(made("vb", 0.0, 1.0), reference=None).accuracy()
    assert table.empty
    assert list(table.columns) == [
        "difference", "difference_mcse", "sd_ratio", "sd_ratio_mcse", "within_error",
    ]  # fmt: skip


def test_constants_have_no_accuracy() -> None:
    reference = made("nuts", 1.0, [0.0, 1.0, 1.0])
    table = compared(made("vb", 1.0, [0.0, 1.0, 1.0]), reference=reference).accuracy()
    assert table["difference"].isna().tolist() == [True, False, False]


# -- reference -----------------------------------------------------------------------------------


def test_without_nuts_there_is_no_reference() -> None:
    c = vr.compare(target("linear_regression"), [vr.MAP(), vr.Laplace()])
    assert c.reference is None
    assert c.reference_name is None
    assert c.warnings == []
    assert c.timings()["speed_up"].isna().all()
    assert "no reference" in c.verdicts()["laplace"]


def test_one_method_is_enough() -> None:
    c = vr.compare(target("linear_regression"), [vr.Laplace()])
    assert list(c.means().columns) == ["laplace"]
    assert c.accuracy().empty


def test_a_reference_by_name() -> None:
    c = vr.compare(target("linear_regression"), [vr.Laplace(), vr.MAP()], reference="laplace")
    assert c.reference is c["laplace"]
    table = c.accuracy()
    assert set(table.index.get_level_values("method")) == {"map"}
    beta = table.xs("map", level="method").loc[["beta[0]", "beta[1]"], "difference"]
    np.testing.assert_allclose(beta, 0, atol=1e-6)  # Gaussian: mode and mean are one


def test_a_reference_from_outside() -> None:
    outside = replace(vr.Laplace().fit(target("linear_regression")), method="exact")
    c = vr.compare(target("linear_regression"), [vr.MAP()], reference=outside)
    assert list(c) == ["map"]
    assert c.reference_name == "exact"
    assert list(c.means().columns) == ["map", "exact"]
    assert list(c.timings().index) == ["map"]


def test_a_reference_of_the_same_name_is_kept_apart() -> None:
    outside = vr.Laplace().fit(target("linear_regression"))
    c = vr.compare(target("linear_regression"), [vr.Laplace()], reference=outside)
    assert list(c.means().columns) == ["laplace", "laplace_reference"]
    table = c.accuracy()
    assert set(table.index.get_level_values("method")) == {"laplace"}
    np.testing.assert_allclose(table["difference"], 0, atol=1e-9)


def test_a_reference_that_failed_is_none() -> None:
    c = vr.compare(target("linear_regression"), [vr.MAP(), Scripted()], reference="scripted")
    assert c.reference is None


def test_bad_references() -> None:
    this = target("linear_regression")
    with pytest.raises(ValueError, match=r"reference: got 'nuts', expected one of .*: map"):
        vr.compare(this, [vr.MAP()], reference="nuts")
    with pytest.raises(ValueError, match=r"reference: the fit has no numbers.*as told"):
        vr.compare(this, [vr.MAP()], reference=Scripted().fit(this))
    with pytest.raises(ValueError, match="reference: it is of a model with the sites"):
        vr.compare(this, [vr.MAP()], reference=vr.Laplace().fit(target("normal_mean")))


def test_a_bad_reference_is_a_warning() -> None:
    bad = replace(REFERENCE, status=vr.Status.UNCONVERGED, message="R-hat up to 1.300")
    c = compared(made("vb", 0.0, 1.0), bad)
    assert c.warnings == []  # the reference is another
    [warning] = compared(made("vb", 0.0, 1.0), reference=bad).warnings
    assert audit(bad) == [warning]
    assert "R-hat up to 1.300" in warning
    assert compared(made("vb", 0.0, 1.0)).warnings == []


# -- methods, seeds and failures -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("methods", "match"),
    [
        ([], "none given"),
        ([vr.MAP(), vr.MAP(space="unconstrained")], "more than one is named map; give a mapping"),
        ([vr.MAP], r"methods: got <class .*expected a method such as vi_recipes\.NUTS\(\)"),
        ({"a/b": vr.MAP()}, "the name 'a/b' must be letters"),
        ({"": vr.MAP()}, "the name '' must be letters"),
    ],
)
def test_bad_methods(methods: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.compare(target("linear_regression"), methods)


def test_a_mapping_names_two_of_a_kind() -> None:
    methods = {"one": vr.MAP(), "two": vr.MAP(space="unconstrained")}
    c = vr.compare(target("normal_precision"), methods)
    assert c["one"].method == "one"
    assert c["one"].mean()["tau"] < c["two"].mean()["tau"]
    assert any("one is the mode of the density over the constrained" in n for n in c.notes)
    assert any("two is the mode of the density over the unconstrained" in n for n in c.notes)


def test_another_method_changes_none_of_the_others() -> None:
    this = target("normal_precision")
    svi = vr.SVI(num_steps=200)
    few = vr.compare(this, {"a": svi, "b": svi}, key=3)
    more = vr.compare(this, {"first": vr.MAP(), "b": svi, "between": vr.Laplace(), "a": svi}, key=3)
    for name in ("a", "b"):
        np.testing.assert_array_equal(few.means()[name], more.means()[name])
    assert (few.means()["a"] != few.means()["b"]).all()  # each name has a stream of its own
    other = vr.compare(this, {"a": svi}, key=4)
    assert (few.means()["a"] != other.means()["a"]).all()
    assert few["a"].provenance.seed == 3


def test_a_method_that_raises_is_a_row() -> None:
    methods = [Scripted(error=RuntimeError), vr.Laplace()]
    c = vr.compare(target("linear_regression"), methods)
    assert c["scripted"].status is vr.Status.FAILED
    assert "RuntimeError" in c["scripted"].message
    assert "as told" in c["scripted"].message
    assert c["laplace"].status is vr.Status.OK
    assert not c.interrupted
    with pytest.raises(RuntimeError, match="as told"):
        methods[0].fit(target("linear_regression"), throw=True)


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    methods = [vr.Laplace(), Scripted(error=KeyboardInterrupt), vr.MAP()]
    c = vr.compare(target("linear_regression"), methods, path=tmp_path)
    assert c.interrupted
    assert list(c) == ["laplace", "scripted"]
    assert c["laplace"].status is vr.Status.OK
    assert c["scripted"].status is vr.Status.INTERRUPTED
    assert not c["scripted"].has_result
    again = vr.Comparison.load(tmp_path)
    assert again.interrupted
    assert again["laplace"].status is vr.Status.OK


def test_what_is_done_is_on_disk_at_once(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    @dataclass(frozen=True, kw_only=True)
    class Looks(Scripted):
        @override
        def _fit(self, target: Any, key: jax.Array, timing: Any, progress: Any) -> Result:
            seen.append(sorted(p.name for p in (tmp_path / "fits").iterdir()))
            return super()._fit(target, key, timing, progress)

    vr.compare(target("linear_regression"), [vr.MAP(), vr.Laplace(), Looks()], path=tmp_path)
    assert seen == [["laplace.nc", "map.nc"]]
    assert sorted(p.name for p in (tmp_path / "fits").iterdir()) == [
        "laplace.nc", "map.nc", "scripted.nc",
    ]  # fmt: skip


def test_a_target_without_a_density_fails_once_and_early() -> None:
    import numpyro
    import numpyro.distributions as dist

    def model(y: Any) -> None:
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Exponential(rate), obs=y)

    with pytest.raises(ValueError, match="no finite density"):
        vr.compare(vr.Target(model, y=np.array([-1.0])), [vr.MAP(), vr.Laplace()])


def test_a_loaded_comparison_has_the_same_tables(tmp_path: Path) -> None:
    for name, c in {"precision": precision(), "mixtures": mixtures()}.items():
        c.save(tmp_path / name)
        again = vr.Comparison.load(tmp_path / name)
        assert list(again) == list(c)
        assert again.reference_name == c.reference_name
        assert again.notes == c.notes
        assert again.target_name == c.target_name
        for table in ("means", "sds", "mcses", "timings", "diagnostics", "accuracy"):
            mine, theirs = getattr(c, table)(), getattr(again, table)()
            pd.testing.assert_frame_equal(mine, theirs, rtol=1e-9)
        assert again.verdicts() == c.verdicts()
    with pytest.raises(ValueError, match="no saved comparison here"):
        vr.Comparison.load(tmp_path)


# -- labels --------------------------------------------------------------------------------------


def test_components_are_aligned_with_the_reference() -> None:
    c = mixtures()
    means = c.means()
    assert means.loc["mu[0]", "nuts"] != pytest.approx(means.loc["mu[1]", "nuts"], abs=1)
    for name in ("em", "map", "laplace"):
        # one component is at -2 and one at 2.5
        np.testing.assert_allclose(means[name], means["nuts"], atol=0.3)
    assert "Components of mu are exchangeable" in " ".join(c.notes)


def test_a_permutation_is_made_and_said() -> None:
    this = target("mixture")
    laplace = vr.Laplace().fit(this, key=1)
    assert laplace.posterior is not None
    swapped = replace(
        laplace,
        method="swapped",
        posterior=PermutedPosterior(laplace.posterior, this.exchangeable, (np.array([1, 0]),)),
    )
    for reference in (laplace.renamed("other"), swapped):
        c = vr.compare(this, [vr.Laplace()], reference=reference, key=0)
        np.testing.assert_allclose(c.means()["laplace"], c.means()[reference.method], rtol=1e-6)
        np.testing.assert_allclose(c.sds()["laplace"], c.sds()[reference.method], rtol=1e-6)
        cov = c.covariances()
        np.testing.assert_allclose(cov["laplace"], cov[reference.method], rtol=1e-6, atol=1e-12)
        assert abs(c.accuracy()["difference"]).max() < 1e-6
    # one of the two references has the labels the other way, so one was permuted
    notes = [
        vr.compare(this, [vr.Laplace()], reference=r).notes for r in (laplace.renamed("o"), swapped)
    ]
    assert sum(any("taken in the order" in n for n in group) for group in notes) == 1


# -- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "sd", "words"),
    [
        ([1.0, 2.0, -3.0], [0.5, 2.0, 1.0], "Trustworthy here"),
        ([1.02, 2.0, -3.0], [0.52, 1.95, 1.0], "Trustworthy here"),
        ([1.2, 2.0, -3.0], [0.5, 2.0, 1.0], "Usable with care"),
        ([3.0, 2.0, -3.0], [0.5, 2.0, 1.0], "Not to be trusted here"),
        ([1.0, 2.0, -3.0], [0.5, 2.0, 0.6], "Usable with care, understates uncertainty"),
        ([1.0, 2.0, -3.0], [0.5, 2.0, 0.1], "Not to be trusted here, understates uncertainty"),
        ([1.0, 2.0, -3.0], [0.5, 2.0, 5.0], "Not to be trusted here:"),
    ],
)
def test_verdicts_on_clear_cases(mean: Any, sd: Any, words: str) -> None:
    assert compared(made("vb", mean, sd), REFERENCE).verdicts()["vb"].startswith(words)


def test_the_verdict_names_the_worst_parameter() -> None:
    said = compared(made("vb", [1.0, 2.0, 0.0], [0.5, 2.0, 1.0])).verdicts()["vb"]
    assert "at most 3 reference sd" in said
    assert "at contrast" in said


def test_monte_carlo_error_is_not_held_against_a_method() -> None:
    noisy = made("vb", [1.4, 2.0, -3.0], [0.5, 2.0, 1.0], mcse=0.25)  # 0.8 sd off, error 0.5 sd
    assert compared(noisy).verdicts()["vb"].startswith("Trustworthy here")
    exact = made("vb", [1.4, 2.0, -3.0], [0.5, 2.0, 1.0])
    assert compared(exact).verdicts()["vb"].startswith("Not to be trusted")


def test_verdicts_on_what_is_not_an_ordinary_fit() -> None:
    point = replace(REFERENCE, method="map", posterior=PointPosterior(REFERENCE.mean()))
    failed = replace(REFERENCE, method="laplace", status=vr.Status.SINGULAR, message="flat")
    halfway = replace(REFERENCE, method="svi", status=vr.Status.UNCONVERGED, message="still rising")
    said = compared(point, failed, halfway, REFERENCE).verdicts()
    assert said["map"].startswith("A point, without spread: close to the means")
    assert said["laplace"].startswith("No result: ")
    assert "flat" in said["laplace"]
    assert said["svi"].startswith("Provisional (still rising)")
    assert "Trustworthy here" in said["svi"]
    assert said["nuts"].startswith("The reference: it met its own criteria")
    shifted = replace(point, posterior=PointPosterior(made("x", 9.0, 1.0).mean()))
    assert "not the posterior means" in compared(shifted).verdicts()["map"]


def test_verdicts_of_real_fits() -> None:
    said = precision().verdicts()
    assert set(said) == set(precision())
    assert said["laplace"].startswith(("Trustworthy", "Usable"))
    field = vr.compare(target("linear_regression"), [vr.SVI(num_steps=4_000), NUTS]).verdicts()
    # the correlation of -0.87 halves the sds of mean field
    assert "understates uncertainty" in field["svi"]
