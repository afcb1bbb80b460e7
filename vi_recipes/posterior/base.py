"""What a fit knows of the posterior, on the user's scale: a point, moments, draws or a Gaussian."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from vi_recipes.model import Sites

NUM_NODES = 96
"""Of Gauss-Hermite quadrature, for moments of scalars that depend on one coordinate."""

NUM_HERMITE = 64
"""Polynomials that such scalars are expanded in, for covariances of two of them."""

NUM_MOMENT_DRAWS = 10_000
"""For moments of the others."""


@dataclass(frozen=True)
class Moments:
    """Means and sds on the constrained scale with their Monte Carlo errors, by site.

    Parameters
    ----------
    mean, sd
        Of the site's shape; the sd is NaN where there is none.
    mcse_mean, mcse_sd
        Monte Carlo standard errors of both.
    tails
        Pareto's khat, where a mean or sd does not exist or is not known: NaN at other scalars, and
        nothing for other sites. There the median stands for the mean, and for the sd half of what
        the central 68 % span.
    """

    mean: Sites
    sd: Sites
    mcse_mean: Sites
    mcse_sd: Sites
    tails: Mapping[str, np.ndarray] = field(default_factory=dict)


def errors_of_draws(
    draws: Shaped[np.ndarray, " draws *shape"], *, paired: bool = False
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Return the Monte Carlo standard errors of means and of sds by independent draws.

    That of an sd is by the delta method, from how much squares vary. Of draws of a normal law it is
    sd / sqrt(2 n); of a skewed quantity it may be many times as large.

    Parameters
    ----------
    draws
        They lead; two at least.
    paired
        Whether the second half mirrors the first, so that a pair counts as one.
    """
    square = draws - draws.mean(axis=0)
    np.square(square, out=square)  # there may be many
    sd = np.sqrt(square.mean(axis=0))
    half = len(draws) // 2

    def error(values: np.ndarray) -> np.ndarray:
        if paired:
            values = (values[:half] + values[half:]) / 2
        return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))

    with np.errstate(divide="ignore", invalid="ignore"):
        return error(draws), np.where(sd > 0, error(square) / (2 * sd), 0.0)


ROUNDING = {"float32": 5e-7, "float64": 1e-13}
"""Relative to its size, what a number may vary by and still be a constant, by precision."""


def is_constant(spread: Any, size: Any, dtype: str = "float64") -> Any:
    """Return whether numbers vary by rounding alone.

    The first diagonal element of a Cholesky factor of correlations is 1 in every draw, up to the
    last digit; what is made of that digit says nothing of a fit.

    Parameters
    ----------
    spread
        By how much each varies: an sd, or a range. NaN, where it is not known, is no constant.
    size
        How large it is.
    dtype
        The precision that it was computed in.
    """
    return np.asarray(spread) <= ROUNDING.get(dtype, ROUNDING["float64"]) * np.abs(size)


def at_known_sds(
    sampled: Float[np.ndarray, "scalars scalars"],
    known: Float[np.ndarray, "scalars scalars"],
    which: Bool[np.ndarray, " scalars"],
) -> Float[np.ndarray, "scalars scalars"]:
    """Return a covariance of draws with the sds that are known of some scalars.

    Beside those sds the draws' own errors would make correlations above 1.
    """
    variances = np.diag(sampled)
    known_too = which & (variances > 0)
    factor = np.ones(len(sampled))
    factor[known_too] = np.sqrt(np.diag(known)[known_too] / variances[known_too])
    return sampled * np.outer(factor, factor)


