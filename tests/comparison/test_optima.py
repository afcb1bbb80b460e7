"""A fit that ended below another of its kind says so, and one that did not says nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.comparison.json import to_json
from vi_recipes.comparison.optima import shortfalls
from vi_recipes.comparison.page import compose
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.model.sites import Site
from vi_recipes.posterior import DrawsPosterior


def fit(method: str, kind: str, **fields: Any) -> vr.Fit:
    return vr.Fit(
        method=method,
        kind=kind,
        status=vr.Status.OK,
        sites=(Site("a", "latent", (), (), (), ()),),
        posterior=DrawsPosterior({"a": np.random.default_rng(0).normal(size=(1, 9))}),
        **fields,
    )


def elbo(value: float, se: float = 0.0) -> dict[str, Any]:
    return {"log_evidence": LogEvidence(value, se, Bound.LOWER, "ELBO")}


def likelihood(value: float, **told: float) -> dict[str, Any]:
    return {"log_likelihood": value, "diagnostics": told}


def density(value: float, space: str | None = None) -> dict[str, Any]:
    config = {"config": {"space": space}} if space else {}
    return {"diagnostics": {"log_density": value}, **config}


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (fit("low", "meanfield", **elbo(-12.0)), fit("high", "lrvb", **elbo(-10.0))),
        (fit("low", "meanfield", **elbo(-10.5, 0.1)), fit("high", "meanfield", **elbo(-10.0, 0.1))),
        (fit("low", "marginal_mle", **likelihood(-200.0)), fit("high", "em", **likelihood(-180.4))),
        (
            fit("low", "em", **likelihood(-200.0, num_nodes=9.0)),
            fit("high", "marginal_mle", **likelihood(-199.9, num_nodes=9.0)),
        ),
        (fit("low", "map", **density(-3.0, "constrained")),
         fit("high", "map", **density(-2.0, "constrained"))),
        (fit("low", "laplace", **density(-3.0)),
         fit("high", "map", **density(-2.0, "unconstrained"))),
        (
            fit("low", "svi", config={"guide": "normal"}, **elbo(-12.0, 0.1)),
            fit("high", "svi", config={"guide": "normal"}, **elbo(-10.0, 0.1)),
        ),
        (
            fit("low", "svi", config={"guide": {"u": "normal"}}, **elbo(-12.0, 0.1)),
            fit("high", "svi", config={"guide": {"u": "normal"}}, **elbo(-10.0, 0.1)),
        ),
    ],
)  # fmt: skip
def test_the_lower_of_two_of_a_kind_is_named_everywhere(low: vr.Fit, high: vr.Fit) -> None:
    c = vr.Comparison({"low": low, "high": high}, target_name="toy")
    assert list(shortfalls(c)) == ["low"]
    verdicts = c.verdict_of
    assert "nats below that of high" in verdicts["low"].text
    assert "nats below" not in verdicts["high"].text
    assert [w for w in c.warnings if w.startswith("low: ") and "nats below" in w]
    assert to_json(c)["warnings"] == c.warnings == list(compose(c).warnings)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (fit("low", "meanfield", **elbo(-10.1, 0.1)), fit("high", "lrvb", **elbo(-10.0, 0.1))),
        (fit("low", "meanfield", **elbo(-12.0)), fit("high", "svi", **elbo(-10.0))),
        (fit("low", "em", **likelihood(-200.0)), fit("high", "em", **likelihood(-199.998))),
        (
            fit("low", "em", **likelihood(-200.0)),
            fit("high", "marginal_mle", **likelihood(-199.0, num_nodes=1.0)),
        ),
        (
            fit("low", "em", **likelihood(-201.0), config={"latent": ["u", "mu"]}),
            fit("high", "marginal_mle", **likelihood(-200.0), config={"latent": ["u"]}),
        ),
        (
            fit("low", "svi", config={"guide": "AutoLowRankMultivariateNormal"}, **elbo(-12.0)),
            fit("high", "svi", config={"guide": "AutoLowRankMultivariateNormal"}, **elbo(-10.0)),
        ),
        (
            fit("low", "svi", config={"guide": {"u": "made_here"}}, **elbo(-12.0)),
            fit("high", "svi", config={"guide": {"u": "made_here"}}, **elbo(-10.0)),
        ),
        (
            fit("low", "em", **likelihood(-201.0), config={"objective": "map"}),
            fit("high", "em", **likelihood(-200.0)),
        ),
        (fit("low", "map", **density(-3.0, "constrained")),
         fit("high", "laplace", **density(-2.0))),
        (
            fit("low", "svi", config={"guide": "normal"}, **elbo(-12.0)),
            fit("high", "svi", config={"guide": "multivariate_normal"}, **elbo(-10.0)),
        ),
    ],
)  # fmt: skip
def test_fits_of_another_kind_or_as_high_are_not_compared(low: vr.Fit, high: vr.Fit) -> None:
    assert shortfalls({"low": low, "high": high}) == {}


def test_a_verdict_that_is_held_is_trustworthy_no_more() -> None:
    verdict = vr.Verdict(vr.Trust.TRUSTWORTHY, "Trustworthy by its own evidence: fine.")
    held = verdict.held("Its ELBO is low")
    assert held.trust is vr.Trust.CARE
    assert held.text == "Usable with care by its own evidence: fine. Its ELBO is low."
