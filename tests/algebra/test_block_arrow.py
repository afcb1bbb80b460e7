"""Block-arrow matrices against dense NumPy, and the structure that a model's plates suggest."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, gaussian, target
from numpyro.contrib.control_flow import scan
from scipy.optimize import brentq, minimize
from scipy.sparse import bsr_array, csr_array

import vi_recipes as vr
from vi_recipes.algebra import block_arrow, edges
from vi_recipes.algebra.block_arrow import VERIFIED, BlockArrow, recovery_error
from vi_recipes.algebra.local_structure import LocalStructure, dense_structure
from vi_recipes.algebra.newton import trust_region_newton
from vi_recipes.algebra.pair_law import PairLaw
from vi_recipes.core.timing import Timing
from vi_recipes.model.plates import candidates
from vi_recipes.modes.objective import MAX_BORDER, JointObjective

# -- the matrix ----------------------------------------------------------------------------------

SHAPES = [(3, 5, 1), (2, 4, 3), (0, 6, 2), (4, 0, 0), (1, 1, 1), (5, 2, 4)]
"""Border G, members T, block width d."""

LARGE = (2, 100, 3)
"""Beyond the size up to which eigenvalues are found densely."""


def shapes(*, members: int = 0) -> list[Any]:
    """Return (G, T, d, whether there is a metric) for at least so many members."""
    return [(*shape, metric) for shape in SHAPES for metric in (False, True) if shape[1] >= members]


class Example:
    """A random block-arrow matrix, as the library has it and dense."""

    def __init__(self, num_border: int, members: int, width: int, metric: bool) -> None:
        rng = np.random.default_rng([num_border, members, width, metric])
        dim = num_border + members * width
        # positions are scattered: nothing may depend on the border coming first
        order = rng.permutation(dim)
        border = np.sort(order[:num_border])
        local = order[num_border:].reshape(members, width)
        self.structure = LocalStructure(border, local, ("u",), "group")
        self.metric = np.exp(rng.standard_normal(dim)) if metric else np.ones(dim)
        mask = np.zeros((dim, dim), bool)
        mask[border, :] = mask[:, border] = True
        for member in local:
            mask[np.ix_(member, member)] = True
        half = rng.standard_normal((dim, dim))
        self.indefinite = np.where(mask, half + half.T, 0.0)
        # units that differ by orders of magnitude
        scale = np.exp(rng.standard_normal(dim))
        shifted = self.indefinite - 1.2 * min(np.linalg.eigvalsh(self.indefinite)[0], 0) * np.eye(
            dim
        )
        self.positive = (shifted + 0.1 * np.eye(dim)) * np.outer(scale, scale)
        self.rng = rng
        self.dim = dim

    def make(self, dense: np.ndarray) -> BlockArrow:
        """Recover the matrix from products with the basis, as the methods do."""
        return BlockArrow.recover(self.structure, self.structure.basis() @ dense, self.metric)


def example(shape: tuple[int, int, int, bool]) -> tuple[Example, BlockArrow, np.ndarray]:
    made = Example(*shape)
    return made, made.make(made.positive), made.positive


@pytest.mark.parametrize("shape", shapes())
def test_the_matrix_is_recovered_from_few_products(shape: Any) -> None:
    made, bend, dense = example(shape)
    num_border, members, width, _ = shape
    assert made.structure.basis().shape == (num_border + width + 1, made.dim)
    assert made.structure.dim == made.dim == num_border + members * width
    vector = made.rng.standard_normal(made.dim)
    np.testing.assert_allclose(bend.dot(vector), dense @ vector, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(bend.diagonal(), np.diag(dense), rtol=1e-12)
    np.testing.assert_allclose(bend.join(*bend.split(vector)), vector)
    assert bend.norm(vector) == pytest.approx(np.sqrt(made.metric @ vector**2), rel=1e-12)
    assert recovery_error(made.structure, made.structure.basis() @ dense).max() < 1e-12


@pytest.mark.parametrize("shape", shapes(members=2))
def test_a_coupling_of_members_is_seen_where_it_is(shape: Any) -> None:
    made, _, dense = example(shape)
    a, b = made.structure.local[0, 0], made.structure.local[1, -1]
    coupled = dense.copy()
    coupled[a, b] = coupled[b, a] = 1e-3 * np.abs(dense).max()
    error = recovery_error(made.structure, made.structure.basis() @ coupled)
    # rows other than those of the two members agree
    assert error.max() > VERIFIED
    affected = np.zeros(made.dim, bool)
    affected[made.structure.local[:2].ravel()] = True
    assert error[~affected].max(initial=0.0) < 1e-10
    assert error[[a, b]].max() > VERIFIED


@pytest.mark.parametrize("shape", shapes())
def test_solves_and_determinants(shape: Any) -> None:
    made, bend, dense = example(shape)
    assert bend.positive
    vector = made.rng.standard_normal(made.dim)
    expected = np.linalg.solve(dense, vector)
    np.testing.assert_allclose(bend.solve(vector), expected, rtol=1e-7, atol=1e-9)
    assert bend.log_det == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-10, abs=1e-9)
    assert bend.decrement(vector) == pytest.approx(np.sqrt(vector @ expected), rel=1e-8)


@pytest.mark.parametrize("shape", shapes())
def test_parts_of_the_inverse(shape: Any) -> None:
    made, bend, dense = example(shape)
    inverse = np.linalg.inv(dense)
    close = {"rtol": 1e-7, "atol": 1e-9 * np.abs(inverse).max()}
    np.testing.assert_allclose(bend.variances(), np.diag(inverse), **close)
    rows = made.rng.permutation(made.dim)[: min(made.dim, 9)]
    np.testing.assert_allclose(bend.covariance(rows), inverse[np.ix_(rows, rows)], **close)
    border, local = made.structure.border, made.structure.local
    corner, cross, own = bend.covariance_parts()
    np.testing.assert_allclose(corner, inverse[np.ix_(border, border)], **close)
    np.testing.assert_allclose(cross, inverse[local[:, :, None], border], **close)
    np.testing.assert_allclose(own, inverse[local[:, :, None], local[:, None, :]], **close)


@pytest.mark.parametrize("shape", shapes())
def test_sandwiches_of_sparse_rows(shape: Any) -> None:
    made, bend, dense = example(shape)
    jacobian = np.zeros((6, made.dim))
    slopes = []
    for k in range(6):
        # rows over border and several members at once, over one coordinate, and over all
        size = [1, 2, 3, made.dim, 1, 2][k]
        columns = made.rng.permutation(made.dim)[: min(size, made.dim)]
        values = made.rng.standard_normal(columns.size)
        jacobian[k, columns] = values
        slopes.append((columns, values))
    expected = jacobian @ np.linalg.solve(dense, jacobian.T)
    close = {"rtol": 1e-7, "atol": 1e-9 * np.abs(expected).max()}
    np.testing.assert_allclose(bend.sandwich(slopes), expected, **close)
    np.testing.assert_allclose(bend.sandwich_diagonal(slopes), np.diag(expected), **close)


@pytest.mark.parametrize("shape", shapes())
def test_colour_is_a_root_of_the_inverse(shape: Any) -> None:
    made, bend, dense = example(shape)
    root = bend.colour(np.eye(made.dim)).T  # R e_j are its columns
    inverse = np.linalg.inv(dense)
    np.testing.assert_allclose(root @ root.T, inverse, rtol=1e-7, atol=1e-9 * inverse.max())
    noise = made.rng.standard_normal((3, made.dim))
    close = {"rtol": 1e-7, "atol": 1e-9 * np.abs(root).max()}
    np.testing.assert_allclose(bend.colour(noise), noise @ root.T, **close)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize(
    ("num_border", "members", "width"), [(3, 5, 2), (1, 4, 1), (6, 0, 0), (0, 4, 1)]
)
def test_pairs_of_the_inverse_with_two_parameters_per_coordinate(
    num_border: int, members: int, width: int, metric: bool
) -> None:
    plain = Example(num_border, members, width, metric)
    wide = plain.structure.widened(2)
    assert wide.dim == 2 * plain.dim
    assert wide.border.size == 2 * num_border
    np.testing.assert_array_equal(
        np.sort(np.concatenate([wide.border, wide.local.ravel()])), np.arange(2 * plain.dim)
    )
    # a block of the wide matrix holds both parameters of every coordinate of a member
    rng = np.random.default_rng(3)
    dim = wide.dim
    mask = np.zeros((dim, dim), bool)
    mask[wide.border, :] = mask[:, wide.border] = True
    for member in wide.local:
        mask[np.ix_(member, member)] = True
        assert (np.sort(member).reshape(-1, 2) % 2 == [0, 1]).all()
    half = rng.standard_normal((dim, dim))
    dense = np.where(mask, half + half.T, 0.0)
    dense += (0.5 - np.linalg.eigvalsh(dense)[0]) * np.eye(dim)
    weights = np.exp(rng.standard_normal(dim)) if metric else None
    bend = BlockArrow.recover(wide, wide.basis() @ dense, weights)
    pairs = np.arange(dim).reshape(-1, 2)
    inverse = np.linalg.inv(dense)
    expected = inverse[pairs[:, :, None], pairs[:, None, :]]
    np.testing.assert_allclose(bend.pair_covariances(), expected, rtol=1e-8, atol=1e-10)
    assert_law_of_pairs(bend, inverse, rng.standard_normal((plain.dim, 2)))
    assert_law_of_pairs(bend, inverse, np.outer(np.arange(plain.dim) % 3 == 0, [1.0, 0.0]))


class UnitNoise:
    """In place of a generator: its draws are the unit vectors, taken apart."""

    def __init__(self, size: int) -> None:
        self.left = np.eye(size)

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return the next numbers of every unit vector."""
        size = shape[0] if len(shape) == 2 else shape[1] * shape[2]
        taken, self.left = self.left[:, :size], self.left[:, size:]
        return taken.T if len(shape) == 2 else taken.reshape(shape)


