"""Cholesky factors of correlation matrices by a short program, in place of NumPyro's.

NumPyro finds where the correlations stand in the matrix while the program runs, and multiplies
along its rows: some thirty kernels of XLA, and as many again for every derivative, which is a fifth
of what it takes to compile mean field of a model of correlated effects. The same coordinates are
used here, with two constant matrices.
"""

from __future__ import annotations

import copy
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from numpyro import distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import CorrCholeskyTransform, biject_to
from numpyro.primitives import Messenger

MOST = 16
"""Rows up to which the constant matrices are small."""


class RestatedCorrelations(Messenger):  # type: ignore[misc]
    """Has LKJ laws of latent sites say that :class:`ShortCorrCholesky` is the way to their support.

    Laws within a wrapper, as a plate makes it, keep NumPyro's: values and densities are the same
    either way.
    """

    @override
    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] != "sample" or msg["is_observed"]:
            return
        law = msg["fn"]
        if type(law) is dist.LKJCholesky and law.dimension <= MOST:
            msg["fn"] = copy.copy(law)
            msg["fn"].support = SUPPORT


class _CorrelationFactors(constraints.Constraint):  # type: ignore[misc]
    """NumPyro's constraint, with a class of its own, by which the transform is found."""

    event_dim = 2

    def __call__(self, x: Any) -> ArrayLike:
        inside: ArrayLike = constraints.corr_cholesky(x)
        return inside

    def feasible_like(self, prototype: Any) -> Any:
        return constraints.corr_cholesky.feasible_like(prototype)

    def tree_flatten(self) -> tuple[tuple[()], tuple[tuple[()], dict[str, Any]]]:
        return (), ((), {})


SUPPORT = _CorrelationFactors()


class ShortCorrCholesky(CorrCholeskyTransform):  # type: ignore[misc]
    """Takes real numbers x_ik, i > k, to the Cholesky factor L of a correlation matrix.

    L_ik is tanh(x_ik) times the product of sech(x_ij) over j < k, and the diagonal has that product
    with 1: the coordinates of :class:`numpyro.distributions.transforms.CorrCholeskyTransform`,
    which cuts tanh off one rounding short of 1.

    References
    ----------
    Lewandowski, D., Kurowicka, D. and Joe, H. (2009). Generating random correlation matrices based
    on vines and extended onion method. Journal of Multivariate Analysis 100(9).
    """

    @override
    def __call__(self, x: Float[Array, "*batch pairs"]) -> Float[Array, "*batch k k"]:
        rows, columns = _below(x.shape[-1])
        size = int(rows[-1]) + 1
        placed = np.zeros((len(rows), size, size), x.dtype)
        before = np.zeros_like(placed)
        for pair, (row, column) in enumerate(zip(rows, columns, strict=True)):
            placed[pair, row, column] = 1
            before[pair, row, column + 1 : row + 1] = 1
        flat = (len(rows), size * size)
        factor = jnp.exp(_log_sech(x) @ before.reshape(flat))
        made = (jnp.tanh(x) @ placed.reshape(flat) + np.eye(size, dtype=x.dtype).ravel()) * factor
        return made.reshape(*x.shape[:-1], size, size)

    @override
    def log_abs_det_jacobian(
        self, x: Float[Array, "*batch pairs"], y: Any, intermediates: Any = None
    ) -> Float[Array, "*batch"]:
        # that of the entries below the diagonal in the numbers: a triangular matrix
        rows, columns = _below(x.shape[-1])
        return _log_sech(x) @ (rows - columns + 1).astype(x.dtype)


def _below(pairs: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the entries below the diagonal, in NumPyro's order."""
    size = round((1 + (1 + 8 * pairs) ** 0.5) / 2)
    return np.tril_indices(size, -1)


def _log_sech(x: Array) -> Array:
    return np.log(2.0).astype(x.dtype) - x - jax.nn.softplus(-2 * x)


@biject_to.register(_CorrelationFactors)  # type: ignore[untyped-decorator]
def _short(_: _CorrelationFactors) -> ShortCorrCholesky:
    return ShortCorrCholesky()
