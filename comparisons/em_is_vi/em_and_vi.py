"""EM against variational inference, row by row, with what this run shows of each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

import vi_recipes as vr

NOT_RUN = "not run"


def table(comparison: vr.Comparison, share: float) -> pd.DataFrame:
    """Return the table; ``share`` is that of the information that is missing."""

    def of(name: str, say: Callable[[vr.Fit], str]) -> str:
        fit = comparison.get(name)
        return NOT_RUN if fit is None or not fit.has_result else say(fit)

    def steps(name: str) -> str:
        return of(name, lambda fit: f"{fit.diagnostics['iterations']:,.0f} iterations")

    def top(name: str) -> str:
        return of(name, lambda fit: f"{fit.log_likelihood:.4f}")

    def widths(name: str) -> str:
        reference = comparison.reference
        if reference is None:
            return NOT_RUN
        sites = ("pi", "log_lam")
        right = np.concatenate([np.ravel(reference.sd()[s]) for s in sites])
        return of(
            name,
            lambda fit: "{:.2f} to {:.2f}".format(
                *np.sort(np.concatenate([np.ravel(fit.sd()[s]) for s in sites]) / right)[[0, -1]]
            ),
        )

    def evidence(name: str) -> str:
        return of(
            name,
            lambda fit: f"{fit.log_evidence.value:.3f}" if fit.log_evidence else "none",
        )

    def fell(name: str, quantity: str) -> str:
        def most(fit: vr.Fit) -> str:
            path = np.atleast_2d(fit.trace[quantity])
            return f"{max(0.0, -float(np.diff(path).min())):.1e}"

        return of(name, most)

    rows = [
        (
            "goal",
            "the theta with the highest log p(y | theta), z integrated out",
            "q near p(z, theta | y): the highest ELBO over a family",
            f"em: log p(y | theta) = {top('em')}; meanfield: ELBO {evidence('meanfield')}, a lower "
            "bound of log p(y)",
        ),
        (
            "core idea",
            "F(q, theta) = log p(y | theta) - KL, raised in q and theta in turn",
            "the same F with a law for theta too, and q restricted",
            "exhibits two_coordinates, identity",
        ),
        (
            "update",
            "E-step: q = p(z | y, theta); M-step: theta at the top of Q",
            "factor by factor (CAVI), by gradients (SVI) or Newton's steps (MeanField)",
            f"em: {steps('em')}; meanfield: {steps('meanfield')}",
        ),
        (
            "guarantees",
            "log p(y | theta) never falls; a stationary point, not the highest",
            "the ELBO is a lower bound; how far below is not known from it",
            f"em fell by at most {fell('em', 'log_likelihood')} nats in an iteration; rises of Q "
            "and KL in exhibit rises",
        ),
        (
            "trade-off",
            "exact E-steps, or none; slow where information is missing",
            "any model, with the KL that the family leaves",
            f"{share:.4f} of the information is missing along EM's last steps; KL by family in "
            "exhibit families",
        ),
        (
            "outputs",
            "a point for theta, its standard errors, p(z | y, theta)",
            "a law for theta and z",
            f"sds over the reference's: em {widths('em')}; meanfield {widths('meanfield')}; lrvb "
            f"{widths('lrvb')}",
        ),
        (
            "typical uses",
            "mixtures, hidden Markov models, mixed models, missing data",
            "many parameters, no tractable E-step, many rows",
            "models times_deaths, hmm, linear_mixed; studies criteo, vae, advi",
        ),
        (
            "strengths",
            "no step size; monotone, so that a fault shows; SQUAREM speeds it up",
            "uncertainty of theta; a bound to compare models by",
            f"em_squarem: {steps('em_squarem')}, marginal_mle: {steps('marginal_mle')} for em's "
            f"{steps('em')}",
        ),
        (
            "weaknesses",
            "no prior mass of theta: overfits where rows a parameter are few; local maxima",
            "sds too small where q leaves correlations out",
            f"meanfield's sds are {widths('meanfield')} of the reference's; studies neyman_scott, "
            "point_masses",
        ),
    ]
    return pd.DataFrame(rows, columns=["", "EM", "variational inference", "shown by"])
