"""What fits say of themselves: weights, corrected moments, and the verdicts that follow."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case
from models_for_tests import target as table_target

import vi_recipes as vr
from vi_recipes.comparison.weights import weights
from vi_recipes.importance.weights import khat, khat_limit
from vi_recipes.posterior.gaussian import GaussianPosterior
from vi_recipes.trust.correct import NoCorrection, correct
from vi_recipes.trust.verdict import Trust, judge

X = np.array([[1.0, 0.2], [1.0, 0.9], [1.0, 1.4], [1.0, 2.1], [1.0, 0.4], [1.0, 1.1]])
Y = np.array([0.3, 1.2, 1.9, 2.4, 0.2, 1.6])
PRIOR_SD, NOISE_SD = 2.0, 0.5


def regression(X: Any, y: Any) -> None:
    w = numpyro.sample("w", dist.Normal(0.0, PRIOR_SD).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X @ w, NOISE_SD), obs=y)


def exact() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of w, by conjugacy."""
    cov = np.linalg.inv(X.T @ X / NOISE_SD**2 + np.eye(2) / PRIOR_SD**2)
    return cov @ X.T @ Y / NOISE_SD**2, cov


def pair() -> None:
    numpyro.sample("right", dist.Normal(1.0, 2.0))
    numpyro.sample("wrong", dist.Normal(0.0, 1.0))


def cut() -> None:
    x = numpyro.sample("x", dist.Normal(1.0, 1.0))
    numpyro.factor("cut", jnp.where(x < 0, -jnp.inf, 0.0))


@cache
def target() -> vr.Target:
    return vr.Target(regression, X=X, y=Y)


@cache
def assessed(kind: type[vr.Method]) -> vr.Fit:
    fit = kind().fit(target(), key=0)
    return replace(fit, assessment=vr.assess(fit, target(), key=3))


def test_an_exact_fit_is_trustworthy() -> None:
    fit = assessed(vr.Laplace)
    found = fit.assessment
    assert found is not None
    assert found.khat == -np.inf
    assert found.block_khat == {"w": -np.inf}
    assert found.bounds is not None
    assert found.bounds.mean_error < 1e-6
    assert found.stein is not None
    assert found.stein.p_value > 0.01
    mean, cov = exact()
    assert found.correction is not None
    moments = found.correction.moments
    sd = np.sqrt(np.diag(cov))
    # 4,000 independent draws
    np.testing.assert_allclose(moments.mcse_mean["w"], sd / np.sqrt(4_000), rtol=0.1)
    assert (np.abs(moments.mean["w"] - mean) < 4 * moments.mcse_mean["w"]).all()
    assert (np.abs(moments.sd["w"] - sd) < 4 * moments.mcse_sd["w"]).all()
    assert judge(fit).trust is Trust.TRUSTWORTHY


def test_mean_field_is_corrected_and_says_by_how_much_it_understates() -> None:
    fit = assessed(vr.MeanField)
    found, (mean, cov) = fit.assessment, exact()
    sd = np.sqrt(np.diag(cov))
    shortfall = np.sqrt(1 - cov[0, 1] ** 2 / (cov[0, 0] * cov[1, 1]))  # of mean field's sds
    assert shortfall < 0.6
    np.testing.assert_allclose(fit.sd()["w"] / sd, shortfall, rtol=1e-3)
    assert found is not None
    np.testing.assert_allclose(found.response_ratio["w"], 1 / shortfall, rtol=1e-3)
    assert found.correction is not None
    assert found.correction.num_rounds > 0
    moments = found.correction.moments
    assert (np.abs(moments.mean["w"] - mean) < 4 * moments.mcse_mean["w"]).all()
    assert (np.abs(moments.sd["w"] - sd) < 4 * moments.mcse_sd["w"]).all()
    said = judge(fit)
    assert said.trust is (Trust.UNTRUSTED if shortfall < 0.5 else Trust.CARE)
    assert "understates uncertainty" in said.text


def test_the_bad_site_is_named() -> None:
    two = vr.Target(pair)
    # by theory khat of a normal of sd s for one of sd 1 is 1 - s^2
    narrow = GaussianPosterior(two, np.array([1.0, 0.0]), None, np.array([2.0, 0.15]))
    fit = replace(vr.Laplace().fit(two), posterior=narrow)
    fit = replace(fit, assessment=vr.assess(fit, two))
    assert fit.assessment is not None
    assert fit.assessment.block_khat["right"] == -np.inf
    assert fit.assessment.block_khat["wrong"] == pytest.approx(1 - 0.15**2, abs=0.25)
    said = judge(fit)
    assert said.trust is Trust.UNTRUSTED
    assert "for wrong (" in said.text


