"""A trust-region Newton method, and its steps by a dense Hessian or one that takes a shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float, Int

SHRINK, GROW = 0.25, 2.0
ACCEPT, GOOD = 1e-4, 0.75
NUM_BISECTIONS = 60

NUM_SHIFTS = 40
"""Factorisations tried for one trust-region step."""

SHRANK = "the trust region shrank to nothing"
"""Why a search stops where no step lowers the function as its derivatives say, as at a kink."""


class Curvature(Protocol):
    """A Hessian H in the form that the method needs it, with a metric M for its steps."""

    def step(self, gradient: Float[np.ndarray, " dim"], radius: float) -> Float[np.ndarray, " dim"]:
        """Return the minimiser of g'x + x'Hx / 2 in the ball x'Mx <= radius^2."""

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H times a vector."""

    def inner(self, x: Float[np.ndarray, " dim"], y: Float[np.ndarray, " dim"]) -> float:
        """Return x'y."""

    def norm(self, vector: Float[np.ndarray, " dim"]) -> float:
        """Return sqrt(x'Mx)."""

    def decrement(self, gradient: Float[np.ndarray, " dim"]) -> float:
        """Return sqrt(g' H^-1 g); infinite unless H is positive definite."""


class Shiftable(Protocol):
    """A Hessian H that can be factorised with a multiple of a diagonal metric M added."""

    metric: Float[np.ndarray, " dim"]

    @property
    def positive(self) -> bool:
        """Whether H is positive definite."""

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H times a vector."""

    def inner(self, x: Float[np.ndarray, " dim"], y: Float[np.ndarray, " dim"]) -> float:
        """Return x'y."""

    def noise(self) -> Float[np.ndarray, " dim"]:
        """Return a vector of standard normals, the same each time."""

    def shifted_factor(self, shift: float) -> np.ndarray | None:
        """Return what :meth:`shifted_solve` needs; ``None`` if H + shift M is not positive."""

    def shifted_solve(
        self, shift: float, factor: np.ndarray, vector: Float[np.ndarray, " dim"]
    ) -> Float[np.ndarray, " dim"]:
        """Return (H + shift M)^-1 times a vector, in the metric: M^(1/2) times it."""