def assert_law_of_pairs(bend: BlockArrow, inverse: np.ndarray, slopes: np.ndarray) -> None:
    """Compare the covariance of one number a pair with that by the dense inverse."""
    law = PairLaw.of(bend, slopes)
    size = bend.structure.border.size + law.local.size
    root = law.draws(size, UnitNoise(size))  # type: ignore[arg-type]
    combined = np.zeros((len(slopes), 2 * len(slopes)))
    combined[np.repeat(np.arange(len(slopes)), 2), np.arange(2 * len(slopes))] = slopes.ravel()
    expected = combined @ inverse @ combined.T
    np.testing.assert_allclose(root.T @ root, expected, rtol=1e-8, atol=1e-10)


def assert_all_of_it_is_of(dense: np.ndarray, bend: BlockArrow) -> None:
    """Compare products, solutions and parts of the inverse with those of the dense matrix."""
    rng = np.random.default_rng(9)
    inverse = np.linalg.inv(dense)
    close = {"rtol": 1e-7, "atol": 1e-9 * np.abs(inverse).max()}
    vector = rng.standard_normal(len(dense))
    np.testing.assert_allclose(bend.dot(vector), dense @ vector, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(bend.solve(vector), inverse @ vector, **close)
    assert bend.log_det == pytest.approx(np.linalg.slogdet(dense)[1], rel=1e-9)
    shifted = dense + 0.3 * np.diag(bend.metric)
    factor = bend.shifted_factor(0.3)
    assert factor is not None
    found = bend.shifted_solve(0.3, factor, vector)
    expected = np.sqrt(bend.metric) * np.linalg.solve(shifted, vector)
    np.testing.assert_allclose(found, expected, **close)
    rows = rng.permutation(len(dense))[:9]
    np.testing.assert_allclose(bend.covariance(rows), inverse[np.ix_(rows, rows)], **close)
    border, local = bend.structure.border, bend.structure.local
    corner, cross, own = bend.covariance_parts()
    np.testing.assert_allclose(corner, inverse[np.ix_(border, border)], **close)
    np.testing.assert_allclose(cross, inverse[local[:, :, None], border], **close)
    np.testing.assert_allclose(own, inverse[local[:, :, None], local[:, None, :]], **close)
    root = bend.colour(np.eye(len(dense))).T
    np.testing.assert_allclose(root @ root.T, inverse, **close)
    blocks, edge, schur = bend.inverse_parts(0.0)
    np.testing.assert_allclose(edge, dense[border[:, None, None], local], **close)
    np.testing.assert_allclose(schur, corner, **close)
    np.testing.assert_allclose(blocks @ bend.blocks, np.eye(local.shape[1]) + 0 * blocks, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 4_000_000])