@pytest.mark.parametrize("share", [0.25, 3.0])
def test_moments_are_corrected_from_far_off(share: float) -> None:
    mean, cov = exact()
    root = share * np.linalg.cholesky(cov)
    start = GaussianPosterior(target(), mean + np.sqrt(np.diag(cov)), root, np.zeros(2))
    drawn = start.weighed_draws(4_000, jax.random.key(1))
    assert drawn is not None
    ratios = target().log_densities(drawn.z) - drawn.log_q
    found = correct(target(), drawn.z, drawn.values, ratios, jax.random.key(2))
    assert found.khat < khat_limit(4_000)
    assert (np.abs(found.moments.mean["w"] - mean) < 4 * found.moments.mcse_mean["w"]).all()
    away = np.abs(found.moments.sd["w"] - np.sqrt(np.diag(cov)))
    assert (away < 4 * found.moments.mcse_sd["w"]).all()


def tails() -> None:
    """Of six scalars; their sds are 1.21."""
    scales = jnp.array([1.0, 1.7])
    law = dist.MixtureSameFamily(
        dist.Categorical(jnp.array([0.75, 0.25])), dist.Normal(0.0, scales)
    )
    numpyro.sample("x", law.expand([6]).to_event(1))


@pytest.mark.parametrize("key", range(3))
def test_a_fit_without_tails_is_not_trusted_by_draws_that_have_none(key: int) -> None:
    """Its sds are 1.06, 12.6 % too small; its own draws have a khat of 0.57 with key 1, half of
    them count, and they would have it right."""
    this = vr.Target(tails)
    sd = np.sqrt(0.75 + 0.25 * 1.7**2)
    narrow = GaussianPosterior(this, np.zeros(6), None, np.full(6, 1.06))
    fit = replace(vr.Laplace().fit(this), posterior=narrow)
    found = vr.assess(fit, this, key=key)
    assert found.correction is not None
    assert found.correction.num_rounds > 0
    assert found.correction.vouches
    moments = found.correction.moments
    assert (np.abs(moments.sd["x"] - sd) < 4 * moments.mcse_sd["x"]).all()
    assert (moments.mcse_sd["x"] < 0.02 * sd).all()
    assert judge(replace(fit, assessment=found)).trust is Trust.CARE


@pytest.mark.parametrize("dim", [5, 20])
def test_most_adapted_draws_count_where_the_posterior_is_normal(dim: int) -> None:
    """Of draws of a t alone 58 % would in 20 coordinates."""

    def normal() -> None:
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    this = vr.Target(normal)
    off = GaussianPosterior(this, np.zeros(dim), None, np.full(dim, 1 + 1.5 / dim))
    drawn = off.weighed_draws(4_000, jax.random.key(0))
    assert drawn is not None
    ratios = this.log_densities(drawn.z) - drawn.log_q
    ratios += 2 * np.sin(drawn.z[:, 0])  # so that its own draws do not do
    found = correct(this, drawn.z, drawn.values, ratios, jax.random.key(1))
    assert found.num_rounds > 0
    assert found.num_draws == 16_000
    assert found.ess >= 0.7 * found.num_draws
    assert found.vouches
    sd = found.moments.sd["x"]
    assert (np.abs(sd - 1) < 4.5 * found.moments.mcse_sd["x"]).all()


def test_lots_of_a_model_that_derives_much_are_fewer() -> None:
    def wide() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.deterministic("many", x * jnp.arange(600.0))

    this = vr.Target(wide)
    drawn = GaussianPosterior(this, np.zeros(1), None, np.array([0.4])).weighed_draws(
        4_000, jax.random.key(0)
    )
    assert drawn is not None
    ratios = this.log_densities(drawn.z) - drawn.log_q
    found = correct(this, drawn.z, drawn.values, ratios, jax.random.key(1))
    assert found.num_rounds > 0
    assert found.num_draws == 4_000


def test_no_correction_where_there_can_be_none() -> None:
    mean, cov = exact()
    narrow = GaussianPosterior(target(), mean, 0.05 * np.linalg.cholesky(cov), np.zeros(2))
    drawn = narrow.weighed_draws(120, jax.random.key(7))
    assert drawn is not None
    ratios = target().log_densities(drawn.z) - drawn.log_q
    few = {n: v[:30] for n, v in drawn.values.items()}
    with pytest.raises(ValueError, match="at least 100"):
        correct(target(), drawn.z[:30], few, ratios[:30], jax.random.key(0))
    labels = vr.Target(
        vr.Model(function=regression, name="r", exchangeable=(vr.Exchangeable(sites={"w": 0}),)),
        X=X,
        y=Y,
    )
    with pytest.raises(NoCorrection, match="exchangeable"):
        correct(labels, drawn.z, drawn.values, ratios, jax.random.key(0))


