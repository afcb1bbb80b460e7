"""Minibatches: against all rows at fixed draws, closed forms, and what cannot be drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from models_for_tests import case, target
from numpyro.infer import SVI as Engine
from numpyro.infer import Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import vi_recipes as vr
from vi_recipes.cli.options import set_options
from vi_recipes.data.batches import ArrayBatches, Prefetch, draw
from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.families import read_guide
from vi_recipes.methods.minibatch.feed import Feed, in_epochs, make_feed
from vi_recipes.methods.minibatch.rows import find_rows
from vi_recipes.methods.svi import outcome
from vi_recipes.methods.svi.chunks import Chunk, by_epoch
from vi_recipes.methods.svi.fresh import Fresh
from vi_recipes.methods.svi.outcome import NUM_ELBO_DRAWS
from vi_recipes.methods.svi.starts import Starts
from vi_recipes.methods.svi.stopping import Plateau, average_error

# -- drawing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 5, 12])
def test_every_row_comes_once_an_epoch(size: int) -> None:
    rows = np.arange(12)
    drawn = draw(ArrayBatches({"x": rows, "X": rows[:, None] ** 2}, 12, size), rng())
    batches = [next(drawn) for _ in range(36 // size if 36 % size == 0 else 36)]
    assert {len(batch["x"]) for batch in batches} == {size}
    x = np.concatenate([batch["x"] for batch in batches])
    np.testing.assert_array_equal(np.concatenate([b["X"] for b in batches])[:, 0], x**2)
    epochs = x[:36].reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(rows, (3, 1)))
    assert not (epochs[0] == epochs[1]).all()


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_thread_reads_ahead_and_hands_on_what_goes_wrong() -> None:
    class Broken(ArrayBatches):
        def blocks(self, rng: np.random.Generator) -> Any:
            yield self.arrays
            raise OSError("the disk is gone")

    with closing(Prefetch(Broken({"x": np.arange(4)}, 4, 2), 2, 0)) as stacks:
        assert sorted(next(stacks)["x"].ravel()) == [0, 1, 2, 3]
        with pytest.raises(OSError, match="the disk is gone"):
            next(stacks)


X, Y = rng().standard_normal((10, 2)), rng().standard_normal(10)


# -- the estimate is unbiased -------------------------------------------------------------------


def losses_and_gradients(feed: Feed, engine: Engine, state: Any, count: int) -> Any:
    """Return the loss and its gradient at ``state``, with its draws, of one step after another."""
    begin = engine.optim.get_params(state.optim_state)

    @jax.jit
    def step(arrays: Any) -> Any:
        after, loss = feed.view.update(engine, state, arrays, 0)
        end = engine.optim.get_params(after.optim_state)
        return loss, jax.tree.map(jnp.subtract, begin, end)  # gradient descent with step size 1

    found = [step(arrays) for arrays in feed.singles(count)]
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *found)


def compare(this: vr.Target, size: int, plate: str | None = None, guide: Any = "normal") -> None:
    """Compare the mean over the minibatches of whole epochs with all rows."""
    count = next(
        n for name, n, _ in this.observed[0].plates if plate is None or name == plate
    ) // np.gcd(this.observed[0].plates[0][1], size)
    with jax.enable_x64(True):
        rows = find_rows(this, size, plate, None)
        with closing(make_feed(this, rows, 3, 7)) as feed:
            z = this.start(jax.random.key(0))
            feed.view.verify(z)
            function = feed.view.function
            starts = Starts(
                guide,
                feed.view.shown,
                lambda g: Engine(function, g, optax.sgd(1.0), Trace_ELBO()),
                this,
            )
            state = starts.state(feed.view.start(z), jax.random.key(1))
            engine = starts.engine
            part = losses_and_gradients(feed, engine, state, int(count))
        engine.model = this.model.function
        whole = losses_and_gradients(make_feed(this, None, 3, 7), engine, state, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), part, whole)
    assert np.isfinite(whole[0])


@pytest.mark.parametrize("size", [10, 6])
def test_minibatches_add_up(size: int) -> None:
    compare(target("linear_regression"), size)  # 20 rows: 6 of them go round in 3 epochs


@pytest.mark.slow
def test_effects_of_groups_are_global() -> None:
    model = vr.load_model("criteo")
    assert model.simulate is not None
    compare(vr.Target(model, **model.simulate(num_rows=40, num_groups=8)), 8, "observation")


def test_points_draw_no_minibatches_for_their_objective(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    inner = Fresh.draw

    def counting(self: Fresh, points: Any, count: int) -> Any:
        asked.append(count)
        return inner(self, points, count)

    monkeypatch.setattr(Fresh, "draw", counting)
    monkeypatch.setattr(outcome, "plateau_of", lambda *_: Plateau(0.0, 0.0))
    for guide in ("delta", "normal"):
        vr.SVI(guide=guide, batch_size=3, num_steps=20).fit(target("linear_regression"))
        assert asked == [NUM_ELBO_DRAWS] * (guide == "normal")


def scaled_prior(X: jax.Array, y: jax.Array) -> None:
    with numpyro.handlers.scale(scale=2.0):
        tau = numpyro.sample("tau", dist.Gamma(2.0, y.std()))
    beta = numpyro.sample("beta", dist.Normal(y.mean(), tau**-0.5).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def test_priors_that_depend_on_the_rows_are_those_of_all_rows() -> None:
    compare(vr.Target(scaled_prior, X=X, y=Y), 4)


def test_local_sites_of_a_guide_function_are_scaled_too() -> None:
    """Points of known log density at every row: their sum is that of all rows too."""

    def guide(y: Any) -> None:
        a = numpyro.param("a", jnp.array(0.3))
        numpyro.sample("m", dist.Delta(numpyro.param("m_point", jnp.array(0.1))))
        with numpyro.plate("row", len(y)):
            numpyro.sample("z", dist.Delta(a * y[:, 0], log_density=a * y[:, 1]))

    compare(scores(), 4, guide=guide)


# -- fits ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_closed_form_is_found_from_minibatches() -> None:
    known = case("linear_regression")
    assert known.cov is not None
    assert known.log_evidence is not None
    fit = vr.SVI(guide="multivariate_normal", batch_size=7, num_steps=12_000).fit(
        target("linear_regression"), key=0, throw=True
    )
    assert fit.status is vr.Status.OK
    # the rule asks for a twentieth of a sd; four times that, as the error is itself an estimate
    assert (np.abs(fit.mean()["beta"] - known.mean["beta"]) < 0.2 * known.sd["beta"]).all()
    np.testing.assert_allclose(fit.sd()["beta"], known.sd["beta"], rtol=0.2)
    assert fit.log_evidence is not None
    gap = known.log_evidence - fit.log_evidence.value
    assert -4.5 * fit.log_evidence.se < gap < 0.5 + 4.5 * fit.log_evidence.se
    assert fit.config["batch_size"] == 7


LOADINGS = np.array([1.0, -0.5, 0.8, 0.3])
NOISE = np.array([0.5, 0.4, 0.6, 0.5])
"""Of one factor: loadings, and the variances of what it leaves."""

PRECISION = 1 + (LOADINGS**2 / NOISE).sum()


@cache
def scores(num_rows: int = 60) -> vr.Target:
    """One-factor analysis with known loadings; the mean of the scores is a parameter."""

    def model(y: jax.Array) -> None:
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Normal(m, 1.0))
            sd = jnp.broadcast_to(np.sqrt(NOISE), y.shape)
            numpyro.sample("y", dist.Normal(z[:, None] * LOADINGS, sd).to_event(1), obs=y)

    z, noise = rng().standard_normal((num_rows, 1)), rng().standard_normal((num_rows, 4))
    return vr.Target(model, y=z * LOADINGS + np.sqrt(NOISE) * noise)


def mean_field_optimum(this: vr.Target) -> tuple[float, float]:
    """Return the mean-field mean of m, and the ELBO there, by dense algebra."""
    y = this.data["y"]
    N = len(y)
    joint = np.eye(N + 1) * PRECISION  # of (m, z), Gaussian: mean field has its mean
    joint[0, 0] = 1.0 + N
    joint[0, 1:] = joint[1:, 0] = -1.0
    mean = np.linalg.solve(joint, np.concatenate([[0.0], y @ (LOADINGS / NOISE)]))
    kl = (np.log(np.diag(joint)).sum() - np.linalg.slogdet(joint)[1]) / 2
    blocks = np.outer(LOADINGS, LOADINGS)
    cov = np.kron(np.eye(N), blocks + np.diag(NOISE)) + np.kron(np.ones((N, N)), blocks)
    quadratic = y.ravel() @ np.linalg.solve(cov, y.ravel())
    evidence = -(quadratic + np.linalg.slogdet(cov)[1] + 4 * N * np.log(2 * np.pi)) / 2
    return float(mean[0]), float(evidence - kl)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_linear_encoder_is_exact_where_the_posterior_is_linear(batch_size: int | None) -> None:
    this = scores()
    mean, elbo = mean_field_optimum(this)
    fit = vr.SVI(
        guide={"z": vr.Amortised(hidden=())},
        batch_size=batch_size,
        num_steps=4_000,
        optimizer=optax.adam(optax.cosine_decay_schedule(0.02, 4_000, 0.01)),
    ).fit(this, key=0, throw=True)
    # the noise of 4,000 Adam steps whose size decays, on the scale of the sds: 1/8 and 0.45
    assert abs(fit.mean()["m"] - mean) < 0.02
    exact = (fit.mean()["m"] + this.data["y"] @ (LOADINGS / NOISE)) / PRECISION
    np.testing.assert_allclose(fit.mean()["z"], exact, atol=0.04)
    np.testing.assert_allclose(fit.sd()["z"], PRECISION**-0.5, rtol=0.08)
    assert fit.log_evidence is not None
    error = fit.log_evidence.value - elbo
    assert abs(error) < 4.5 * fit.log_evidence.se + 0.1
    assert fit.draws(5)["z"].shape == (5, 60)


@pytest.mark.slow
def test_an_encoder_is_read_as_it_draws() -> None:
    """Of sites with events and with a second plate, on constrained scales."""

    def model(y: Any) -> None:
        with numpyro.plate("row", len(y), dim=-2):
            numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
            with numpyro.plate("k", 2, dim=-1):
                z = numpyro.sample("z", dist.LogNormal(0.0, 1.0))
                numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    this, count = vr.Target(model, y=rng().standard_normal((5, 2))), 4_000
    families = {"*": vr.Amortised(hidden=(4,))}
    starts = Starts(families, this, lambda g: Engine(model, g, optax.adam(0.01), Trace_ELBO()))
    state = starts.state(np.zeros(this.dim), jax.random.key(0))
    engine = starts.engine
    guide = engine.guide
    moved = jax.tree.map(  # parameters of a guide nobody optimised
        lambda v: v + 0.5 * rng().standard_normal(v.shape).astype(v.dtype),
        engine.optim.get_params(state.optim_state),
    )
    found = read_guide(guide, FittedGuide(moved, this, jax.random.key(1)))
    drawn = Predictive(guide, params=moved, num_samples=count)(jax.random.key(2), **this.data)
    for name, shape in {"p": (5, 1, 3), "z": (5, 2)}.items():
        assert found.mean()[name].shape == shape
        of_mean = np.hypot(found.mcse_mean()[name], found.sd()[name] / np.sqrt(count))
        # 25 means at 5 standard errors: 2e-5 that a right reading fails
        assert (np.abs(drawn[name].mean(0) - found.mean()[name]) < 5 * of_mean).all()
        np.testing.assert_allclose(drawn[name].std(0), found.sd()[name], rtol=0.2)


# -- what is refused ----------------------------------------------------------------------------


def regression(X: jax.Array, y: jax.Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def without_plate(X: jax.Array, y: jax.Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def moving_support(X: jax.Array, y: jax.Array) -> None:
    beta = numpyro.sample("beta", dist.Uniform(0.0, y.max()))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X[:, 0] * beta, 1.0), obs=y)


def total_too(X: jax.Array, y: jax.Array) -> None:
    regression(X, y)
    numpyro.sample("total", dist.Normal(0.0, 1.0), obs=y.sum())


def centred(X: jax.Array, y: jax.Array) -> None:
    regression(X - X.mean(axis=0), y)


def counting(X: jax.Array, y: jax.Array) -> None:
    num_groups = len(np.unique(np.asarray(y)))
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("x", dist.Normal(u[y], 1.0), obs=X[:, 0])


def factor_only(X: jax.Array, y: jax.Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.factor("f", -((y - X @ beta) ** 2))


@pytest.mark.parametrize(
    ("model", "options", "match"),
    [
        (regression, {"batch_size": 11}, "batch_size: got 11, expected at most the 10 rows.*'row'"),
        (
            regression,
            {"batch_size": 5, "plate": "rows"},
            "unknown plate 'rows'; did you mean 'row'",
        ),
        (without_plate, {"batch_size": 5}, r"no plate that holds every observed site \(y\)"),
        (factor_only, {"batch_size": 5}, "numpyro.factor terms.*cannot be told apart"),
        (moving_support, {"batch_size": 5}, r"outside 'row', .* site\(s\) beta depends on which"),
        (
            total_too,
            {"batch_size": 5, "plate": "row"},
            r"outside 'row', .* total depends",
        ),
        (centred, {"batch_size": 5}, "density of site 'y' in 'row' depends on other rows"),
    ],
)
def test_rows_that_cannot_be_drawn(
    model: Callable[..., Any], options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(**options, num_steps=10).fit(vr.Target(model, X=X, y=Y))


def test_sizes_that_follow_from_the_rows_and_plates_without_likelihood() -> None:
    this = vr.Target(counting, X=X, y=np.arange(10) % 3)
    with pytest.raises(
        ValueError, match=r"argument\(s\) y: the model reads sizes off their values"
    ):
        vr.SVI(batch_size=5, num_steps=10).fit(this)
    with pytest.raises(ValueError, match=r"argument\(s\) y: the model reads sizes"):
        vr.SVI(batch_size=2, plate="group", num_steps=10).fit(this)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"guide": "normal"}, r"site 'z' is local to plate 'row'.*guide={'z': 'amortised'}"),
        ({"guide": AutoNormal}, "site 'z' is local to plate 'row'"),
        ({"guide": {"m": "normal"}}, "site 'z' is local to plate 'row'"),
        ({"guide": {"z": "amortised"}, "objective": "iwae"}, "no sum over rows"),
    ],
)
def test_what_does_not_apply(options: dict[str, Any], match: str) -> None:
    fit = vr.SVI(**options, batch_size=10, num_steps=10).fit(scores())
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert re.search(match, fit.message)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size: got 0, expected a positive integer"),
        ({"plate": "row"}, "plate: got 'row', expected None without batch_size"),
        ({"batches": [1, 2]}, r"batches: got \[1, 2\], expected rows from batches_from_parquet"),
        (
            {"batches": ArrayBatches({"y": Y}, 10, 2), "batch_size": 2},
            "batch_size: got 2, expected None with batches",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(**options)


@pytest.mark.parametrize(
    ("guide", "match"),
    [
        ({"z": vr.Amortised(inputs=("x",))}, "unknown argument with as many rows: 'x'.*Known: y"),
        ({"m": "amortised"}, r"site 'm' of shape \(\) has no plate along its first axis"),
        ({"[mz]": "amortised"}, "site 'm' of shape"),
    ],
)
def test_what_has_no_encoder(guide: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(guide=guide, num_steps=10).fit(scores())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden": (0,)}, r"hidden: got \(0,\), expected positive numbers"),
        ({"hidden": "32"}, "hidden: got '32'"),
        ({"inputs": "y"}, "inputs: got 'y', expected names"),
        ({"inputs": ()}, r"inputs: got \(\), expected names"),
    ],
)
def test_bad_encoders(options: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Amortised(**options)


def test_the_command_line_sets_them() -> None:
    texts = {"batch_size": "50", "plate": "row", "guide": '{"z": "amortised"}'}
    method = set_options(vr.SVI(batch_size=1), "svi", texts)
    assert isinstance(method, vr.SVI)
    assert (method.batch_size, method.plate) == (50, "row")
    assert method.guide == {"z": "amortised"}


@pytest.mark.parametrize(
    ("most", "steps", "size"), [(250, 10, 250), (255, 10, 250), (21, 100, 20), (21, 12.5, 21)]
)
def test_chunks_are_made_of_epochs_or_epochs_of_chunks(most: int, steps: float, size: int) -> None:
    assert in_epochs(most, steps) == size


def test_noise_that_cancels_over_an_epoch_is_none_of_the_average() -> None:
    """Locations that go round within every epoch of five chunks, and nowhere in all."""
    swing = np.tile([2.0, -1.0, 0.5, -2.5, 1.0], 12)
    chunks = [
        Chunk(None, np.zeros(1), {"loc": np.array([3.0 + s])}, {"loc": np.array([0.1])})
        for s in swing
    ]
    means, variances = by_epoch(chunks, 5)
    np.testing.assert_allclose(np.ravel([m["loc"] for m in means]), np.full(12, 3.0))
    np.testing.assert_allclose(variances[0]["loc"], 0.1 + np.var(swing[:5]))
    assert average_error(np.array([m["loc"] for m in means]))[0] < 1e-9
    as_they_are, _ = by_epoch(chunks[:30], 5)  # six epochs are too few
    assert len(as_they_are) == 30
