"""Posteriors without a mean or an sd: found by their draws, shown and judged by quantiles."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jsonschema
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes.comparison import tables
from vi_recipes.comparison.json import schema, to_json
from vi_recipes.fit import Correction
from vi_recipes.fit.differences import differences, moments_of
from vi_recipes.fit.tails import doubted, quantiles, tail_shapes, unsettled
from vi_recipes.posterior.draws import DrawsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior
from vi_recipes.trust.correct import _weighted, correct
from vi_recipes.trust.measured import Trust
from vi_recipes.trust.verdict import judge


def heavy() -> None:
    numpyro.sample("b", dist.Normal(1.0, 2.0))
    numpyro.sample("kappa", dist.HalfCauchy(50.0))


@cache
def target() -> vr.Target:
    return vr.Target(heavy)


KAPPA, B = stats.halfcauchy(scale=50), stats.norm(1.0, 2.0)


def chains(seed: int, name: str = "nuts") -> vr.Fit:
    """Exact and independent draws, as four chains that nothing is wrong with."""
    rng = np.random.default_rng(seed)
    samples = {
        "b": B.rvs((4, 1_000), random_state=rng),
        "kappa": KAPPA.rvs((4, 1_000), random_state=rng),
    }
    return vr.Fit(
        name,
        vr.Status.OK,
        "R-hat at most 1.0010",
        sites=target().quantities,
        coords=target().coords,
        posterior=DrawsPosterior(samples),
        diagnostics={"r_hat_max": 1.001, "ess_bulk_min": 4_000.0, "ess_tail_min": 4_000.0},
        sample_stats={"lp": np.zeros((4, 1_000))},
        kind="nuts",
    )


@pytest.mark.parametrize(
    ("law", "least", "most"),
    [
        (stats.halfcauchy(), 0.5, 1.6),  # k is 1
        (stats.t(1), 0.5, 1.6),
        (stats.invgamma(1), 0.5, 1.6),
        (stats.norm(), None, 0.5),
        (stats.expon(), None, 0.5),
        (stats.lognorm(1), None, 0.5),
        (stats.t(5), None, 0.5),
    ],
)
def test_which_draws_have_moments(law: Any, least: float | None, most: float) -> None:
    """By either tail. The sd of the estimate is (1 + k) / sqrt(190), 0.15 for k = 1."""
    for seed in range(5):
        drawn = law.rvs((4, 1_000, 1), random_state=seed)
        for sign in (1, -1):
            shape = tail_shapes({"x": sign * drawn})["x"][0]
            if least is None:
                assert np.isnan(shape) or shape < most
            else:
                assert least < shape < most


def test_ties_and_integers_are_no_tail() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.05, (4, 500))
    few = np.where(rng.random((4, 500)) < 0.01, 5.0, 0.0)
    assert set(tail_shapes({"n": counts, "x": few})) == {"n", "x"}
    assert not tail_shapes({"n": counts, "x": few})["x"] >= 0.7


def test_quantiles_with_their_errors() -> None:
    found = quantiles(chains(1), np.array([0, 1]))
    for k, law in enumerate((B, KAPPA)):
        below, above = law.ppf(stats.norm.cdf([-1, 1]))
        assert abs(found.median[k] - law.median()) < 4 * found.median_error[k]
        assert abs(found.width[k] - (above - below) / 2) < 4 * found.width_error[k]
        exact = 0.5 / np.sqrt(4_000) / law.pdf(law.median())
        assert found.median_error[k] == pytest.approx(exact, rel=0.3)
        assert found.low[k] == pytest.approx(law.ppf(0.05), rel=0.2, abs=0.3)
        assert found.high[k] == pytest.approx(law.ppf(0.95), rel=0.2)
    point = quantiles(vr.MAP(space="unconstrained").fit(target()), np.array([1]))
    assert np.isfinite(point.median).all()
    assert np.isnan(point.width).all()


def test_two_samplers_agree_whatever_their_means() -> None:
    one, other = chains(1), chains(2)
    sds = [float(f.sd()["kappa"]) for f in (one, other)]
    assert max(sds) > 1.3 * min(sds)  # chance, as there is none
    assert set(unsettled(one)) == {"kappa"}
    rows = differences(one, moments_of(other))
    assert abs(rows["difference"]["kappa"]) < 4 * rows["difference_mcse"]["kappa"] < 0.2
    assert abs(rows["sd_ratio"]["kappa"] - 1) < 4 * rows["sd_ratio_mcse"]["kappa"] < 0.4
    assert rows["difference"]["b"] == pytest.approx(
        float((one.mean()["b"] - other.mean()["b"]) / other.sd()["b"])
    )


def test_answers_without_quantiles_are_not_compared() -> None:
    given = {n: {"mean": 50.0, "sd": 400.0} for n in ("b", "kappa")}
    answers = vr.load_reference({"parameters": given}, target())
    rows = differences(chains(1), moments_of(answers))
    assert np.isnan(rows["difference"]["kappa"])
    assert np.isnan(rows["sd_ratio"]["kappa"])
    assert not np.isnan(rows["difference"]["b"])


def compared() -> vr.Comparison:
    nuts = chains(1)
    fits = {"laplace": vr.Laplace().fit(target()), "again": chains(2, "again"), "nuts": nuts}
    return vr.Comparison(fits, reference=nuts, reference_name="nuts", target_name="heavy")


def test_tables_show_quantiles_and_no_verdict_rests_on_a_mean(tmp_path: Path) -> None:
    c = compared()
    assert np.isnan(c.means()["nuts"]["kappa"])
    assert np.isnan(c.sds()["nuts"]["kappa"])
    assert c.covariances()["nuts"].loc["kappa"].isna().all()
    row = c.quantiles().loc[("kappa", "nuts")]
    assert row["50 %"] == pytest.approx(50, rel=0.1)
    assert row["95 %"] == pytest.approx(KAPPA.ppf(0.95), rel=0.2)
    table = tables.means(c)
    cells = next(r for r in table.rows if r[0].text == "kappa")
    assert cells[1].text.endswith("(median)")
    assert " to " in cells[2].text
    assert "The mean and the sd of kappa do not exist, or the draws do not tell them" in table.note
    said = c.verdict_of
    assert said["again"].trust is Trust.TRUSTWORTHY
    assert "of kappa medians and half-widths" in said["again"].text
    assert "the mean and the sd of kappa do not exist" in said["nuts"].text.lower()
    result = json.loads(json.dumps(to_json(c)))
    jsonschema.Draft202012Validator(schema()).validate(result)
    method = result["methods"]["nuts"]
    assert method["mean"][1] is None
    assert method["mean"][0] is not None
    assert method["quantiles"]["parameters"] == ["kappa"]
    assert method["quantiles"]["q50"][0] == pytest.approx(row["50 %"])
    assert result["methods"]["laplace"]["quantiles"] is None
    c.save(tmp_path)
    back = vr.Comparison.load(tmp_path)
    assert back.verdict_of == said
    assert (tmp_path / "tables" / "quantiles.csv").is_file()
    assert back.quantiles().equals(c.quantiles())


def test_a_fit_alone_says_so() -> None:
    table = chains(1).summary()
    assert table.loc["kappa", ["mean", "sd", "mcse_mean"]].isna().all()
    assert table.loc["kappa", "median"] == pytest.approx(50, rel=0.1)
    assert table.loc["b", ["mean", "sd"]].notna().all()
    fit = vr.NUTS(num_warmup=300, num_samples=700).fit(target())
    assert "Pareto khat of the draws of kappa is up to" in fit.message
    assert fit.diagnostics["khat_draws"] > 0.5


def test_weights_find_that_there_is_no_mean(tmp_path: Path) -> None:
    """On the log scale the posterior has tails that fall like exp(-|x|): q is wider than that."""
    wide = GaussianPosterior(target(), np.array([1.0, np.log(50)]), None, np.array([2.0, 2.5]))
    drawn = wide.weighed_draws(4_000, jax.random.key(1))
    assert drawn is not None
    ratios = target().log_densities(drawn.z) - drawn.log_q
    found = correct(target(), drawn.z, drawn.values, ratios, jax.random.key(2)).moments
    assert set(found.tails) == {"kappa"}
    below, above = KAPPA.ppf(stats.norm.cdf([-1, 1]))
    assert abs(found.mean["kappa"] - 50) < 4 * found.mcse_mean["kappa"]
    assert abs(found.sd["kappa"] - (above - below) / 2) < 4 * found.mcse_sd["kappa"]
    fit = replace(vr.Laplace().fit(target()), posterior=wide)
    fit = replace(fit, assessment=vr.assess(fit, target()))
    assert set(doubted(fit)) == {"kappa"}
    assert not unsettled(fit)
    assert "of kappa medians" in judge(fit).text
    back = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
    assert doubted(back) == doubted(fit)
    assert judge(back).text == judge(fit).text
    # q has a mean, that of a lognormal, and says so; the posterior's is in doubt, and so shown
    row = fit.summary().loc["kappa"]
    assert row["mean"] == pytest.approx(50 * np.exp(2.5**2 / 2), rel=1e-6)
    assert row["median"] == pytest.approx(50, rel=0.2)
    alone = vr.Comparison({"laplace": fit}, target_name="heavy")
    assert alone.means()["laplace"]["kappa"] == row["mean"]
    assert list(alone.quantiles().index) == [("kappa", "laplace")]
    given = {"nuts": chains(1), "laplace": fit}
    assert set(vr.Comparison(given, target_name="heavy").unsettled) == {"kappa"}


def test_uneven_weights_do_not_take_the_mean_of_light_tails() -> None:
    """A proposal's far draws, and weights as uneven as are accepted, of a normal posterior."""
    found = set()
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x = rng.standard_t(3, 4_000)
        uneven = 0.65 * rng.exponential(size=x.size)  # the weights' own khat is 0.65
        ratios = stats.norm.logpdf(x) - stats.t(3).logpdf(x) + uneven
        found |= set(_weighted({"x": x}, ratios, 0.65, 0).moments.tails)
    assert not found