def test_what_has_no_weights_says_why() -> None:
    point, chains = vr.MAP().fit(target()), vr.NUTS(num_warmup=200, num_samples=200).fit(target())
    about = vr.assess(point, target())
    assert about.unknown == {"weights": "a point has no density"}
    assert np.isnan(about.khat)
    assert judge(replace(point, assessment=about)).trust is Trust.UNKNOWN
    audit = vr.assess(chains, target())
    assert "audit" in audit.unknown["weights"]
    assert ["bridge sampling" in e.kind for e in audit.evidence] == [True]


def test_refusals() -> None:
    fit = assessed(vr.Laplace)
    with pytest.raises(ValueError, match="num_draws: got 20"):
        vr.assess(fit, target(), num_draws=20)
    with pytest.raises(ValueError, match="expected that of the fit"):
        vr.assess(fit, vr.Target(regression, X=X, y=Y + 1))


def test_an_assessment_survives_the_disk(tmp_path: Path) -> None:
    for kind in (vr.MeanField, vr.Laplace):
        fit = assessed(kind)
        back = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
        assert back.assessment is not None
        assert fit.assessment is not None
        assert judge(back).text == judge(fit).text
        assert back.assessment.evidence == fit.assessment.evidence
        assert back.assessment.bounds == fit.assessment.bounds
        assert back.assessment.numbers() == pytest.approx(fit.assessment.numbers(), nan_ok=True)
        for name, ratio in fit.assessment.response_ratio.items():
            np.testing.assert_array_equal(back.assessment.response_ratio[name], ratio)


def test_labels_move_together() -> None:
    found = assessed(vr.MeanField).assessment
    assert found is not None
    moved = found.permuted(lambda values: {n: v[::-1] for n, v in values.items()})
    assert found.correction is not None
    assert moved.correction is not None
    np.testing.assert_array_equal(
        moved.correction.moments.sd["w"], found.correction.moments.sd["w"][::-1]
    )
    np.testing.assert_array_equal(moved.response_ratio["w"], found.response_ratio["w"][::-1])


def test_verdicts_of_chains() -> None:
    fit = vr.NUTS(num_warmup=500, num_samples=1_000).fit(target(), key=1, throw=True)
    assert judge(fit).trust is Trust.TRUSTWORTHY
    short = replace(fit, status=vr.Status.UNCONVERGED, message="R-hat up to 1.02 (limit 1.01)")
    assert judge(short).trust is Trust.CARE
    assert judge(short).text.startswith("Provisional (R-hat up to 1.02")
    apart = replace(short, diagnostics={**fit.diagnostics, "r_hat_max": 1.4})
    assert judge(apart).trust is Trust.UNTRUSTED


def test_a_fit_that_did_not_converge_is_not_trustworthy() -> None:
    fit = replace(assessed(vr.Laplace), status=vr.Status.UNCONVERGED, message="too soon")
    assert judge(fit).trust is Trust.CARE
    assert judge(fit).text.startswith("Provisional (too soon)")


def test_nothing_known_is_said() -> None:
    fit = replace(assessed(vr.Laplace), assessment=None)
    assert judge(fit).trust is Trust.UNKNOWN
    assert judge(fit).text == "Cannot be told by itself: its draws were not weighed."
    gone = replace(fit, posterior=None, status=vr.Status.SINGULAR, message="why")
    assert judge(gone).trust is Trust.NO_RESULT
    assert vr.assess(gone, target()).unknown == {"weights": "there is no result"}


@pytest.mark.parametrize(
    ("loc", "sd", "about", "trust"),
    [
        (-50.0, 0.1, "no density at any of its draws", Trust.UNTRUSTED),
        (1.0, 0.0, "no spread", Trust.UNKNOWN),
        (np.nan, 1.0, "not finite", Trust.UNKNOWN),
        (1.0, 1.0, "the ELBO is minus infinity", None),
    ],
)
def test_draws_where_the_posterior_has_no_density(
    loc: float, sd: float, about: str, trust: Trust | None
) -> None:
    positive = vr.Target(cut)
    wrong = GaussianPosterior(positive, np.array([loc]), None, np.array([sd]))
    fit = replace(vr.Laplace().fit(positive), posterior=wrong)
    found = vr.assess(fit, positive)
    assert any(about in text for text in found.unknown.values())
    said = judge(replace(fit, assessment=found))
    assert said.trust is trust or (trust is None and said.trust is not Trust.TRUSTWORTHY)


def test_the_report_lays_weights_side_by_side() -> None:
    fits = {kind.__name__.lower(): assessed(kind) for kind in (vr.Laplace, vr.MeanField)}
    table = weights(vr.Comparison(fits, target_name="regression"))
    assert table.columns == ["", "laplace", "meanfield"]
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["khat, all coordinates"][0] == "no tail"
    assert rows["corrected by"][0] == "its own draws"
    assert rows["corrected by"][1].endswith("rounds from it")
    assert rows["largest change of a mean, sds"][0].endswith(("(w[0])", "(w[1])"))
    alone = {"laplace": replace(fits["laplace"], assessment=None)}
    assert weights(vr.Comparison(alone, target_name="regression")).rows == []


