"""Where no sampler is there to measure by, nested quadrature is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr

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


def test_a_verdict_that_own_evidence_leaves_open_is_told(tmp_path: Path) -> None:
    fast = vr.LinearResponse()
    fit = fast.fit(target(), key=0)
    alone = vr.assess(fit, target())
    comparison = vr.compare(target(), [fast], path=tmp_path / "out")
    verdict = comparison.verdicts()["lrvb"]
    assert vr.judge(replace(fit, assessment=alone)).trust is vr.Trust.UNKNOWN
    assert comparison.reference_name == "nested"
    assert comparison.reference is not None
    assert comparison.reference.status.ok
    assert verdict.trust in (vr.Trust.UNTRUSTED, vr.Trust.CARE)
    assert "known to" in verdict.text
    assert list(comparison) == ["lrvb"]
    again = vr.Comparison.load(tmp_path / "out")
    assert again.reference_name == "nested"
    assert again.verdicts()["lrvb"] == verdict


def test_a_nested_fit_measures_the_others_where_there_is_no_sampler() -> None:
    methods = [vr.LinearResponse(), vr.NestedQuadrature()]
    comparison = vr.compare(target(), methods, assessed=False)
    verdicts = comparison.verdicts()
    assert comparison.reference_name == "nested"
    assert verdicts["nested"].trust is vr.Trust.TRUSTWORTHY
    assert verdicts["lrvb"].trust in (vr.Trust.UNTRUSTED, vr.Trust.CARE)


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


def test_a_yardstick_that_does_not_stand_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("it broke")

    monkeypatch.setattr(vr.NestedQuadrature, "_fit", fails)
    comparison = vr.compare(target(), [vr.LinearResponse()])
    assert comparison.reference_name is None
    assert any("tried as a yardstick" in n and "it broke" in n for n in comparison.notes)