@pytest.mark.parametrize("metric", [False, True])
def test_covariances_of_members_that_touch_little_of_a_wide_border(
    metric: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_arrow, "AT_ONCE", at_once)
    monkeypatch.setattr(edges, "WIDE", 10)
    monkeypatch.setattr(edges, "SPARSE", 0.3)
    plain = Example(12, 9, 2, metric)
    rng = np.random.default_rng(8)
    dense = plain.positive.copy()
    for number, member in enumerate(plain.structure.local):
        # none, two or four of the border, and one coordinate alone in half of them
        kept = rng.choice(plain.structure.border, 2 * (number % 3), replace=False)
        for row in np.setdiff1d(plain.structure.border, kept):
            dense[row, member] = dense[member, row] = 0.0
        dense[kept[::2], member[0]] = dense[member[0], kept[::2]] = 0.0
    scale = np.sqrt(np.diag(dense))
    least = np.linalg.eigvalsh(dense / np.outer(scale, scale))[0]
    dense += max(0.1 - least, 0.0) * np.diag(scale**2)
    bend = plain.make(dense)
    assert isinstance(bend.edge, bsr_array)
    expected = np.linalg.inv(dense)
    np.testing.assert_allclose(bend.variances(), np.diag(expected), rtol=1e-9)
    assert_all_of_it_is_of(dense, bend)
    # and from a sparse matrix of all
    again = BlockArrow.from_sparse(plain.structure, csr_array(dense), bend.metric)
    assert isinstance(again.edge, bsr_array)
    assert_all_of_it_is_of(dense, again)

    # the same with coordinates in pairs: both parameters of each
    wide = plain.structure.widened(2)
    doubled = np.kron(dense, [[1.0, 0.3], [0.3, 1.0]])
    weights = np.exp(rng.standard_normal(wide.dim)) if metric else None
    bend = BlockArrow.recover(wide, wide.basis() @ doubled, weights)
    assert isinstance(bend.edge, bsr_array)
    pairs, inverse = np.arange(wide.dim).reshape(-1, 2), np.linalg.inv(doubled)
    expected = inverse[pairs[:, :, None], pairs[:, None, :]]
    np.testing.assert_allclose(bend.pair_covariances(), expected, rtol=1e-9, atol=1e-12)
    assert_law_of_pairs(bend, inverse, rng.standard_normal((plain.structure.dim, 2)))


