"""Coordinates in which a posterior is nearly a standard normal: a sampler's, not the user's.

With the linear-response covariance of a mean-field fit, z_g = m_g + L e_g for the coordinates of
the border and, for every member of the local plate, z_t = m_t + K_t L e_g + C_t e_t. L is a root of
the border's covariance, K_t the regression of the member on the border, and C_t a root of what
variance is left. In e the linear-response covariance is the identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.algebra import LocalStructure
from vi_recipes.posterior import ResponsePosterior


@dataclass(frozen=True)
class Whitening:
    """An affine map from whitened coordinates to the unconstrained vector.

    Parameters
    ----------
    structure
        Border and members in the unconstrained vector; whitened coordinates have the same places.
    centre
        The unconstrained vector at e = 0.
    root
        L, shape (G, G).
    regression
        K_t, shape (T, d, G).
    roots
        C_t, shape (T, d, d).
    """

    structure: LocalStructure
    centre: np.ndarray
    root: np.ndarray
    regression: np.ndarray
    roots: np.ndarray

    def arrays(self) -> tuple[jax.Array, ...]:
        """Return what :meth:`apply` needs, in the precision in force."""
        return tuple(jnp.asarray(a) for a in (self.centre, self.root, self.regression, self.roots))

    def apply(self, e: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
        """Return the unconstrained vector; pure."""
        return unwhiten(self.structure, e, arrays)

    def apply_rows(self, e: np.ndarray) -> np.ndarray:
        """Return the unconstrained vectors of an array (..., dim), in NumPy."""
        border, local = self.structure.border, self.structure.local
        moved = e[..., border] @ self.root.T
        z = np.broadcast_to(self.centre, e.shape).copy()
        z[..., border] += moved
        if local.size:
            flat = self.regression.reshape(-1, border.size)
            shift = (moved @ flat.T).reshape(*e.shape[:-1], *local.shape)
            z[..., local] += shift + np.einsum("tij,...tj->...ti", self.roots, e[..., local])
        return z


def unwhiten(structure: LocalStructure, e: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
    """Return the unconstrained vector at whitened coordinates; pure.

    Parameters
    ----------
    structure
        Of the map.
    e
        The whitened coordinates.
    arrays
        From :meth:`Whitening.arrays`.
    """
    centre, root, regression, roots = arrays
    border, local = structure.border, structure.local
    moved = root @ e[border]
    z = centre.at[border].add(moved)
    if local.size:
        shift = jnp.einsum("tdg,g->td", regression, moved)
        if local.shape[1] == 1:
            free = roots[:, :, 0] * e[local]
        else:
            free = jnp.einsum("tij,tj->ti", roots, e[local])
        z = z.at[local].add(shift + free)
    return z


def whiten(posterior: ResponsePosterior) -> Whitening:
    """Return the coordinates that whiten a linear-response fit."""
    slopes = posterior.location_slopes
    wide = posterior.hessian.structure
    border, local = wide.border[::2] // 2, wide.local[:, ::2] // 2
    cov, cross, of_members = posterior.hessian.covariance_parts()
    size, (members, width) = border.size, local.shape

    def by_coordinate(index: np.ndarray) -> Any:
        return slopes[index]

    at_border, at_local = by_coordinate(border), by_coordinate(local)
    cov = np.einsum(
        "ik,ikjl,jl->ij", at_border, cov.reshape(size, 2, size, 2), at_border, optimize=True
    )
    cross = np.einsum(
        "tak,takjl,jl->taj",
        at_local,
        cross.reshape(members, width, 2, size, 2),
        at_border,
        optimize=True,
    )
    of_members = np.einsum(
        "tak,takbl,tbl->tab",
        at_local,
        of_members.reshape(members, width, 2, width, 2),
        at_local,
        optimize=True,
    )
    regression = np.linalg.solve(cov, cross.reshape(-1, size).T).T.reshape(cross.shape)
    left = of_members - np.einsum("taj,tbj->tab", regression, cross)
    return Whitening(
        LocalStructure(border, local, wide.sites, wide.plate),
        posterior.location_scale[0],
        np.linalg.cholesky(cov),
        regression,
        np.linalg.cholesky(left),
    )