@pytest.mark.slow
def test_quadrature_stands_beside_the_fits(tmp_path: Path) -> None:
    c = vr.compare(target(), [vr.Laplace(), vr.MAP()], path=tmp_path, quadrature=True)
    table = c.evidence()
    exact_value = dist.MultivariateNormal(
        jnp.zeros(6), PRIOR_SD**2 * X @ X.T + NOISE_SD**2 * np.eye(6)
    ).log_prob(Y)
    rows = table.set_index("bound")["value"]
    assert float(rows["exact"]) == pytest.approx(float(exact_value), abs=1e-3)
    assert float(rows["lower bound"].iloc[0]) == pytest.approx(float(exact_value), abs=1e-3)
    assert "exact (quadrature" in c.report(tmp_path / "report.md").read_text(encoding="utf-8")
    back = vr.Comparison.load(tmp_path)
    assert back.quadrature == c.quadrature
    assert back.evidence().equals(table)


def rate(y: Any) -> None:
    lam = numpyro.sample("lam", dist.Gamma(2.0, 1.0))
    with numpyro.plate("count", len(y)):
        numpyro.sample("y", dist.Poisson(lam), obs=y)


@pytest.mark.slow
def test_the_better_fit_is_not_the_one_that_is_downgraded() -> None:
    """Means by mean field are exact to 1e-7 sds here and khat of its weights was 3.9."""
    y = np.random.default_rng(451).poisson(3.0, 400)
    counts = vr.Target(rate, y=y)
    c = vr.compare(counts, [vr.Laplace(), vr.MeanField(), vr.LinearResponse()])
    total = 2 + y.sum()
    for name, fit in c.items():
        assert fit.mean()["lam"] == pytest.approx(total / 401, abs=0.02 * np.sqrt(total) / 401)
        assert fit.sd()["lam"] == pytest.approx(np.sqrt(total) / 401, rel=1e-3)
        assert fit.assessment is not None
        assert (fit.assessment.khat, *fit.assessment.block_khat.values()) == (-np.inf, -np.inf)
        assert c.verdict_of[name].trust is Trust.TRUSTWORTHY
        assert "without a tail" in c.verdict_of[name].text


def standard() -> None:
    numpyro.sample("x", dist.Normal(0.0, 1.0).expand([8]).to_event(1))


def test_half_the_variance_of_log_ratios_is_kl_of_normals_that_are_near() -> None:
    """Of normals of d coordinates, off by a factor 1 + e: d e^2 to second order, and d m^2 / 2."""
    target = vr.Target(standard)
    exact = vr.Laplace().fit(target, throw=True)
    for mean, factor in ((0.1, 1.0), (0.0, 1.05), (0.0, 1.0)):
        q = GaussianPosterior(target, np.full(8, mean), None, np.full(8, factor))
        said = vr.assess(replace(exact, posterior=q), target).kl_surrogate
        kl = 8 * ((factor**2 + mean**2 - 1) / 2 - np.log(factor))
        assert said == pytest.approx(kl, rel=0.15, abs=1e-10)


@pytest.mark.parametrize("method", [vr.Laplace(), vr.MeanField()])
def test_a_fit_that_was_read_back_is_assessed_again(method: vr.Method, tmp_path: Path) -> None:
    this = table_target("normal_precision")
    fit = method.fit(this, throw=True)
    again = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
    own = vr.assess(fit, this, num_draws=2_000)
    found = vr.assess(again, this)
    assert found.num_draws == 2_000
    drawn = again.posterior.weighed_draws(2_000, jax.random.key(1))
    known = this.constrain(drawn.z)
    np.testing.assert_allclose(drawn.values["sigma"], known["sigma"], rtol=1e-12)
    ratios = this.log_densities(drawn.z) - drawn.log_q
    assert found.khat == pytest.approx(khat(ratios))
    # the same law, by other draws: khat within 5 of its standard errors, (1 + khat) / sqrt(tail)
    assert found.khat == pytest.approx(own.khat, abs=5 * 1.5 / np.sqrt(3 * np.sqrt(2_000)))
    corrected, known = found.correction.moments, case("normal_precision")
    error = 5 * np.hypot(corrected.mcse_mean["tau"], 0.0)
    assert abs(corrected.mean["tau"] - known.mean["tau"]) < error
    judged = vr.judge(replace(again, assessment=found))
    assert judged.trust is vr.judge(replace(fit, assessment=own)).trust
    third = vr.Fit.load(again.save(tmp_path / "third.nc"))
    np.testing.assert_array_equal(third.posterior.weighed.z, again.posterior.weighed.z)