@pytest.mark.parametrize("shape", [*shapes(), (*LARGE, False)])
def test_eigenvalues_and_inertia(shape: Any) -> None:
    made, bend, dense = example(shape)
    values = np.linalg.eigvalsh(dense)
    smallest, largest, vector = bend.extreme_eigenvalues()
    assert smallest == pytest.approx(values[0], rel=1e-5)
    assert largest == pytest.approx(values[-1], rel=2e-3)  # a Lanczos iteration to 1e-3
    # the angle between the vectors is at most the residual over the gap
    residual = np.linalg.norm(dense @ vector - smallest * vector) / np.linalg.norm(vector)
    assert residual < 1e-3 * abs(values[-1])
    assert bend.num_negative() == 0
    other = made.make(made.indefinite)
    values = np.linalg.eigvalsh(made.indefinite)
    assert other.num_negative() == (values < 0).sum()
    if values[0] < 0:
        assert not other.positive
        assert other.decrement(np.ones(made.dim)) == np.inf
        assert other.extreme_eigenvalues()[0] == pytest.approx(values[0], rel=2e-3)
        assert other.extreme_eigenvalues()[1] == pytest.approx(values[-1], rel=2e-3)
        for refused in (lambda: other.log_det, other.condition, other.variances):
            with pytest.raises(ValueError, match="not positive definite"):
                refused()


@pytest.mark.parametrize("shape", shapes())
def test_condition_ignores_units_and_sees_what_is_singular(shape: Any) -> None:
    _, bend, dense = example(shape)
    structure = bend.structure
    inner = structure.local.ravel()
    schur = dense[np.ix_(structure.border, structure.border)]
    if inner.size:
        edge = dense[np.ix_(structure.border, inner)]
        schur = schur - edge @ np.linalg.solve(dense[np.ix_(inner, inner)], edge.T)
    blocks = [dense[np.ix_(m, m)] for m in structure.local]

    def scaled(matrix: np.ndarray) -> float:
        root = np.sqrt(np.diag(matrix))
        return float(np.linalg.cond(matrix / np.outer(root, root))) if matrix.size else 1.0

    # in a metric the Schur complement is scaled by a diagonal, which unit diagonal undoes
    assert bend.condition() == pytest.approx(max(map(scaled, [schur, *blocks])), rel=1e-6)


# -- steps in a ball -------------------------------------------------------------------------------


def best_decrease(dense: np.ndarray, g: np.ndarray, radius: float) -> float:
    """Return the largest decrease of g'x + x'Hx / 2 in |x| <= radius, by the secular equation."""
    values, vectors = np.linalg.eigh(dense)
    slope = vectors.T @ g

    def length(shift: float) -> float:
        return float(np.linalg.norm(slope / (values + shift)))

    low = max(0.0, -values[0])
    if values[0] > 0 and length(0.0) <= radius:
        shift = 0.0
    else:
        high = low + np.linalg.norm(g) / radius + 1.0
        shift = brentq(lambda s: length(s) - radius, low + 1e-13 * max(1, low), high, xtol=1e-14)
    x = -slope / (values + shift)
    return float(-(slope @ x + values @ x**2 / 2))


def check_steps(made: Example, dense: np.ndarray) -> None:
    bend = made.make(dense)
    root = np.sqrt(made.metric)
    for radius in (1e-3, 0.3, 2.0, 1e4):
        gradient = made.rng.standard_normal(made.dim)
        x = bend.step(gradient, radius)
        assert np.linalg.norm(root * x) <= radius * (1 + 1e-9)
        decrease = -(gradient @ x + x @ dense @ x / 2)
        best = best_decrease(dense / np.outer(root, root), gradient / root, radius)
        assert decrease >= 0.8 * best, radius
        assert decrease <= best * (1 + 1e-7) + 1e-12  # the oracle is the best indeed


@pytest.mark.parametrize("shape", shapes())
def test_a_step_is_nearly_the_best_in_the_ball(shape: Any) -> None:
    made = Example(*shape)
    check_steps(made, made.positive)


@pytest.mark.parametrize("shape", shapes())
def test_a_step_is_nearly_the_best_where_the_matrix_is_indefinite(shape: Any) -> None:
    made = Example(*shape)
    flip = -1.0 if np.linalg.eigvalsh(made.indefinite)[0] > 0 else 1.0
    check_steps(made, flip * made.indefinite)


