"""The study of what is an argmin: closed forms of the posterior, of KL, and of its rate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.integrate import quad
from scipy.special import gammaln
from scipy.stats import norm
from studies_for_tests import made

import vi_recipes as vr


@pytest.fixture(scope="module")
def study() -> vr.Study:
    return vr.load_study("what_is_vi")


@pytest.fixture(scope="module")
def content(study: vr.Study) -> dict[str, Any]:
    return study.exhibits.__globals__  # type: ignore[union-attr]


def test_the_posterior_is_the_closed_form_and_a_chain_comes_to_it(
    study: vr.Study, content: dict[str, Any]
) -> None:
    target = study.target()
    posterior = content["Posterior"](target)
    y = target.data["y"]
    n, square = len(y), np.square(y - y.mean()).sum()
    # mu is integrated out as a normal, sigma as an inverse gamma
    exact = -(n - 1) / 2 * np.log(2 * np.pi) - np.log(n) / 2 + gammaln((n - 2) / 2)
    exact += -(n - 2) / 2 * np.log(square / 2) - np.log(2)
    assert posterior.log_evidence == pytest.approx(exact, abs=1e-6)
    # the best normal by KL(p || q) has the moments of p
    mean = posterior.mass @ posterior.x
    away = posterior.x - mean
    own = content["Normal"](mean, (away * posterior.mass[:, None]).T @ away)
    least = posterior.least(posterior.forward, independent=False)
    assert posterior.forward(own) == pytest.approx(least, abs=1e-9)
    assert posterior.reverse(own) > posterior.least(posterior.reverse, independent=False) + 1e-3
    chain = posterior.chain()
    assert (np.diff(chain) < 0).all()
    assert chain[-1] < 1e-4


def test_the_excess_of_maximum_likelihood_is_kl_and_falls_as_the_sandwich_says(
    content: dict[str, Any],
) -> None:
    samples = np.random.default_rng(3).exponential(size=(2, 30))
    for sample, excess in zip(samples, content["excess"](samples), strict=True):

        def lost(x: float, m: float = sample.mean(), s: float = sample.std()) -> float:
            return float(np.exp(-x) * (-x - norm.logpdf(x, m, s)))

        exact = quad(lost, 0, 60)[0] - content["LEAST"]
        assert excess == pytest.approx(exact, abs=1e-8)
    n, many = 5_000, 1_000
    drawn = np.random.default_rng(4).exponential(size=(many, n))
    found = n * content["excess"](drawn)
    assert abs(found.mean() - content["RATE"]) < 4 * found.std() / np.sqrt(many)


@pytest.mark.slow
def test_its_exhibits(study: vr.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {
        "laplace": vr.Laplace(),
        "mle": vr.MAP(space="constrained"),
        "meanfield": vr.MeanField(),
    }
    small = {"SIZES": (10, 100), "NUM_SAMPLES": 50}
    argmins, picture = made(study, study.target(), methods, small, monkeypatch)
    rows = argmins.content.set_index("method")
    assert list(rows.index) == ["mle", "laplace", "meanfield", "nuts"]
    assert rows.loc["mle", "difference"] == pytest.approx(0, abs=1e-9)
    assert rows.loc["meanfield", "difference"] == pytest.approx(0, abs=1e-6)
    assert rows.loc["laplace", "difference"] > 0.01
    y = study.target().data["y"]
    exact = 0.5 + np.log(y.std()) + 0.5 * np.log(2 * np.pi)
    assert rows.loc["mle", "ours"] == pytest.approx(exact, abs=1e-8)
    assert isinstance(picture.content, Figure)
    assert "with every step" in picture.caption
