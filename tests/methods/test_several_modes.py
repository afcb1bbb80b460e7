"""EM and MarginalMLE where members have several modes given theta, against the likelihood's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kinds_for_tests import KINDS, NOISE, SHARES, Y, two_kinds
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

import vi_recipes as vr


def log_likelihood(m: float, spread: float) -> float:
    sd = np.hypot(spread, NOISE)
    each = np.log(SHARES) + stats.norm.logpdf(Y[:, None], m + KINDS, sd)
    return float(logsumexp(each, axis=1).sum())


@pytest.mark.slow
def test_members_of_two_modes_have_as_many_nodes_as_they_need() -> None:
    # 9 nodes and 19 were blind alike: OK, 1.6 standard errors off
    fit = vr.MarginalMLE().fit(vr.Target(two_kinds, y=Y, spread=0.25), key=1)
    best = minimize_scalar(lambda m: -log_likelihood(m, 0.25), bounds=(-3, 3), method="bounded")
    assert fit.status is vr.Status.OK, fit.explanation
    assert fit.diagnostics["log_likelihood"] == pytest.approx(-best.fun, abs=1e-4)
    assert float(fit.mean()["m"]) == pytest.approx(best.x, abs=1e-3)
    width = 0.01
    bend = [log_likelihood(best.x + k * width, 0.25) for k in (-1, 0, 1)]
    information = (2 * bend[1] - bend[0] - bend[2]) / width**2
    assert float(fit.sd()["m"]) == pytest.approx(information**-0.5, rel=1e-2)


@pytest.mark.parametrize("method", [vr.MarginalMLE(num_nodes=9), vr.EM(num_nodes=9)])
def test_a_mode_of_a_member_that_no_nodes_reach_is_told(method: Any) -> None:
    fit = method.fit(vr.Target(two_kinds, y=Y, spread=0.1), key=1)
    assert fit.status is vr.Status.UNCONVERGED
    assert "has another mode, at " in fit.message
    assert "which the nodes around the first miss" in fit.message
