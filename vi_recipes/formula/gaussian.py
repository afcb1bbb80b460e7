"""Linear predictors under a Gaussian posterior: normal, and means that follow, by quadrature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.special import ndtri

from vi_recipes.fit import Fit
from vi_recipes.formula.glmm import GLMM
from vi_recipes.formula.links import LINKS
from vi_recipes.formula.newdata import NewRows
from vi_recipes.model import Site, Target

MOST = 2_000
"""Coefficients and effects whose covariance is formed for the predictions of some rows."""

REACH, NUM_NODES = 9.0, 401
"""Standard deviations to either side, and points between, of the trapezoid rule: it has rounding
alone as its error where the link is smooth over a step of its nodes."""

AT_ONCE = 2**21
"""Numbers that are formed at once."""


@dataclass(frozen=True)
class NormalPredictor:
    """The linear predictor of some rows, each of them normal.

    Parameters
    ----------
    mean, sd
        Of the rows, shape (rows,).
    known
        Which rows these are; NaN stands at the others.
    """

    mean: Float[np.ndarray, " rows"]
    sd: Float[np.ndarray, " rows"]
    known: Bool[np.ndarray, " rows"]

    def moments(self, link: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the sd of the link's inverse at the linear predictor.

        Of the logarithm they are a lognormal's; others are by the trapezoid rule over the normal.
        """
        if link == "identity":
            return self.mean, self.sd
        if link == "log":
            with np.errstate(over="ignore"):
                mean = np.exp(self.mean + self.sd**2 / 2)
                return mean, mean * np.sqrt(np.expm1(self.sd**2))
        nodes = np.linspace(-REACH, REACH, NUM_NODES)
        weights = np.exp(-(nodes**2) / 2)
        weights /= weights.sum()
        mean, sd = np.empty_like(self.mean), np.empty_like(self.sd)
        together = max(AT_ONCE // NUM_NODES, 1)
        for first in range(0, len(mean), together):
            rows = slice(first, first + together)
            values = LINKS[link].inverse(self.mean[rows, None] + self.sd[rows, None] * nodes)
            mean[rows] = values @ weights
            sd[rows] = np.sqrt(np.square(values - mean[rows, None]) @ weights)
        return mean, sd

    def interval(self, link: str, level: float) -> Float[np.ndarray, "rows 2"]:
        """Return the equal-tailed interval of the link's inverse, which rises."""
        ends = ndtri([(1 - level) / 2, (1 + level) / 2])
        inverse: Callable[[np.ndarray], np.ndarray] = LINKS[link].inverse
        return np.asarray(inverse(self.mean[:, None] + self.sd[:, None] * ends))


def normal_predictor(
    fit: Fit,
    target: Target,
    model: GLMM,
    at: NewRows,
    constant: Callable[[Sequence[str]], Float[np.ndarray, " rows"]],
) -> NormalPredictor | None:
    """Return the law of the linear predictor at new rows, where the fit's posterior is Gaussian.

    A row with a member that the data did not have is not known: the effect is normal given an sd
    that is not known itself.

    Parameters
    ----------
    fit, target, model
        A fit of a formula's model.
    at
        The new rows.
    constant
        Returns the linear predictor with the sites that are named at 0.

    Returns
    -------
    NormalPredictor or None
        ``None`` for a posterior that is not Gaussian in the coefficients, a linear predictor of
        each level, and more than 2,000 coefficients and effects.
    """
    predictor, posterior = model.predictors[0], fit.known_posterior()
    latents = {site.name: site for site in target.latents}
    known = np.ones(at.rows, bool)
    parts = [(predictor.intercept, np.zeros((at.rows, 1), int), np.ones((at.rows, 1)))]
    if predictor.beta:
        matrix = np.asarray(at.arguments[predictor.matrix], float)
        parts.append((predictor.beta, np.tile(np.arange(matrix.shape[1]), (at.rows, 1)), matrix))
    for term in predictor.terms:
        codes = at.arguments[term.group.name]
        seen = codes < len(term.group.factor.members)
        known &= seen | (at.groups == "population")
        for effect in term.effects:
            value = 1.0 if effect.column is None else at.arguments[term.matrix][:, effect.column]
            parts.append((effect.site, np.where(seen, codes, 0)[:, None], (seen * value)[:, None]))
    parts = [part for part in parts if part[0] in latents]
    if not parts or not known.any() or not all(_is_plain(latents[name]) for name, *_ in parts):
        return None
    columns = np.concatenate([target.slices[name].start + own for name, own, _ in parts], axis=1)
    values = np.concatenate([value for *_, value in parts], axis=1)
    coordinates, place = np.unique(columns[known], return_inverse=True)
    found = posterior.gaussian(coordinates) if len(coordinates) <= MOST else None
    if found is None:
        return None
    loc, cov = found
    where = (np.repeat(np.arange(known.sum()), columns.shape[1]), place.ravel())
    shape = (int(known.sum()), len(coordinates))
    design = sparse.csr_array((values[known].ravel(), where), shape=shape)
    mean, sd = np.full((2, at.rows), np.nan)
    mean[known] = constant([name for name, *_ in parts])[known] + design @ loc
    sd[known] = np.sqrt(np.maximum(design.multiply(design @ cov).sum(axis=1), 0.0))
    return NormalPredictor(mean, sd, known)


def _is_plain(site: Site) -> bool:
    """Return whether a site's values are the unconstrained coordinates themselves."""
    return not site.bounded and "ordered" not in site.support.lower()