class Dense:
    """A dense Hessian; M is diagonal.

    One eigendecomposition, from which the exact minimiser in the ball follows by bisection on its
    multiplier.

    Parameters
    ----------
    hessian
        The matrix.
    unit
        What lengths are measured by, M = diag(unit^-2); ones by default.
    """

    def __init__(
        self, hessian: Float[np.ndarray, "dim dim"], unit: Float[np.ndarray, " dim"] | None = None
    ) -> None:
        self.matrix = hessian
        self._unit = None if unit is None or (unit == 1).all() else unit
        # in units: where those of coordinates are far apart, H itself has no digits for the least
        scaled = hessian if self._unit is None else hessian * np.outer(self._unit, self._unit)
        self._scaled = np.linalg.eigh(scaled)

    def step(self, gradient: Float[np.ndarray, " dim"], radius: float) -> Float[np.ndarray, " dim"]:
        """Return the minimiser of the quadratic model in the ball."""
        values, vectors = self._scaled
        unit = np.ones(gradient.size) if self._unit is None else self._unit
        return np.asarray(unit * (vectors @ _step(values, vectors.T @ (unit * gradient), radius)))

    def within(self, places: Int[np.ndarray, " some"]) -> Dense:
        """Return the Hessian of the coordinates at some places, the others left where they are."""
        unit = None if self._unit is None else self._unit[places]
        return Dense(self.matrix[np.ix_(places, places)], unit)

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H times a vector."""
        return np.asarray(self.matrix @ vector)

    def inner(self, x: Float[np.ndarray, " dim"], y: Float[np.ndarray, " dim"]) -> float:
        """Return x'y."""
        return float(x @ y)

    def norm(self, vector: Float[np.ndarray, " dim"]) -> float:
        """Return the length, in units."""
        return float(np.linalg.norm(vector if self._unit is None else vector / self._unit))

    def decrement(self, gradient: Float[np.ndarray, " dim"]) -> float:
        """Return the Newton decrement sqrt(g' H^-1 g); infinite unless H is positive definite."""
        values, vectors = self._scaled
        if values[0] <= 0:
            return float("inf")
        slope = vectors.T @ (gradient if self._unit is None else self._unit * gradient)
        return float(np.sqrt((slope**2 / values).sum()))

    @property
    def positive(self) -> bool:
        """Whether H is positive definite."""
        return bool(self._scaled[0][0] > 0)

    def solve(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H^-1 times a vector."""
        values, vectors = self._scaled
        unit = 1.0 if self._unit is None else self._unit
        return np.asarray(unit * (vectors @ (vectors.T @ (unit * vector) / values)))

    def root(self) -> Float[np.ndarray, "dim dim"]:
        """Return a matrix R with R R' = H^-1, where H is positive definite."""
        values, vectors = self._scaled
        unit = np.ones(values.size) if self._unit is None else self._unit
        return np.asarray(unit[:, None] * vectors / np.sqrt(values))

    @property
    def log_det(self) -> float:
        """The logarithm of the determinant, where H is positive definite."""
        of_units = 0.0 if self._unit is None else 2 * np.log(self._unit).sum()
        return float(np.log(self._scaled[0]).sum() - of_units)

    def diagonal(self) -> Float[np.ndarray, " dim"]:
        """Return the diagonal of H."""
        return np.diag(self.matrix).copy()

    def extreme_eigenvalues(self) -> tuple[float, float, Float[np.ndarray, " dim"]]:
        """Return the smallest and largest eigenvalue, and the vector of the smallest."""
        values, vectors = self._scaled if self._unit is None else np.linalg.eigh(self.matrix)
        return float(values[0]), float(values[-1]), vectors[:, 0]


def trust_region_newton[C: Curvature | None](
    value_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]],
    curvature: Callable[[np.ndarray], C],
    start: Float[np.ndarray, " dim"],
    *,
    max_steps: int,
    tolerance: float,
    callback: Callable[[np.ndarray], bool],
    radius: float = 1.0,
) -> tuple[Float[np.ndarray, " dim"], str, C | None]:
    """Minimise a smooth function; every accepted step lowers it.

    It always ends, also where the Hessian is indefinite or the function has no bound.

    Parameters
    ----------
    value_and_grad, curvature
        The function and its derivatives; the curvature is ``None`` where it is not finite.
    start
        Where to begin; the value there must be finite.
    max_steps
        Steps tried, accepted or not.
    tolerance
        Newton decrement sqrt(g' H^-1 g) at which to stop, H being positive definite.
    callback
        Called with each accepted point; ``True`` stops.
    radius
        The first trust radius, in the metric of the curvature.

    Returns
    -------
    tuple
        The last point, why the method stopped, and the curvature there; ``None`` if there is none
        or it was given up for that of a point beyond, which is not finite.

    References
    ----------
    Nocedal, J. and Wright, S. J. (2006). Numerical Optimization, algorithm 4.1 and section 4.3.
    doi:10.1007/978-0-387-40065-5
    """
    z = np.array(start, float)
    value, gradient = value_and_grad(z)
    bend: C | None = curvature(z)
    if bend is None:
        return z, "the Hessian is not finite at the start", None
    for _ in range(max_steps):
        if bend.decrement(gradient) <= tolerance:
            return z, "converged", bend
        step = bend.step(gradient, radius)
        length = bend.norm(step)
        predicted = -(bend.inner(gradient, step) + bend.inner(step, bend.dot(step)) / 2)
        candidate = z + step
        new_value, new_gradient = value_and_grad(candidate)
        finite = np.isfinite(new_value) and np.isfinite(new_gradient).all()
        # rounding of the values bounds what a decrease can be told from
        noise = 4 * np.finfo(float).eps * max(1.0, abs(value))
        ratio = (value - new_value + noise) / (predicted + noise) if finite else -np.inf
        if ratio > ACCEPT:
            bend = None  # which may be large, and need not be there beside the next
            bend = curvature(candidate)
            if bend is None:
                return z, "the Hessian is not finite beyond here", None
            moved = new_value != value or bend.norm(candidate - z) > 0
            z, value, gradient = candidate, new_value, new_gradient
            if callback(z):
                return z, "stopped", bend
            if not moved:
                return z, "no step left that changes the point", bend
        if ratio < SHRINK:
            radius = SHRINK * length
        elif ratio > GOOD and length > 0.85 * radius:
            radius *= GROW
        if radius < 1e-14 * max(1.0, bend.norm(z)):
            return z, SHRANK, bend
    return z, "max_steps reached", bend


