"""Whether the chains can be trusted."""

from __future__ import annotations

import numpy as np

from vi_recipes.core import Status
from vi_recipes.fit import complain, healthy, heavy_tails, measure
from vi_recipes.methods.base import Result
from vi_recipes.methods.nuts.running import Draws
from vi_recipes.model import Target, other_labelling, undeclared
from vi_recipes.posterior import DrawsPosterior

APART = 1.1
"""R-hat above which chains do not agree: they are looked at for components in several orders."""

FEWEST_DRAWS = 100
"""Of a chain, below which its mean and sd do not say where it stays."""


def audit(
    samples: Draws, stats: Draws, *, num_samples: int, max_tree_depth: int, interrupted: bool
) -> Result:
    """Return the result of chains, with their diagnostics and the status they earn.

    Parameters
    ----------
    samples
        Site -> draws, shape (chain, draw, *site shape), constrained scale.
    stats
        The sampler's statistics, shape (chain, draw).
    num_samples
        Draws a chain that were asked for.
    max_tree_depth
        The sampler's limit.
    interrupted
        Whether there are fewer.
    """
    num_chains, num_draws = stats["num_steps"].shape
    named = {
        "diverging": stats["diverging"],
        "energy": stats["energy"],
        "lp": -stats["potential_energy"],
        "n_steps": stats["num_steps"],
        "tree_depth": tree_depth(stats["num_steps"]),
        "acceptance_rate": stats["accept_prob"],
        "step_size": stats["step_size"],
    }
    diagnostics = measure(samples, named, max_tree_depth)
    complaints, advice = complain(diagnostics, num_chains, num_chains * num_draws)
    status = Status.OK if not complaints else Status.UNCONVERGED
    if interrupted:
        status = Status.INTERRUPTED
        complaints.insert(0, f"{num_draws} of {num_samples} draws a chain")
    khat, aside = heavy_tails(samples)
    if aside:
        diagnostics["khat_draws"] = khat
    return Result(
        DrawsPosterior(samples),
        status,
        ("; ".join(complaints) or healthy(diagnostics)) + aside,
        advice,
        diagnostics=diagnostics,
        sample_stats=named,
    )


def in_several_orders(result: Result, samples: Draws, target: Target) -> None:
    """Have a result of chains that do not agree say so where components may change places."""
    short = len(result.sample_stats["n_steps"][0]) < FEWEST_DRAWS
    if short or not result.diagnostics.get("r_hat_max", 1.0) > APART:
        return
    first = {name: value[0] for name, value in samples.items()}  # a chain is in one order, mostly
    mean = {name: value.mean(axis=0) for name, value in first.items()}
    sd = {name: value.std(axis=0) for name, value in first.items()}
    if group := other_labelling(target, mean, sd):
        said, result.advice = undeclared(group)
        result.message = f"{said}; {result.message}"


def tree_depth(num_steps: np.ndarray) -> np.ndarray:
    """Return the depths of the trees of so many leapfrog steps."""
    return np.floor(np.log2(np.maximum(num_steps, 1))).astype(int) + 1
