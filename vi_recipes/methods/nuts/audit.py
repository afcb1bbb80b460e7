"""Whether the chains can be trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vi_recipes.core import Status
from vi_recipes.fit import tail_shapes
from vi_recipes.importance import FINITE_VARIANCE
from vi_recipes.methods.base import Result
from vi_recipes.methods.nuts.running import Draws
from vi_recipes.posterior import DrawsPosterior, per_scalar

R_HAT_LIMIT = 1.01
"""Vehtari et al. (2021), doi:10.1214/20-BA1221."""

ESS_PER_CHAIN = 100
"""Smallest bulk or tail ESS per chain; same source."""

E_BFMI_LIMIT = 0.3
"""Betancourt (2016), arXiv:1604.00695."""

DIVERGENT_SHARE = 0.001
"""Share of divergent transitions that is still no complaint."""


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
    depth = tree_depth(stats["num_steps"])
    diagnostics = measure(samples, stats, max_tree_depth)
    complaints, advice = complain(diagnostics, num_chains, num_chains * num_draws)
    status = Status.OK if not complaints else Status.UNCONVERGED
    if interrupted:
        status = Status.INTERRUPTED
        complaints.insert(0, f"{num_draws} of {num_samples} draws a chain")
    divergences = diagnostics["divergences"]
    healthy = (
        f"R-hat at most {diagnostics['r_hat_max']:.4f}, bulk ESS at least "
        f"{diagnostics['ess_bulk_min']:.0f}, "
        + (f"{divergences:.0f} divergences" if divergences else "no trouble reported")
    )
    message = "; ".join(complaints) or healthy
    shapes = tail_shapes(samples)
    if lost := [n for n, k in shapes.items() if (k >= FINITE_VARIANCE).any()]:
        diagnostics["khat_draws"] = max(float(np.nanmax(shapes[n])) for n in lost)
        message += (
            f"; Pareto khat of the draws of {', '.join(lost)} is up to "
            f"{diagnostics['khat_draws']:.2f}: take medians and intervals there, not means and sds"
        )
    return Result(
        DrawsPosterior(samples),
        status,
        message,
        advice,
        diagnostics=diagnostics,
        sample_stats={
            "diverging": stats["diverging"],
            "energy": stats["energy"],
            "lp": -stats["potential_energy"],
            "n_steps": stats["num_steps"],
            "tree_depth": depth,
            "acceptance_rate": stats["accept_prob"],
            "step_size": stats["step_size"],
        },
    )


def tree_depth(num_steps: np.ndarray) -> np.ndarray:
    """Return the depths of the trees of so many leapfrog steps."""
    return np.floor(np.log2(np.maximum(num_steps, 1))).astype(int) + 1


def measure(samples: Draws, stats: Draws, max_tree_depth: int) -> dict[str, float]:
    """Return the diagnostics of draws and statistics of several chains (see :func:`audit`)."""
    num_steps, energy = stats["num_steps"], stats["energy"]
    e_bfmi = (np.diff(energy, axis=1) ** 2).mean(1) / energy.var(axis=1)
    free = {n: v for n, v in samples.items() if np.ptp(v) > 0}
    return {
        "divergences": float(stats["diverging"].sum()),
        "max_tree_depth_share": float((tree_depth(num_steps) >= max_tree_depth).mean()),
        "e_bfmi_min": float(e_bfmi.min()),
        "num_steps_mean": float(num_steps.mean()),
        "accept_prob_mean": float(stats["accept_prob"].mean()),
        "step_size_mean": float(stats["step_size"].mean()),
        "r_hat_max": _extreme(np.max, per_scalar("rhat", free)),
        "ess_bulk_min": _extreme(np.min, per_scalar("ess", free, method="bulk")),
        "ess_tail_min": _extreme(np.min, per_scalar("ess", free, method="tail")),
    }


def complain(measured: Mapping[str, float], num_chains: int, total: int) -> tuple[list[str], str]:
    """Return what is wrong with chains, and what to try.

    Parameters
    ----------
    measured
        From :func:`measure`.
    num_chains
        Their number.
    total
        Draws of them all.
    """
    complaints, advice = [], ""
    # not (x <= limit): NaN is a complaint too
    if not (num_chains > 1 and measured["r_hat_max"] <= R_HAT_LIMIT):
        complaints.append(
            f"R-hat up to {measured['r_hat_max']:.3f} (limit {R_HAT_LIMIT})"
            if num_chains > 1
            else "one chain, so R-hat cannot vouch for it"
        )
        advice = "run longer chains, and more of them"
    floor = ESS_PER_CHAIN * num_chains
    for kind in ("bulk", "tail"):
        ess = measured[f"ess_{kind}_min"]
        if not ess >= floor:
            complaints.append(f"{kind} ESS down to {ess:.0f} (want {floor})")
            advice = advice or "run longer chains"
    if not measured["e_bfmi_min"] >= E_BFMI_LIMIT:
        complaints.append(f"E-BFMI down to {measured['e_bfmi_min']:.2f} (limit {E_BFMI_LIMIT})")
        advice = "reparameterise (non-centre the hierarchy)"
    if measured["max_tree_depth_share"] > 0.01:
        complaints.append(f"{measured['max_tree_depth_share']:.0%} of trees at the depth limit")
        advice = "raise max_tree_depth, or reparameterise"
    if measured["divergences"] > DIVERGENT_SHARE * total:
        complaints.append(f"{measured['divergences']:.0f} divergences in {total} draws")
        advice = "raise target_accept_prob towards 1, or non-centre the hierarchy"
    return complaints, advice


def _extreme(pick: Callable[..., Any], values: Draws) -> float:
    """Pick from the numbers there are: R-hat is NaN for one chain, and for constants."""
    known = [v[~np.isnan(v)] for v in map(np.atleast_1d, values.values())]
    numbers = np.concatenate(known) if known else np.empty(0)
    return float(pick(numbers)) if numbers.size else float("nan")
