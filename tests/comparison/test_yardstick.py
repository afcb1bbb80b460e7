"""Where no sampler is there to measure by, nested quadrature is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, override

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes.comparison.json import to_json
from vi_recipes.comparison.yardsticks import lacks_yardstick
from vi_recipes.core import Progress, Timing, as_key
from vi_recipes.importance import khat
from vi_recipes.methods import theta_weights
from vi_recipes.methods.base import Method, Result
from vi_recipes.posterior.gaussian import GaussianPosterior

Y = 0.4 + np.random.default_rng(5).standard_normal(160) * 1.02
GROUP = np.repeat(np.arange(80), 2)


def funnel(y: Any, group: Any) -> None:
    """Have groups whose spread the data hardly know, which no normal law fits."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("group", 80):
        u = numpyro.sample("u", dist.Normal(mu, sigma))
    with numpyro.plate("row", y.shape[0]):
        numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)


@cache
def target() -> vr.Target:
    return vr.Target(funnel, y=Y, group=GROUP)


@pytest.mark.slow
def test_a_verdict_that_own_evidence_leaves_open_is_told(tmp_path: Path) -> None:
    fast = vr.LinearResponse()
    fit = fast.fit(target(), key=0)
    alone = vr.assess(fit, target())
    comparison = vr.compare(target(), [fast], path=tmp_path / "out")
    verdict = comparison.verdict_of["lrvb"]
    assert vr.judge(replace(fit, assessment=alone)).trust is vr.Trust.UNKNOWN
    assert comparison.reference_name == "nested"
    assert comparison.reference is not None
    assert comparison.reference.status.ok
    assert verdict.trust in (vr.Trust.UNTRUSTED, vr.Trust.CARE)
    assert "known to" in verdict.text
    assert list(comparison) == ["lrvb"]
    assert set(comparison.found.theta_weights) == {"lrvb"}
    assert not comparison.found.lower_bounds
    again = vr.Comparison.load(tmp_path / "out")
    assert again.found == comparison.found
    assert again.reference_name == "nested"
    assert again.verdict_of["lrvb"] == verdict


