"""A dense trust-region Newton method, with the subproblem solved exactly by eigenvalues."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

SHRINK, GROW = 0.25, 2.0
ACCEPT, GOOD = 1e-4, 0.75
NUM_BISECTIONS = 60


def trust_region_newton(
    value_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]],
    hessian: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    *,
    max_steps: int,
    tolerance: float,
    callback: Callable[[np.ndarray], bool],
) -> tuple[np.ndarray, str]:
    """Minimise a smooth function; every accepted step lowers it.

    Each step takes one eigendecomposition of the Hessian, from which the exact minimiser of the
    quadratic model within the trust radius follows by bisection on its multiplier. It always ends,
    also where the Hessian is indefinite or has no bound.

    Parameters
    ----------
    value_and_grad, hessian
        The function and its derivatives.
    start
        Where to begin; the value there must be finite.
    max_steps
        Steps tried, accepted or not.
    tolerance
        Newton decrement sqrt(g' H^-1 g) at which to stop, H being positive definite.
    callback
        Called with each accepted point; ``True`` stops.

    Returns
    -------
    tuple
        The last point, and why the method stopped.

    References
    ----------
    Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 4.1 and section 4.3.
    doi:10.1007/978-0-387-40065-5
    """
    z, radius = np.array(start, float), 1.0
    value, gradient = value_and_grad(z)
    eigenvalues, vectors = np.linalg.eigh(hessian(z))
    for _ in range(max_steps):
        slope = vectors.T @ gradient
        if eigenvalues[0] > 0 and np.sqrt((slope**2 / eigenvalues).sum()) <= tolerance:
            return z, "converged"
        coefficients = _step(eigenvalues, slope, radius)
        length = float(np.linalg.norm(coefficients))
        predicted = -float(slope @ coefficients + (eigenvalues * coefficients**2).sum() / 2)
        candidate = z + vectors @ coefficients
        new_value, new_gradient = value_and_grad(candidate)
        finite = np.isfinite(new_value) and np.isfinite(new_gradient).all()
        # rounding of the values bounds what a decrease can be told from
        noise = 4 * np.finfo(float).eps * max(1.0, abs(value))
        ratio = (value - new_value + noise) / (predicted + noise) if finite else -np.inf
        if ratio > ACCEPT:
            new_hessian = hessian(candidate)
            if not np.isfinite(new_hessian).all():
                return z, "the Hessian is not finite beyond here"
            moved = not np.array_equal(candidate, z)
            z, value, gradient = candidate, new_value, new_gradient
            eigenvalues, vectors = np.linalg.eigh(new_hessian)
            if callback(z):
                return z, "stopped"
            if not moved:
                return z, "no step left that changes the point"
        if ratio < SHRINK:
            radius = SHRINK * length
        elif ratio > GOOD and length > 0.9 * radius:
            radius *= GROW
        if radius < 1e-14 * max(1.0, float(np.linalg.norm(z))):
            return z, "the trust region shrank to nothing"
    return z, "max_steps reached"


def _step(eigenvalues: np.ndarray, slope: np.ndarray, radius: float) -> np.ndarray:
    """Return the minimiser of the quadratic model in the ball, in the eigenvectors' coordinates."""
    if eigenvalues[0] > 0:
        newton = -slope / eigenvalues
        if np.linalg.norm(newton) <= radius:
            return np.asarray(newton)
    # |slope / (eigenvalues + shift)| falls in the shift; it is at most radius at the upper end
    scale = max(1.0, float(np.abs(eigenvalues).max()))
    low = max(0.0, -float(eigenvalues[0]))
    high = low + float(np.linalg.norm(slope)) / radius + 1e-12 * scale
    for _ in range(NUM_BISECTIONS):
        middle = (low + high) / 2
        with np.errstate(divide="ignore", invalid="ignore"):
            too_long = not np.linalg.norm(slope / (eigenvalues + middle)) <= radius
        low, high = (middle, high) if too_long else (low, middle)
    step = -slope / (eigenvalues + high)
    missing = radius**2 - float(step @ step)
    if eigenvalues[0] < 0 and missing > 0.1 * radius**2:
        # the gradient has nothing along the most negative curvature: go along it to the boundary
        step[0] += np.copysign(np.sqrt(missing), step[0])
    return np.asarray(step)