def test_a_step_leaves_a_saddle_point_that_the_gradient_cannot_see() -> None:
    structure = LocalStructure(np.array([0]), np.array([[1], [2]]))
    bend = BlockArrow.recover(structure, structure.basis() @ np.diag([2.0, -2.0, 1.0]))
    # g'x + x'Hx / 2 in the unit ball, g = (2, 0, 0): H + 2 I is singular, so x = (-1/2, r, 0)
    step = bend.step(np.array([2.0, 0.0, 0.0]), 1.0)
    best = 1.0 - 0.25 + 0.75
    assert -(2 * step[0] + step @ bend.dot(step) / 2) >= 0.8 * best


def test_newton_with_a_block_arrow_hessian_goes_down_to_the_minimum() -> None:
    # sum over t of (u_t^2 - m)^2 / 4 + (m - 2)^2 + u_t / 10: not convex between the wells
    structure = LocalStructure(np.array([0]), np.arange(1, 6)[:, None])

    def value_and_grad(z: np.ndarray) -> tuple[float, np.ndarray]:
        m, u = z[0], z[1:]
        value = ((u**2 - m) ** 2).sum() / 4 + (m - 2) ** 2 + u.sum() / 10
        along_m = -(u**2 - m).sum() / 2 + 2 * (m - 2)
        return value, np.concatenate([[along_m], (u**2 - m) * u + 0.1])

    def curvature(z: np.ndarray) -> BlockArrow:
        m, u = z[0], z[1:]
        dense = np.diag(np.concatenate([[u.size / 2 + 2], 3 * u**2 - m]))
        dense[0, 1:] = dense[1:, 0] = -u
        return BlockArrow.recover(structure, structure.basis() @ dense)

    visited: list[float] = []

    def callback(z: np.ndarray) -> bool:
        visited.append(value_and_grad(z)[0])
        return False

    start = np.array([1.0, 0.2, -0.2, 0.1, 0.3, -0.1])
    z, why, _ = trust_region_newton(
        value_and_grad, curvature, start, max_steps=200, tolerance=1e-9, callback=callback
    )
    assert why == "converged"
    assert (np.diff(visited) <= 1e-12).all()
    np.testing.assert_allclose(value_and_grad(z)[1], 0, atol=1e-7)
    oracle = minimize(
        lambda z: value_and_grad(z)[0], z + 0.01, method="BFGS", options={"gtol": 1e-9}
    )
    assert value_and_grad(z)[0] == pytest.approx(oracle.fun, abs=1e-9)


def test_the_newton_step_is_taken_whole_where_it_fits() -> None:
    made, bend, dense = example((3, 5, 2, True))
    gradient = made.rng.standard_normal(made.dim)
    newton = -np.linalg.solve(dense, gradient)
    radius = 1.001 * float(np.sqrt(made.metric @ newton**2))
    np.testing.assert_allclose(bend.step(gradient, radius), newton, rtol=1e-9, atol=1e-12)
    shorter = bend.step(gradient, radius / 2)
    assert 0.45 * radius <= bend.norm(shorter) <= 0.5 * radius * (1 + 1e-9)


# -- what the plates suggest -----------------------------------------------------------------------


def suggest(model: Callable[..., Any], **data: Any) -> tuple[vr.Target, list[LocalStructure]]:
    made = vr.Target(model, **data)
    return made, candidates(made.latents, made.slices)


