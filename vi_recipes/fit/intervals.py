"""Intervals of a fit's scalars by ArviZ's setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vi_recipes.core import require
from vi_recipes.fit.draws import NUM_DRAWS, fresh_draws
from vi_recipes.fit.fitted import Fitted
from vi_recipes.posterior import held_draws, moments_alone

KINDS = {"eti": "equal-tailed", "hdi": "highest-density"}


@dataclass(frozen=True)
class IntervalSetting:
    """What ArviZ is set to: ``arviz.rcParams["stats.ci_kind"]`` and ``["stats.ci_prob"]``.

    Parameters
    ----------
    kind
        ``"eti"``, equal tails, or ``"hdi"``, highest density.
    prob
        How much of the posterior is inside.
    """

    kind: str
    prob: float

    def __str__(self) -> str:
        return f"{100 * self.prob:.4g} % {KINDS[self.kind]}"

    @property
    def columns(self) -> tuple[str, str]:
        """Names of the two ends, as ArviZ has them: a level of 94.5 % is not called 94."""
        name = f"{self.kind}{100 * self.prob:.4g}"
        return f"{name}_lb", f"{name}_ub"

    def ends(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return both ends of the intervals of columns of draws."""
        if self.kind == "eti":
            tail = (1 - self.prob) / 2
            low, high = np.quantile(draws, [tail, 1 - tail], axis=0)
            return low, high
        ordered = np.sort(draws, axis=0)
        inside = max(int(np.floor(self.prob * len(ordered))), 1)
        widths = ordered[inside:] - ordered[: len(ordered) - inside]
        first = widths.argmin(axis=0)
        at = np.arange(ordered.shape[1])
        return ordered[first, at], ordered[first + inside, at]


def interval_setting(conf_level: float | None = None) -> IntervalSetting:
    """Return the kind and level of intervals that ArviZ is set to, or another level.

    Raises
    ------
    ValueError
        For a level that is not between 0 and 1.
    """
    from arviz_base import rcParams

    level = float(rcParams["stats.ci_prob"]) if conf_level is None else conf_level
    require(
        isinstance(level, int | float) and 0 < level < 1,
        "conf_level", level, "a number between 0 and 1, such as 0.95",
    )  # fmt: skip
    return IntervalSetting(str(rcParams["stats.ci_kind"]), float(level))


def intervals(
    fit: Fitted, sites: Sequence[str] | None = None, setting: IntervalSetting | None = None
) -> tuple[Float[np.ndarray, " scalars"], Float[np.ndarray, " scalars"]]:
    """Return both ends of the intervals of the scalars of ``sites``, in the order of the labels.

    By a sampler's draws, by those that were saved, or by 2,000 of an approximation: an end of an
    89 % interval has then a Monte Carlo error of about 0.05 sds. NaN for a point, and for moments
    alone.
    """
    setting = setting or interval_setting()
    known = [s.name for s in fit.sites]
    names = known if sites is None else list(sites)
    sizes = {s.name: s.size for s in fit.sites}
    none = np.full(sum(sizes[name] for name in names), np.nan)
    posterior = fit.known_posterior()
    held = held_draws(posterior)
    if fit.is_point or (held is None and moments_alone(posterior)) or not names:
        return none, none.copy()
    if held is not None:
        columns = {n: held[n].reshape(-1, sizes[n]) for n in names}
    else:
        pieces = [
            {n: piece[n].reshape(-1, sizes[n]) for n in names}
            for piece in fresh_draws(fit, NUM_DRAWS)
        ]
        columns = {n: np.concatenate([piece[n] for piece in pieces]) for n in names}
    ends = [setting.ends(columns[name].astype(float)) for name in names]
    low, high = (np.concatenate(values) for values in zip(*ends, strict=True))
    return low, high