class Posterior(ABC):
    """An approximation to the posterior; every value is on the constrained scale."""

    @abstractmethod
    def mean(self) -> Sites:
        """Return the means; for a point, the point itself."""

    @abstractmethod
    def sd(self) -> Sites:
        """Return the standard deviations; NaN where the method has none."""

    @abstractmethod
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        """Return the joint covariance of the scalars of ``sites``, in C order."""

    def gaussian(
        self, rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows rows"]] | None:
        """Return the mean and the covariance of some coordinates, where these are jointly normal.

        Parameters
        ----------
        rows
            Which coordinates of the flat unconstrained vector.
        """
        return None

    @abstractmethod
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        """Return draws; the draw dimension leads."""

    def mcse_mean(self) -> Sites:
        """Return the Monte Carlo standard errors of the means; 0 where there is no such error."""
        return {name: np.zeros_like(value) for name, value in self.mean().items()}

    def mcse_sd(self) -> Sites:
        """Return the Monte Carlo standard errors of the sds; 0 where there is no such error."""
        return {name: np.zeros_like(value) for name, value in self.mean().items()}

    def tails(self) -> Sites:
        """Return khat of scalars without an sd (from 0.5) or a mean (from 0.7); NaN of others.

        By site, of its shape; sites of which all have both are left out.
        """
        return {}

    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        """Return independent draws with their density under q; ``None`` where it has none."""
        return None

    def block_draws(
        self, place: slice, num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "draws dim"], Float[np.ndarray, " draws"]] | None:
        """Return draws of some coordinates, the others held at q's means.

        Parameters
        ----------
        place
            The coordinates, of the flat unconstrained vector.
        num_draws, key
            How many, and their seed.

        Returns
        -------
        tuple or None
            Flat vectors, shape (num_draws, dim), and their log density given the others, shape
            (num_draws,); ``None`` where q has none.
        """
        return None

    def marginal_draws(
        self, rows: Int[np.ndarray, " rows"], num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "draws rows"], Float[np.ndarray, " draws"]] | None:
        """Return independent draws of some coordinates, the others integrated out.

        Parameters
        ----------
        rows
            Which coordinates of the flat unconstrained vector.
        num_draws, key
            How many, and their seed.

        Returns
        -------
        tuple or None
            The coordinates, shape (num_draws, rows), and their log density under q's marginal,
            shape (num_draws,); ``None`` where q has none that is quick to compute.
        """
        return None


def per_scalar(function: str, samples: Mapping[str, np.ndarray], **options: Any) -> Sites:
    """Apply one of ArviZ's diagnostics to every scalar of ``samples``.

    Parameters
    ----------
    function
        ``"ess"``, ``"rhat"`` or ``"mcse"``. That of a constant is NaN.
    samples
        Draws shaped (chain, draw, *site shape).
    **options
        Passed on, such as ``method="tail"``.
    """
    from arviz_stats.base import array_stats  # type: ignore[attr-defined]

    diagnostic = getattr(array_stats, function)
    if options.get("method") == "tail":
        options = {**options, "prob": (0.05, 0.95)}
    result = {}
    for name, value in samples.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.asarray(diagnostic(value, chain_axis=0, draw_axis=1, **options))
        result[name] = np.where(drawn_constant(value), np.nan, found)
    return result


def drawn_constant(
    draws: Shaped[np.ndarray, "chains draws *site"],
) -> Bool[np.ndarray, "*site"]:
    """Return which scalars of draws, shaped (chain, draw, *site shape), vary by rounding alone."""
    dtype = "float32" if draws.dtype == np.float32 else "float64"
    size = np.abs(draws).max((0, 1), initial=0.0)
    return np.asarray(is_constant(np.ptp(draws, axis=(0, 1)), size, dtype))


def held_draws(posterior: Posterior) -> Sites | None:
    """Return the draws that a posterior holds, shape (chain, draw, *site shape); or ``None``."""
    held: Sites | None = getattr(posterior, "samples", None)
    return held


@dataclass(frozen=True)
class WeighedDraws:
    """Independent draws of an approximation q.

    Parameters
    ----------
    z
        Flat unconstrained vectors, shape (num_draws, dim).
    log_q
        Their log density under q over the unconstrained scale, shape (num_draws,).
    values
        What they are on the constrained scale, site by site, the draw leading.
    """

    z: Float[np.ndarray, "draws dim"]
    log_q: Float[np.ndarray, " draws"]
    values: Sites

    def first(self, num_draws: int) -> WeighedDraws:
        """Return as many of them."""
        values = {name: value[:num_draws] for name, value in self.values.items()}
        return WeighedDraws(self.z[:num_draws], self.log_q[:num_draws], values)