def owners(made: vr.Target) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Return site and index within it of every coordinate, by slicing alone."""
    found = {}
    for site in made.latents:
        start = made.slices[site.name].start
        for k, index in enumerate(np.ndindex(*site.unconstrained_shape)):
            found[start + k] = (site.name, index)
    return found


def members_of(made: vr.Target, structure: LocalStructure) -> list[set[tuple[str, Any]]]:
    where = owners(made)
    return [{where[int(j)] for j in row} for row in structure.local]


def borders(made: vr.Target, structure: LocalStructure) -> set[str]:
    where = owners(made)
    return {where[int(j)][0] for j in structure.border}


def test_one_plate_with_two_sites() -> None:
    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("group", 4):
            numpyro.sample("u", dist.Normal(mu, 1.0))
            numpyro.sample("s", dist.LogNormal(0.0, 1.0))

    made, found = suggest(model)
    assert len(found) == 1
    assert found[0].plate == "group"
    assert found[0].sites == ("u", "s")
    assert borders(made, found[0]) == {"mu"}
    assert members_of(made, found[0]) == [{("u", (t,)), ("s", (t,))} for t in range(4)]


def test_event_dimensions_are_in_their_members_block() -> None:
    def model() -> None:
        numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("group", 3):
            numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
            numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))  # two unconstrained coordinates

    made, found = suggest(model)
    assert found[0].local.shape == (3, 4)
    assert borders(made, found[0]) == {"mu"}
    for t, member in enumerate(members_of(made, found[0])):
        assert member == {(name, (t, k)) for name in ("u", "p") for k in (0, 1)}


def test_nested_plates_with_the_outer_one_last() -> None:
    made = target("nested_plates")  # c has shape (class, school): its members are columns
    found = candidates(made.latents, made.slices)
    assert [(s.plate, s.sites) for s in found] == [
        ("school", ("s", "c")),
        ("class x school", ("c",)),
    ]
    outer, inner = found
    assert members_of(made, outer) == [
        {("s", (j,)), ("c", (0, j)), ("c", (1, j))} for j in range(3)
    ]
    assert borders(made, outer) == {"mu"}
    assert {frozenset(m) for m in members_of(made, inner)} == {
        frozenset({("c", (i, j))}) for i in range(2) for j in range(3)
    }
    assert borders(made, inner) == {"mu", "s"}


def test_a_plate_in_an_inner_axis_before_event_dimensions() -> None:
    def model() -> None:
        with numpyro.plate("time", 2, dim=-2), numpyro.plate("group", 3, dim=-1):
            numpyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))  # (2, 3, 4)
        with numpyro.plate("group_again", 3, dim=-1):
            numpyro.sample("v", dist.Normal(0.0, 1.0))

    made, found = suggest(model)
    by_plate = {s.plate: s for s in found}
    assert set(by_plate) == {"group x time", "group_again"}
    assert found[0].plate == "group x time"
    assert {frozenset(m) for m in members_of(made, found[0])} == {
        frozenset(("w", (i, j, k)) for k in range(4)) for i in range(2) for j in range(3)
    }
    assert borders(made, found[0]) == {"v"}


def crossed(a: jax.Array, b: jax.Array, y: jax.Array, num_a: int, num_b: int) -> None:
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.5).expand([2]).to_event(1))
    with numpyro.plate("first", num_a):
        u = numpyro.sample("u", dist.Normal(0.0, tau[0]))
    with numpyro.plate("second", num_b):
        v = numpyro.sample("v", dist.Normal(0.0, tau[1]))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(u[a] + v[b], 1.0), obs=y)


def crossed_data(num_a: int, num_b: int, rows: int = 60) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    a, b = rng.integers(num_a, size=rows), rng.integers(num_b, size=rows)
    return {"a": a, "b": b, "y": rng.standard_normal(rows), "num_a": num_a, "num_b": num_b}


def test_crossed_plates_suggest_the_larger_family_first() -> None:
    made, found = suggest(crossed, **crossed_data(4, 7))
    assert [(s.plate, s.sites) for s in found] == [("second", ("v",)), ("first", ("u",))]
    assert borders(made, found[0]) == {"tau", "u"}


def test_a_model_without_latent_plates_suggests_nothing() -> None:
    made = target("linear_regression")
    assert candidates(made.latents, made.slices) == []
    assert dense_structure(3).local.shape == (0, 0)


# -- verification ----------------------------------------------------------------------------------


def objective(made: vr.Target) -> JointObjective:
    return JointObjective(made, Timing(), jacobian=True)


def discovered(made: vr.Target) -> tuple[str, JointObjective]:
    with jax.enable_x64(True):
        this = objective(made)
        return this.discover(), this


def known_structure(made: vr.Target) -> LocalStructure | None:
    """Return the structure that was verified for a target, which later fits of it use."""
    found: LocalStructure | None = made.compiled_once.get(LocalStructure)
    return found


def dense_hessian(made: vr.Target, z: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        bend = jax.jit(jax.hessian(lambda z, arrays: -made.log_density_fn(z, arrays)))
        return np.asarray(bend(jnp.asarray(z), made.arrays()))


def two_sites(y: jax.Array, group: jax.Array, num_groups: int) -> None:
    """Two sites per member, with a vector among them, and members without observations."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(mu, tau**-0.5).to_event(1))
        s = numpyro.sample("s", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(u[group, 0] + u[group, 1] ** 2, s[group]), obs=y)


def two_sites_data(num_groups: int = 7) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    group = rng.integers(num_groups - 2, size=30)  # two members have no observation
    return {"y": rng.standard_normal(30), "group": group, "num_groups": num_groups}


@cache
def two_sites_target() -> vr.Target:
    return vr.Target(two_sites, **two_sites_data())


@cache
def two_sites_by_structure() -> vr.Fit:
    return vr.Laplace(max_dim=3).fit(two_sites_target(), throw=True)


@pytest.mark.slow
def test_a_hierarchical_model_is_verified_and_its_hessian_is_the_dense_one() -> None:
    made = two_sites_target()
    reason, this = discovered(made)
    assert reason == ""
    known = known_structure(made)
    assert known is not None
    assert known.local.shape == (7, 3)
    z = 0.3 * np.random.default_rng(0).standard_normal(made.dim)
    with jax.enable_x64(True):
        bend = this.curvature(z)
    assert isinstance(bend, BlockArrow)
    dense = dense_hessian(made, z)
    found = np.column_stack([bend.dot(row) for row in np.eye(made.dim)])
    np.testing.assert_allclose(found, dense, atol=1e-9 * np.abs(dense).max())


def coupled_by_a_sum(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("group", 5):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.sum(u), 1.0), obs=y)
    numpyro.factor("own", -mu * (w**2).sum())


