"""Student's t of several coordinates at once, which reaches as far in every direction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import gammaln, stdtrit

from vi_recipes.importance.mixture import Mixture
from vi_recipes.importance.triangular import Proposed

DEGREES = 3.0
"""Of freedom: the density falls off no faster than most."""

WIDER = 2.5
"""Times the spread of the points that its own is."""

SHARE = 0.1
"""Of the points of a mixture that it is part of."""


@dataclass(frozen=True)
class Elliptical:
    """A multivariate t: its density is the same at all points of an ellipsoid.

    That of t's axis by axis falls off faster between the axes than along them, and leaves short a
    density that is heavy-tailed in all directions, as theta's is given few data.

    Parameters
    ----------
    loc, root
        Its centre, and a lower triangular root of its shape: the covariance is ``DEGREES /
        (DEGREES - 2)`` times that shape.
    """

    loc: Float[np.ndarray, " dim"]
    root: Float[np.ndarray, "dim dim"]

    def points(self, u: Float[np.ndarray, "points axes"]) -> Float[np.ndarray, "points dim"]:
        """Return points from uniform numbers, axis by axis given those before."""
        dim = len(self.loc)
        u = np.clip(u[:, :dim], 1e-12, 1 - 1e-12)
        e, square = np.empty_like(u), np.full(len(u), DEGREES)
        for i in range(dim):
            # given i coordinates the next is a t with as many more degrees, wider where they are
            e[:, i] = stdtrit(DEGREES + i, u[:, i]) * np.sqrt(square / (DEGREES + i))
            square = square + e[:, i] ** 2
        return self.loc + e @ self.root.T

    def log_prob(self, x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, " points"]:
        """Return the log density."""
        dim = len(self.loc)
        e = np.linalg.solve(self.root, (x - self.loc).T)
        total = gammaln((DEGREES + dim) / 2) - gammaln(DEGREES / 2)
        total -= dim / 2 * np.log(DEGREES * np.pi) + np.log(np.diag(self.root)).sum()
        return np.asarray(total - (DEGREES + dim) / 2 * np.log1p(np.square(e).sum(0) / DEGREES))


def reaching(
    proposal: Proposed,
    x: Float[np.ndarray, "points dim"],
    weights: Float[np.ndarray, " points"],
) -> Mixture:
    """Return a proposal with a tenth of the points from a t that reaches far in all directions.

    A proposal that is fitted to points covers the tails in which some of them happened to lie;
    what others would have found is missing from every figure, scrambles alike. So sds of theta with
    heavy tails come out short by more than the spread of scrambles tells.

    Parameters
    ----------
    proposal
        The proposal that is fitted to them.
    x, weights
        Points, and weights that sum to 1.
    """
    loc = weights @ x
    away = x - loc
    cov = (away * weights[:, None]).T @ away
    root = np.linalg.cholesky(cov + 1e-10 * np.diag(np.diag(cov)))
    of = proposal if isinstance(proposal, Mixture) else Mixture((proposal,), (1.0,))
    left = tuple((1 - SHARE) * share for share in of.shares)
    return Mixture((*of.parts, Elliptical(loc, WIDER * root)), (*left, SHARE))
