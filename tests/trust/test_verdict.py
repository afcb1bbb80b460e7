"""Verdicts: what measures whom, what is held against a fit, and that every sentence is true."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.comparison import tables
from vi_recipes.comparison.comparison import choose_reference
from vi_recipes.methods.base import Result
from vi_recipes.posterior.draws import DrawsPosterior, MomentsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior
from vi_recipes.trust.measured import Trust, measure
from vi_recipes.trust.verdict import audit, judge, unfit, verdict


def firm(cost: Any, share: Any) -> None:
    level = numpyro.sample("level", dist.Normal(0.0, 1e7))
    s = numpyro.sample("s", dist.Normal(0.0, 1.0))
    numpyro.sample("cost", dist.Normal(level, 1e6), obs=cost)
    numpyro.sample("share", dist.Normal(s, 1e-4), obs=share)


@cache
def target() -> vr.Target:
    rng = np.random.default_rng(0)
    cost = 3e6 + 1e6 * rng.standard_normal(25)
    return vr.Target(firm, cost=cost, share=0.4 + 1e-4 * rng.standard_normal(25))


@cache
def laplace() -> vr.Fit:
    fit = vr.Laplace().fit(target(), throw=True)
    return replace(fit, assessment=vr.assess(fit, target()))


@cache
def chains() -> vr.Fit:
    """Two chains that have not found the level, a million sds of their start away."""
    return vr.NUTS(num_warmup=50, num_samples=100, num_chains=2, max_tree_depth=5).fit(target())


def beside(reference: vr.Fit, *fits: vr.Fit) -> vr.Comparison:
    return vr.Comparison(
        {f.method: f for f in (*fits, reference)},
        reference=reference,
        reference_name=reference.method,
    )


def test_a_broken_reference_measures_nobody() -> None:
    """Laplace is exact here; the closed form is that of a normal mean with a known sd."""
    v = 1 / (1e-14 + 25e-12)
    cost = np.asarray(target().data["cost"])
    assert laplace().mean()["level"] == pytest.approx(v * cost.sum() / 1e12, rel=1e-6)
    assert laplace().sd()["level"] == pytest.approx(np.sqrt(v), rel=1e-6)
    assert chains().diagnostics["r_hat_max"] > 1.1
    c = beside(chains(), laplace(), vr.MAP().fit(target()))
    said = c.verdict_of
    assert said["laplace"].trust is Trust.TRUSTWORTHY
    assert said["laplace"].text.startswith("Trustworthy by its own evidence: ")
    assert "Not held against it, as nuts measures nobody: means differ by" in said["laplace"].text
    assert said["map"].trust is Trust.UNKNOWN
    assert said["nuts"].trust is Trust.UNTRUSTED
    assert "which measures nobody. Not to be trusted: its chains do not agree" in said["nuts"].text
    assert not c.measures
    assert "shown and not held against it" in c.warnings[0]
    for table in (tables.means(c), tables.accuracy(c)):
        assert {cell.flag for row in table.rows for cell in row} == {""}
        assert "Marked" not in table.note


def with_diagnostics(**diagnostics: float) -> vr.Fit:
    """Chains with such an audit, which is all that is asked of them."""
    return replace(chains(), diagnostics={**chains().diagnostics, **diagnostics})


HEALTHY = {"r_hat_max": 1.03, "ess_bulk_min": 300.0, "ess_tail_min": 300.0}


@pytest.mark.parametrize(
    ("changed", "trust", "about"),
    [
        ({}, Trust.CARE, "its own diagnostics do not vouch for it"),
        ({"r_hat_max": 1.11}, Trust.UNTRUSTED, "its chains do not agree (R-hat up to 1.11"),
        ({"r_hat_max": np.nan}, Trust.UNTRUSTED, "its chains do not agree (no R-hat)"),
        ({"ess_bulk_min": 60.0}, Trust.UNTRUSTED, "effectively 60 draws"),
        ({"ess_tail_min": 99.0}, Trust.UNTRUSTED, "effectively 99 draws"),
        ({"ess_bulk_min": np.nan}, Trust.UNTRUSTED, "too few to tell"),
    ],
)
def test_when_chains_stand(changed: dict[str, float], trust: Trust, about: str) -> None:
    fit = with_diagnostics(**{**HEALTHY, **changed})
    assert judge(fit).trust is trust
    assert about in judge(fit).text
    assert (unfit(fit) == "") == (trust is Trust.CARE)
    assert ("measures nobody" in audit(fit)[0]) == (trust is not Trust.CARE)


def test_one_chain_is_told_by_its_halves() -> None:
    samples = {"level": np.zeros(()), "s": np.zeros(())}
    rng = np.random.default_rng(0)
    for drift, trust in ((0.0, Trust.CARE), (5.0, Trust.UNTRUSTED)):
        values = rng.standard_normal((1, 800)) + drift * (np.arange(800) > 400)
        posterior = DrawsPosterior(dict.fromkeys(samples, values))
        stats = {name: value[:1] for name, value in chains().sample_stats.items()}
        one = replace(
            with_diagnostics(**{**HEALTHY, "r_hat_max": np.nan}),
            posterior=posterior,
            sample_stats=stats,
        )
        assert judge(one).trust is trust
        assert ("the halves of its one chain do not agree" in judge(one).text) == (drift > 0)


def test_the_reference_among_several_samplers_is_one_that_stands() -> None:
    good = with_diagnostics(**HEALTHY).renamed("longer")
    _, name = choose_reference({"nuts": chains(), "longer": good}, None)
    assert name == "longer"
    assert choose_reference({"nuts": chains()}, None)[1] == "nuts"


def test_a_point_is_no_reference() -> None:
    point = vr.MAP().fit(target())
    for reference in (point, "map"):
        with pytest.raises(ValueError, match="reference: 'map' is a point"):
            vr.compare(target(), [vr.MAP(), vr.Laplace()], reference=reference)
    with pytest.raises(ValueError, match="reference: 'svi_delta' is a point"):
        vr.compare(target(), [vr.SVI(guide="delta")], reference="svi_delta")
    means = {"parameters": {"level": {"mean": 3e6}, "s": {"mean": 0.4}}}
    with pytest.raises(ValueError, match="'reference' is a point"):
        vr.compare(target(), [vr.Laplace()], reference=vr.load_reference(means, target()))
    said = beside(point, laplace()).verdict_of  # a point that is known for one when it is done
    assert said["laplace"].trust is Trust.TRUSTWORTHY
    assert said["map"].text.startswith("The reference, which measures nobody. Cannot be told")


def answers(error: float) -> vr.Fit:
    """The right answers, with errors of so many sds."""
    mean, sd = laplace().mean(), laplace().sd()
    content = {
        name: {"mean": float(mean[name]), "sd": float(sd[name]), "mcse": error * float(sd[name])}
        for name in mean
    }
    return vr.load_reference({"parameters": content}, target())


@pytest.mark.parametrize(("error", "trust"), [(0.05, Trust.TRUSTWORTHY), (0.2, Trust.CARE)])
def test_what_is_not_known_vouches_for_nobody(error: float, trust: Trust) -> None:
    said = beside(answers(error), laplace()).verdict_of["laplace"]
    assert said.trust is trust
    assert said.text.startswith(f"{trust.lead} by the reference: ")
    assert ("known to 0.2 sds only" in said.text) == (trust is Trust.CARE)


@pytest.mark.parametrize(
    ("ess", "num_rounds", "trust"),
    [
        (3_000.0, 0, Trust.TRUSTWORTHY),
        (2_999.0, 0, Trust.CARE),
        (2_000.0, 3, Trust.TRUSTWORTHY),
        (1_999.0, 3, Trust.CARE),
    ],
)
def test_few_draws_that_count_make_nobody_trustworthy(
    ess: float, num_rounds: int, trust: Trust
) -> None:
    """A fit that is exact is measured by weights of which few matter: of draws that are its own,
    which are blind to what it lacks, more must."""
    fit = laplace()
    assert fit.assessment is not None
    correction = fit.assessment.correction
    assert correction is not None
    assert fit.assessment.num_draws == 4_000
    less = replace(correction, ess=ess, num_rounds=num_rounds)
    fit = replace(fit, assessment=replace(fit.assessment, correction=less))
    assert judge(fit).trust is trust
    doubt = f"fewer than {'2,000 of the' if num_rounds else '3,000 of its'} 4,000 draws count"
    assert (doubt in judge(fit).text) == (trust is Trust.CARE)


@pytest.mark.parametrize(
    ("off", "num_rounds", "trust"),
    [
        (0.08, 3, Trust.TRUSTWORTHY),
        (0.12, 3, Trust.CARE),
        (0.12, 0, Trust.TRUSTWORTHY),
        (0.16, 0, Trust.CARE),
    ],
)
@pytest.mark.parametrize("what", ["mean", "sd"])
def test_nobody_is_trustworthy_by_adapted_draws_within_their_error_alone(
    what: str, off: float, num_rounds: int, trust: Trust
) -> None:
    """The limits are 0.1 sds and 10 %, and twice the error told is 0.04."""
    fit = laplace()
    assert fit.assessment is not None
    correction = fit.assessment.correction
    assert correction is not None
    mean, sd = fit.mean(), fit.sd()
    moments = replace(
        correction.moments,
        mean={n: mean[n] + (off * sd[n] if what == "mean" else 0) for n in mean},
        sd={n: sd[n] * (1 + off if what == "sd" else 1) for n in sd},
        mcse_mean={n: 0.02 * sd[n] for n in sd},
        mcse_sd={n: 0.02 * sd[n] for n in sd},
    )
    measured = replace(correction, moments=moments, num_rounds=num_rounds)
    fit = replace(fit, assessment=replace(fit.assessment, correction=measured))
    said = judge(fit)
    assert said.trust is trust
    assert ("too near the limit to be called right" in said.text) == (
        off == 0.12 and num_rounds > 0
    )


def test_a_reference_that_is_wrong_by_its_own_evidence_measures_nobody() -> None:
    """One given as a fit is weighed first, and its verdict is on it."""
    away = replace(
        laplace(),
        posterior=GaussianPosterior(target(), np.array([3e6, 0.4]), None, np.array([1e3, 1e-7])),
        assessment=None,
        method="narrow",
    )
    c = vr.compare(target(), [vr.Laplace()], reference=away)
    assert c.verdict_of["laplace"].trust is Trust.TRUSTWORTHY
    assert not c.measures
    assert "measures nobody" in c.warnings[0]


def rows(difference: float, ratio: float, error: float = 0.0, own: float = 0.0) -> pd.DataFrame:
    both = float(np.hypot(error, own))
    of_means = {"difference": difference, "difference_mcse": both, "reference_mcse": error}
    of_sds = {"sd_ratio": ratio, "sd_ratio_mcse": both, "reference_sd_mcse": error}
    return pd.DataFrame({**of_means, **of_sds}, index=["x"])


@pytest.mark.parametrize(
    ("difference", "ratio", "error", "trust", "said"),
    [
        (0.05, 1.05, 0.01, Trust.TRUSTWORTHY, "Trustworthy here: means differ by at most 0.05"),
        (0.3, 1.0, 0.01, Trust.CARE, "Usable with care here: means differ"),
        (0.0, 0.8, 0.01, Trust.CARE, "Usable with care here, understates uncertainty: means"),
        (0.0, 0.4, 0.01, Trust.UNTRUSTED, "Not to be trusted here, understates uncertainty: "),
        (0.0, 2.5, 0.01, Trust.UNTRUSTED, "Not to be trusted here: means"),
        (0.9, 1.0, 0.01, Trust.UNTRUSTED, "Not to be trusted here: means differ by at most 0.9"),
        (0.3, 1.0, 0.2, Trust.CARE, "Usable with care here: known to 0.2 sds only; means differ"),
        (0.05, np.nan, 0.01, Trust.CARE, "A point, without spread: close to the means; means"),
        (0.9, np.nan, 0.01, Trust.UNTRUSTED, "A point, without spread: not the posterior means;"),
    ],
)
def test_every_sentence_of_differences(
    difference: float, ratio: float, error: float, trust: Trust, said: str
) -> None:
    found = measure(rows(difference, ratio, error), "reference")
    assert found is not None
    assert found.verdict("here").trust is trust
    assert found.verdict("here").text.startswith(said)


@pytest.mark.parametrize(("difference", "ratio"), [(0.16, 1.0), (0.0, 1.16), (0.0, 0.84)])
def test_nobody_is_forgiven_its_own_monte_carlo_error(difference: float, ratio: float) -> None:
    """What a fit is off is no less for its draws; what the reference is, nobody can tell."""
    for error, own, trust in ((0.05, 0.0, Trust.TRUSTWORTHY), (0.0, 0.05, Trust.CARE)):
        found = measure(rows(difference, ratio, error, own), "reference")
        assert found is not None
        assert found.trust is trust
    assert found.errors.known_to == pytest.approx(0.05)
    assert not found.errors.within_error


@pytest.mark.parametrize(("difference", "ratio"), [(0.65, 1.0), (0.0, 2.2), (0.0, 0.45)])
def test_nobody_is_less_wrong_for_its_own_monte_carlo_error(
    difference: float, ratio: float
) -> None:
    for error, own, trust in ((0.11, 0.0, Trust.CARE), (0.0, 0.11, Trust.UNTRUSTED)):
        found = measure(rows(difference, ratio, error, own), "reference")
        assert found is not None
        assert found.trust is trust


def test_rounding_is_next_to_nothing() -> None:
    found = measure(rows(4.4e-16, 1.0), "reference")
    assert found is not None
    assert "differ by at most 0.001 reference sds" in found.verdict("here").text
    assert str(found.errors).startswith("at worst its mean of x is less than 0.001 reference sds")
    assert "its sd of x 1.0 times the reference" in str(found.errors)


def test_a_verdict_does_not_contradict_itself() -> None:
    """A fit with right moments, of which a site is wrong alone, or that stopped too early."""
    assert laplace().assessment is not None
    blamed = replace(laplace(), assessment=replace(laplace().assessment, block_khat={"s": 2.3}))
    stopped = replace(laplace(), status=vr.Status.UNCONVERGED, message="too soon")
    for fit, lead in (
        (blamed, "Usable with care by its own evidence: khat is above 0.7 for s (2.30) alone"),
        (stopped, "Provisional (too soon). Usable with care by its own evidence: means"),
    ):
        assert judge(fit).trust is Trust.CARE
        assert judge(fit).text.startswith(lead)
        assert "rustworthy" not in judge(fit).text


def test_a_reference_to_be_used_with_care_makes_nobody_trustworthy() -> None:
    provisional = replace(
        with_diagnostics(**HEALTHY), posterior=laplace().posterior, message="R-hat up to 1.03"
    )
    said = beside(provisional, laplace()).verdict_of
    assert said["laplace"].trust is Trust.CARE
    assert "nuts is itself to be used with care" in said["laplace"].text
    assert said["nuts"].text == (
        "Provisional (R-hat up to 1.03). The reference: use it with caution. "
        "None of this sees a part of the posterior where no chain has been."
    )


def test_what_a_reference_shares_with_nobody() -> None:
    none = replace(
        answers(0.0),
        posterior=MomentsPosterior(
            {n: np.full((), np.nan) for n in ("level", "s")},
            {"level": np.full((), np.nan), "s": np.ones(())},
        ),
    )
    said = verdict(laplace(), beside(none, laplace()).accuracy(), reference=none)
    assert said.trust is Trust.TRUSTWORTHY
    assert said.text.endswith("It shares no parameter with the reference.")


def test_nobody_who_failed_is_told_to_do_the_same() -> None:
    class Runaway(vr.NUTS):
        def _fit(self, *_: Any) -> Any:
            return Result(GaussianPosterior(target(), np.array([np.inf, 0.0]), None, np.ones(2)))

    failed = Runaway().fit(target())
    assert failed.status is vr.Status.DIVERGED
    assert "NUTS" not in failed.advice
    assert "tighter prior" in failed.advice