def _step(
    eigenvalues: Float[np.ndarray, " dim"], slope: Float[np.ndarray, " dim"], radius: float
) -> Float[np.ndarray, " dim"]:
    """Return the minimiser of the quadratic model in the ball, in the eigenvectors' coordinates."""
    if eigenvalues[0] > 0:
        newton = -slope / eigenvalues
        if np.linalg.norm(newton) <= radius:
            return np.asarray(newton)
    # |slope / (eigenvalues + shift)| falls in the shift; it is at most radius at the upper end
    scale = float(np.abs(eigenvalues).max())
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
        step[0] = np.copysign(np.sqrt(step[0] ** 2 + missing), step[0])
    return np.asarray(step)


def shifted_step(
    hessian: Shiftable, gradient: Float[np.ndarray, " dim"], radius: float
) -> Float[np.ndarray, " dim"]:
    """Return the minimiser of g'x + x'Hx / 2 among |x| <= radius in the metric of H, nearly.

    The multiplier of the constraint is found by bisection, with one factorisation each.
    """
    root = np.sqrt(hessian.metric)

    def length(vector: np.ndarray) -> float:
        return float(np.sqrt(hessian.inner(vector, vector)))

    def attempt(shift: float) -> np.ndarray | None:
        factor = hessian.shifted_factor(shift)
        return None if factor is None else -hessian.shifted_solve(shift, factor, gradient)

    tried = attempt(0.0) if hessian.positive else None
    if tried is not None and length(tried) <= radius:
        return np.asarray(tried / root)
    low = 0.0
    high = max(length(gradient / root) / radius, 1e-8)
    best = None
    for _ in range(NUM_SHIFTS):
        tried = attempt(high)
        if tried is not None and length(tried) <= radius:
            best = tried
            break
        low, high = high, 4 * high
    if best is None:
        return np.zeros_like(gradient)
    low = max(low, 1e-12 * high)
    for _ in range(NUM_SHIFTS):
        if length(best) >= 0.9 * radius or high < 1.001 * low:
            break
        middle = float(np.sqrt(low * high))
        tried = attempt(middle)
        if tried is not None and length(tried) <= radius:
            best, high = tried, middle
        else:
            low = middle
    if length(best) < 0.9 * radius and not hessian.positive:
        best = best + _outward(hessian, gradient / root, best, high, radius)
    return np.asarray(best / root)


def _outward(
    hessian: Shiftable,
    gradient: Float[np.ndarray, " dim"],
    step: Float[np.ndarray, " dim"],
    shift: float,
    radius: float,
) -> Float[np.ndarray, " dim"]:
    """Return what takes a step to the boundary along the most negative curvature.

    In the metric. The gradient has hardly anything along it, so no multiplier gets there.
    """
    root = np.sqrt(hessian.metric)
    factor = hessian.shifted_factor(shift)
    assert factor is not None
    along = hessian.noise()
    for _ in range(8):
        along = hessian.shifted_solve(shift, factor, along * root)
        along /= np.sqrt(hessian.inner(along, along))
    inner = hessian.inner(step, along)
    size = np.sqrt(max(inner**2 + radius**2 - hessian.inner(step, step), 0.0))

    def value(length: float) -> float:
        x = (step + length * along) / root
        return hessian.inner(gradient * root, x) + hessian.inner(x, hessian.dot(x)) / 2

    return np.asarray(min((size - inner, -size - inner), key=value) * along)