def pair(y: Any) -> None:
    """Have two parameters that a normal law fits well."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    numpyro.sample("y", dist.Normal(mu, numpyro.sample("s", dist.HalfNormal(2.0))), obs=y)


def test_one_is_made_where_weights_do_not_vouch_for_a_fit_that_is_right_by_them() -> None:
    two = vr.Target(pair, y=Y)
    fit = vr.LinearResponse().fit(two)
    known = vr.assess(fit, two)
    assert known.correction is not None
    few = replace(known, correction=replace(known.correction, ess=0.4 * known.num_draws))
    assert vr.judge(replace(fit, assessment=known)).trust is vr.Trust.TRUSTWORTHY
    assert not lacks_yardstick({"lrvb": replace(fit, assessment=known)}, two)
    assert vr.judge(replace(fit, assessment=few)).trust is vr.Trust.CARE
    assert lacks_yardstick({"lrvb": replace(fit, assessment=few)}, two)


@pytest.mark.slow
def test_a_nested_fit_measures_the_others_where_there_is_no_sampler() -> None:
    methods = [vr.LinearResponse(), vr.NestedQuadrature()]
    comparison = vr.compare(target(), methods, assessed=False)
    verdicts = comparison.verdict_of
    assert comparison.reference_name == "nested"
    assert verdicts["nested"].trust is vr.Trust.TRUSTWORTHY
    assert verdicts["lrvb"].trust in (vr.Trust.UNTRUSTED, vr.Trust.CARE)


@pytest.mark.slow
def test_one_that_misses_its_own_errors_measures_nobody() -> None:
    few = vr.NestedQuadrature(max_points=256, tolerance=1e-6)
    comparison = vr.compare(target(), [vr.LinearResponse(), few], assessed=False)
    assert not comparison["nested"].status.ok
    assert comparison.reference_name is None


def test_an_interrupt_while_the_yardstick_is_made_keeps_what_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vr.NestedQuadrature, "_fit", interrupted)
    comparison = vr.compare(target(), [vr.LinearResponse()])
    assert comparison.interrupted
    assert comparison["lrvb"].status.ok


@pytest.mark.slow
def test_a_yardstick_that_does_not_stand_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(vr.NestedQuadrature, "_fit", fails)
    comparison = vr.compare(target(), [vr.LinearResponse()])
    assert comparison.reference_name is None
    assert any("tried as a yardstick" in n and "it broke" in n for n in comparison.notes)


@pytest.mark.slow
def test_one_is_made_where_a_sampler_is_not_to_be_trusted() -> None:
    """Twenty draws of two chains tell nothing, and linear response is judged all the same."""
    few = vr.NUTS(num_warmup=5, num_samples=20, num_chains=2)
    comparison = vr.compare(target(), {"nuts": few, "lrvb": vr.LinearResponse()})
    assert vr.judge(comparison["nuts"]).trust is vr.Trust.UNTRUSTED
    assert comparison.reference_name == "nested"
    assert "by the reference, known to" in comparison.verdict_of["lrvb"].text
    assert comparison.verdict_of["nuts"].trust in (vr.Trust.UNTRUSTED, vr.Trust.CARE)


SD = 2.0
MANY = 250
"""Coordinates: too many for importance weights to be mended."""


def apart() -> None:
    """Have more coordinates than any quadrature takes, with tails that no normal has."""
    numpyro.sample("x", dist.StudentT(5.0, np.zeros(MANY), SD).to_event(1))


@cache
def wide() -> vr.Target:
    return vr.Target(apart)


@dataclass(frozen=True, kw_only=True)
class Off(Method):
    """Normals whose means and sds are off by what is asked for."""

    key: ClassVar[str] = "off"
    summary: ClassVar[str] = "off"
    mean: float = 0.0
    factor: float = 1.0

    @override
    def _fit(self, target: vr.Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        sd = self.factor * SD * np.sqrt(5 / 3)
        loc = np.full(target.dim, self.mean * SD)
        return Result(GaussianPosterior(target, loc, None, np.full(target.dim, sd)))


@pytest.mark.slow
def test_of_what_nothing_tells_short_chains_say_that_it_is_wrong_or_nothing(tmp_path: Path) -> None:
    methods = {
        "right": Off(),
        "a_bit_off": Off(mean=0.15),
        "elsewhere": Off(mean=1.5),
        "narrow": Off(factor=0.2),
    }
    comparison = vr.compare(wide(), methods, path=tmp_path / "out")
    assert comparison.reference is None
    verdicts = comparison.verdict_of
    assert {vr.judge(fit).trust for fit in comparison.values()} == {vr.Trust.UNKNOWN}
    assert verdicts["right"].trust is verdicts["a_bit_off"].trust is vr.Trust.UNKNOWN
    assert "move nothing beyond Monte Carlo error" in verdicts["right"].text
    assert "s or so beside its compilation" in verdicts["right"].text
    assert verdicts["elsewhere"].trust is verdicts["narrow"].trust is vr.Trust.UNTRUSTED
    assert "move its mean of x[" in verdicts["elsewhere"].text
    assert "make its sd of x[" in verdicts["narrow"].text
    bounds = comparison.found.lower_bounds
    assert 0.5 < bounds["elsewhere"].mean <= 1.5
    assert 2.0 < bounds["narrow"].factor <= 5.0
    written = to_json(comparison)["methods"]["narrow"]["lower_bounds"]
    assert written["sd_ratio"] == bounds["narrow"].sd_ratio
    assert written["sd_at"].startswith("x[")
    again = vr.Comparison.load(tmp_path / "out")
    assert again.found == comparison.found
    assert again.verdict_of == verdicts


def test_a_draw_of_theta_at_which_a_constant_was_rounded_to_0_weighs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nested = vr.NestedQuadrature(tolerance=0.1).fit(target(), throw=True)
    fit = replace(nested, method="other", posterior=near())
    whole = theta_weights(fit, nested, key=3)
    given = nested.posterior.density.given  # type: ignore[union-attr]

    def beyond(theta: np.ndarray) -> tuple[np.ndarray, None]:
        return np.where(np.arange(len(theta)) % 2, np.inf, given(theta)[0]), None

    monkeypatch.setattr(nested.posterior.density, "given", beyond)  # type: ignore[union-attr]
    half = theta_weights(fit, nested, key=3)
    assert whole is not None
    assert half is not None
    assert half.share == pytest.approx(whole.share / 2, rel=0.2)


def near(width: float = 1.0) -> GaussianPosterior:
    """Return a normal law of theta and all groups' effects, which correlate."""
    rng = np.random.default_rng(0)
    root = np.concatenate([np.diag([0.1, 0.5]), rng.normal(size=(80, 2)) * 0.2])
    z = np.concatenate([[0.5, -1.5], np.full(80, 0.4)])
    return GaussianPosterior(target(), z, width * root, np.full(82, 0.2))


def test_draws_of_theta_are_weighed_with_the_members_integrated_out() -> None:
    """Beside an independent calculation: the groups' means are normal given theta."""
    nested = vr.NestedQuadrature(tolerance=0.1).fit(target(), throw=True)
    shares = []
    for width in (0.1, 1.0):
        q = near(width)
        fit = replace(nested, method="other", posterior=q)
        weighed = theta_weights(fit, nested, key=3)
        drawn = q.marginal_draws(np.arange(2), 1_000, as_key(3))
        assert weighed is not None
        assert drawn is not None
        theta, log_q = drawn
        cov = (q.root @ q.root.T + 0.2**2 * np.eye(82))[:2, :2]
        assert log_q == pytest.approx(stats.multivariate_normal(q.loc[:2], cov).logpdf(theta))
        assert np.cov(theta.T) == pytest.approx(cov, abs=0.1 * np.diag(cov).max())
        mu, sigma = theta[:, :1], np.exp(theta[:, 1:])
        means = Y.reshape(80, 2).mean(axis=1)
        log_p = stats.norm(mu, np.sqrt(sigma**2 + 0.5)).logpdf(means).sum(axis=1)
        log_p += stats.norm.logpdf(mu[:, 0]) + stats.halfnorm.logpdf(sigma[:, 0]) + theta[:, 1]
        raw = np.exp(log_p - log_q - (log_p - log_q).max())
        assert weighed.share == pytest.approx(raw.sum() ** 2 / (raw @ raw) / 1_000, rel=1e-5)
        assert weighed.khat == pytest.approx(khat(log_p - log_q), abs=1e-4)
        shares.append(weighed.share)
    assert shares[0] < 0.5 * shares[1]
    assert theta_weights(nested, nested) is None