def walk_of_innovations(y: jax.Array) -> None:
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("time", len(y)):
        step = numpyro.sample("step", dist.Normal(0.0, scale))
    numpyro.sample("y", dist.Normal(jnp.cumsum(step), 0.5).to_event(1), obs=y)


def neighbours(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("place", len(y)):
        u = numpyro.sample("u", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(u, 0.5), obs=y)
    numpyro.factor("smooth", -((u[1:] - u[:-1]) ** 2).sum())


COUPLED = [
    (coupled_by_a_sum, "u", {"y": 1.0}),
    (walk_of_innovations, "step", {"y": np.arange(6.0)}),
    (neighbours, "u", {"y": np.arange(6.0)}),
]


@pytest.mark.parametrize(("model", "site", "data"), COUPLED)
def test_coupled_members_are_refused_by_name(
    model: Callable[..., Any], site: str, data: Any
) -> None:
    made = vr.Target(model, **data)
    reason, this = discovered(made)
    plate = made.latents[1].plates[0][0]
    assert reason == f"members of plate {plate} are coupled through {site}"
    assert this.structure is None
    assert known_structure(made) is None


def test_a_state_space_model_has_no_plate_to_propose() -> None:
    reason, this = discovered(target("state_space"))
    assert reason == "no latent site is in a plate"
    assert this.structure is None


def test_crossed_effects_put_the_smaller_family_in_the_border() -> None:
    made = vr.Target(crossed, **crossed_data(4, 7))
    reason, _ = discovered(made)
    assert reason == ""
    known = known_structure(made)
    assert known is not None
    assert known.sites == ("v",)


def test_crossed_effects_of_two_large_families_are_refused_by_name() -> None:
    size = MAX_BORDER
    made = vr.Target(crossed, **crossed_data(size, size + 1))
    reason, _ = discovered(made)
    assert f"with v as blocks the border has {size + 2} coordinates" in reason
    assert f"with u as blocks the border has {size + 3} coordinates" in reason
    assert known_structure(made) is None


# -- Laplace by the structure ----------------------------------------------------------------------


def hierarchical(y: jax.Array, group: jax.Array, num_groups: int) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", num_groups):
        a = numpyro.sample("a", dist.Normal(mu, 0.8))
        b = numpyro.sample("b", dist.Normal(beta, 0.5))
    numpyro.deterministic("exp_mu", jnp.exp(mu))
    numpyro.deterministic("gap", a[0] - b[1])
    with numpyro.plate("row", len(y)):
        x = jnp.linspace(-1, 1, len(y))
        numpyro.sample("y", dist.Normal(a[group] + b[group] * x, 0.6), obs=y)


@pytest.mark.slow
def test_laplace_by_structure_is_the_exact_gaussian_and_the_dense_laplace() -> None:
    rng = np.random.default_rng(8)
    T, N = 6, 25
    group = rng.integers(T - 1, size=N)  # the last member has no observation
    y = rng.standard_normal(N)
    data = {"y": y, "group": group, "num_groups": T}
    dense = vr.Laplace().fit(vr.Target(hierarchical, **data), throw=True)
    made = vr.Target(hierarchical, **data)
    local = vr.Laplace(max_dim=3).fit(made, throw=True)
    assert known_structure(made) is not None
    assert local.status is vr.Status.OK
    # x = (mu, beta, a, b) is Gaussian, so is y given it
    lift = np.zeros((2 + 2 * T, 2 + 2 * T))
    lift[0, 0] = lift[1, 1] = 1
    lift[2 : 2 + T, 0] = lift[2 + T :, 1] = 1
    lift[2:, 2:] = np.eye(2 * T)
    prior = lift @ np.diag([4.0, 1.0] + [0.64] * T + [0.25] * T) @ lift.T
    design = np.zeros((N, 2 + 2 * T))
    design[np.arange(N), 2 + group] = 1
    design[np.arange(N), 2 + T + group] = np.linspace(-1, 1, N)
    mean, cov, evidence = gaussian(np.zeros(2 + 2 * T), prior, design, 0.36 * np.eye(N), y)
    names = ["mu", "beta", "a", "b"]
    np.testing.assert_allclose(local.flat(local.mean(), names), mean, atol=1e-8)
    np.testing.assert_allclose(local.flat(local.sd(), names), np.sqrt(np.diag(cov)), atol=1e-9)
    np.testing.assert_allclose(local.cov(names).to_numpy(), cov, atol=1e-10)
    assert local.log_evidence is not None
    assert dense.log_evidence is not None
    assert local.log_evidence.value == pytest.approx(evidence, abs=1e-8)
    assert dense.log_evidence.value == pytest.approx(evidence, abs=1e-8)
    # exp(mu) is lognormal; a[0] - b[1] is normal, by draws with their error
    v = cov[0, 0]
    assert local.mean()["exp_mu"] == pytest.approx(np.exp(mean[0] + v / 2), rel=1e-9)
    assert local.sd()["exp_mu"] == pytest.approx(
        np.exp(mean[0] + v / 2) * np.sqrt(np.expm1(v)), rel=1e-9
    )
    gap = mean[2] - mean[2 + T + 1]
    assert abs(local.mean()["gap"] - gap) < 1e-8 + 4.5 * local.mcse()["gap"]


@pytest.mark.slow
def test_laplace_by_structure_of_a_model_that_is_not_gaussian() -> None:
    dense = vr.Laplace().fit(vr.Target(two_sites, **two_sites_data()), throw=True)
    local = two_sites_by_structure()
    for moments in ("mean", "sd"):
        a, b = getattr(local, moments)(), getattr(dense, moments)()
        for name, value in b.items():
            # both stop at a Newton decrement of 1e-8
            np.testing.assert_allclose(a[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_allclose(local.cov().to_numpy(), dense.cov().to_numpy(), rtol=1e-4, atol=1e-7)
    assert local.log_evidence is not None
    assert dense.log_evidence is not None
    assert local.log_evidence.value == pytest.approx(dense.log_evidence.value, abs=1e-7)
    for name in ("smallest_eigenvalue", "largest_eigenvalue"):
        assert local.diagnostics[name] == pytest.approx(dense.diagnostics[name], rel=1e-5)


def test_draws_by_structure_have_the_covariance() -> None:
    fit = two_sites_by_structure()
    names = ["mu", "u"]  # normal on the constrained scale
    draws = fit.draws(20_000, key=3)
    flat = np.concatenate([draws[n].reshape(20_000, -1) for n in names], axis=1)
    mean, sd = fit.flat(fit.mean(), names), fit.flat(fit.sd(), names)
    assert (np.abs(flat.mean(0) - mean) < 4.5 * sd / np.sqrt(20_000)).all()
    centred = (flat - flat.mean(0)) / sd
    expected = fit.cov(names).to_numpy() / np.outer(sd, sd)
    # the error of a correlation r of n normal draws is below sqrt(1 + r^2) / sqrt(n); there are
    # 136 of them at 4.5 standard errors: 1e-3 that a right answer fails
    assert (np.abs(centred.T @ centred / 20_000 - expected) < 4.5 * np.sqrt(2 / 20_000)).all()


def test_a_model_with_members_only_has_an_empty_border() -> None:
    def model(y: jax.Array) -> None:
        with numpyro.plate("group", len(y)):
            u = numpyro.sample("u", dist.Normal(0.0, 2.0))
            numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    y = np.array([1.0, -2.0, 0.5])
    fit = vr.Laplace(max_dim=2).fit(vr.Target(model, y=y))
    assert fit.status is vr.Status.OK
    np.testing.assert_allclose(fit.mean()["u"], 0.8 * y, atol=1e-8)
    np.testing.assert_allclose(fit.sd()["u"], np.sqrt(0.8), atol=1e-8)


def test_laplace_says_why_there_is_no_structure_to_use() -> None:
    fit = vr.Laplace(max_dim=1).fit(target("state_space"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "max_dim is 1" in fit.message
    made = vr.Target(neighbours, y=np.arange(6.0))
    fit = vr.Laplace(max_dim=1).fit(made)
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "members of plate place are coupled through u" in fit.message


def test_map_finds_the_same_mode_by_structure_as_densely() -> None:
    known = case("nested_plates")
    made = vr.Target(known.model, **known.data)
    with jax.enable_x64(True):
        this = JointObjective(made, Timing(), jacobian=False)
        assert this.discover() == ""
        bend = this.curvature(np.zeros(made.dim))
    assert isinstance(bend, BlockArrow)
    np.testing.assert_allclose(bend.covariance(np.arange(made.dim)), known.cov, atol=1e-10)


def scan_in_plate(y: jax.Array) -> None:
    """A chain for every member of a plate: the members are not coupled, the times are."""
    with numpyro.plate("group", y.shape[1]):
        numpyro.sample("level", dist.Normal(0.0, 1.0))

    def step(x: jax.Array, row: jax.Array) -> tuple[jax.Array, None]:
        with numpyro.plate("chain", y.shape[1]):
            x = numpyro.sample("x", dist.Normal(0.9 * x, 0.5))
            numpyro.sample("y", dist.Normal(x, 0.5), obs=row)
        return x, None

    scan(step, jnp.zeros(y.shape[1]), y)


@pytest.mark.slow
def test_a_scan_inside_a_plate_is_right_or_refused() -> None:
    y = np.random.default_rng(0).standard_normal((3, 4))
    made = vr.Target(scan_in_plate, y=y)
    reason, this = discovered(made)
    if reason:
        assert "coupled through x" in reason
        return
    z = np.zeros(made.dim)
    with jax.enable_x64(True):
        bend = this.curvature(z)
    assert isinstance(bend, BlockArrow)
    found = np.column_stack([bend.dot(row) for row in np.eye(made.dim)])
    np.testing.assert_allclose(found, dense_hessian(made, z), atol=1e-9)
