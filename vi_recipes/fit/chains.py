"""Whether chains can be trusted: what is measured of draws and statistics, and the complaints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vi_recipes.fit.tails import tail_shapes
from vi_recipes.importance import FINITE_VARIANCE
from vi_recipes.model import Sites
from vi_recipes.posterior import per_scalar

R_HAT_LIMIT = 1.01
"""Vehtari et al. (2021), doi:10.1214/20-BA1221."""

ESS_PER_CHAIN = 100
"""Smallest bulk or tail ESS per chain; same source."""

E_BFMI_LIMIT = 0.3
"""Betancourt (2016), arXiv:1604.00695."""

DIVERGENT_SHARE = 0.001
"""Share of divergent transitions that is still no complaint."""

DEPTH_SHARE = 0.01
"""Share of trees at the depth limit that is still no complaint."""


def measure(
    samples: Mapping[str, np.ndarray],
    stats: Mapping[str, np.ndarray],
    max_tree_depth: int | None = None,
) -> dict[str, float]:
    """Return the diagnostics of draws and of those statistics of a sampler that there are.

    Parameters
    ----------
    samples
        Site -> draws, shape (chain, draw, *site shape), constrained scale.
    stats
        The sampler's statistics, shape (chain, draw), named as ArviZ names them.
    max_tree_depth
        The sampler's limit; ``None`` where it is not known.
    """
    measured: dict[str, float] = {}
    if "diverging" in stats:
        measured["divergences"] = float(stats["diverging"].sum())
    if "tree_depth" in stats and max_tree_depth is not None:
        at_limit = stats["tree_depth"] >= max_tree_depth
        measured["max_tree_depth_share"] = float(at_limit.mean())
    # a file may have one number where none is known
    if "energy" in stats and np.ptp(stats["energy"]) > 0:
        energy = stats["energy"]
        spread = energy.var(axis=1)
        e_bfmi = (np.diff(energy, axis=1) ** 2).mean(1) / np.where(spread > 0, spread, np.inf)
        measured["e_bfmi_min"] = float(e_bfmi.min())
    for name, of in (
        ("num_steps_mean", "n_steps"),
        ("accept_prob_mean", "acceptance_rate"),
        ("step_size_mean", "step_size"),
    ):
        if of in stats:
            measured[name] = float(stats[of].mean())
    free = {n: v for n, v in samples.items() if np.ptp(v) > 0}
    return measured | {
        "r_hat_max": _extreme(np.max, per_scalar("rhat", free)),
        "ess_bulk_min": _extreme(np.min, per_scalar("ess", free, method="bulk")),
        "ess_tail_min": _extreme(np.min, per_scalar("ess", free, method="tail")),
    }


def complain(measured: Mapping[str, float], num_chains: int, total: int) -> tuple[list[str], str]:
    """Return what is wrong with chains, and what to try.

    Parameters
    ----------
    measured
        From :func:`measure`; what a sampler does not tell is nothing to complain of.
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
    if not measured.get("e_bfmi_min", E_BFMI_LIMIT) >= E_BFMI_LIMIT:
        complaints.append(f"E-BFMI down to {measured['e_bfmi_min']:.2f} (limit {E_BFMI_LIMIT})")
        advice = "reparameterise (non-centre the hierarchy)"
    if measured.get("max_tree_depth_share", 0.0) > DEPTH_SHARE:
        complaints.append(f"{measured['max_tree_depth_share']:.0%} of trees at the depth limit")
        advice = "raise max_tree_depth, or reparameterise"
    if measured.get("divergences", 0.0) > DIVERGENT_SHARE * total:
        complaints.append(f"{measured['divergences']:.0f} divergences in {total} draws")
        advice = "raise target_accept_prob towards 1, or non-centre the hierarchy"
    return complaints, advice


def healthy(measured: Mapping[str, float]) -> str:
    """Return what there is to say of chains without complaints."""
    divergences = measured.get("divergences", 0.0)
    return (
        f"R-hat at most {measured['r_hat_max']:.4f}, bulk ESS at least "
        f"{measured['ess_bulk_min']:.0f}, "
        + (f"{divergences:.0f} divergences" if divergences else "no trouble reported")
    )


def heavy_tails(samples: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Return the largest khat of draws whose variance is not finite, and a sentence part on them.

    NaN and nothing where there are none such.
    """
    shapes = tail_shapes(samples)
    lost = [n for n, k in shapes.items() if (k >= FINITE_VARIANCE).any()]
    if not lost:
        return float("nan"), ""
    worst = max(float(np.nanmax(shapes[n])) for n in lost)
    return worst, (
        f"; Pareto khat of the draws of {', '.join(lost)} is up to {worst:.2f}: take medians and "
        "intervals there, not means and sds"
    )


def _extreme(pick: Callable[..., Any], values: Sites) -> float:
    """Pick from the numbers there are: R-hat is NaN for one chain, and for constants."""
    known = [v[~np.isnan(v)] for v in map(np.atleast_1d, values.values())]
    numbers = np.concatenate(known) if known else np.empty(0)
    return float(pick(numbers)) if numbers.size else float("nan")