def test_a_doubt_does_not_stand_beside_a_sampler_that_knows() -> None:
    fit = vr.Laplace().fit(target())
    moments = replace(moments_of(fit), tails={"b": np.array(0.8)})
    fit = replace(fit, assessment=vr.Assessment(correction=Correction(moments, 0.6, 300.0, 4_000)))
    assert set(vr.Comparison({"laplace": fit}, target_name="heavy").unsettled) == {"b"}
    beside = vr.Comparison(
        {"laplace": fit, "nuts": chains(1)}, reference_name="nuts", target_name="heavy"
    )
    assert set(beside.unsettled) == {"kappa"}
    assert np.isfinite(beside.means().loc["b"]).all()
    weak = replace(chains(1), status=vr.Status.UNCONVERGED)
    open_still = vr.Comparison({"laplace": fit, "nuts": weak}, target_name="heavy")
    assert set(open_still.unsettled) == {"b", "kappa"}


@pytest.mark.slow
def test_uneven_weights_alone_take_no_moments_away() -> None:
    """EM's draws are weighed in 89 coordinates, a few hundred effective ones; all are normal."""
    c = vr.compare(vr.Target(vr.load_model("radon")), [vr.EM()])
    assessment = c["em"].assessment
    assert assessment is not None
    assert assessment.correction is not None
    assert not unsettled(c["em"])
    assert c.quantiles().empty
    assert np.isfinite(c.means()["em"]).all()
