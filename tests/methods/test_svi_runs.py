"""Runs of SVI: where they begin, several starts, and checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from interrupts_for_tests import InterruptAt
from models_for_tests import case, target
from numpyro.infer import autoguide

import vi_recipes as vr
from vi_recipes.cli.options import set_options
from vi_recipes.core.timing import Timing
from vi_recipes.methods.svi import checkpoint as module
from vi_recipes.methods.svi.outcome import NUM_ELBO_DRAWS

# -- where runs begin ---------------------------------------------------------------------------


def test_the_map_is_where_the_guide_begins() -> None:
    """The mode of a Gaussian posterior is its mean; one tiny step does not leave the start."""
    known, still = case("linear_regression"), vr.SVI(init="map", step_size=1e-9, num_steps=1)
    fit = still.fit(target("linear_regression"), throw=True)
    np.testing.assert_allclose(fit.mean()["beta"], known.mean["beta"], atol=1e-6)
    assert "it began at the MAP" in fit.message
    assert fit.timing.hvp_evaluations > 0
    away = vr.SVI(step_size=1e-9, num_steps=1).fit(target("linear_regression"))
    assert np.abs(away.mean()["beta"] - known.mean["beta"]).max() > 0.1


def test_without_a_map_the_default_start_stands_in_and_the_message_says_so() -> None:
    def unbounded() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.factor("f", dist.Normal(0.0, s).log_prob(x) - jnp.log(s))

    this = vr.Target(unbounded)
    by_map, default = (vr.SVI(init=init, num_steps=40).fit(this) for init in ("map", "median"))
    assert "it began at the default start, there being no MAP: s runs to" in by_map.message
    assert by_map.mean()["x"] == default.mean()["x"]
    assert "began" not in default.message


# -- several starts ------------------------------------------------------------------------------


@cache
def two_modes() -> vr.Target:
    """Two normals far apart, with three quarters and one quarter of the mass."""

    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 2.0))
        ends = dist.Normal(jnp.array([-3.0, 3.0]), 0.5).log_prob(x)
        prior = dist.Normal(0.0, 2.0).log_prob(x)
        numpyro.factor("f", jax.nn.logsumexp(ends + jnp.log(jnp.array([0.75, 0.25]))) - prior)

    return vr.Target(model)


@cache
def restarted() -> tuple[vr.Fit, int]:
    compiled = []
    inner = Timing.compile

    def counting(self: Timing, function: Any, *args: Any, **how: Any) -> Any:
        compiled.append(getattr(function, "__name__", ""))
        return inner(self, function, *args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timing, "compile", counting)
        fit = vr.SVI(num_starts=6, num_steps=800, tolerance=None).fit(two_modes(), throw=True)
    return fit, compiled.count("chunk")


def test_the_best_of_several_runs_is_kept() -> None:
    fit, compiled = restarted()
    assert compiled == 1
    # a normal law at a mode has the ELBO log(mass of the mode)
    rows = fit.trace["elbo"]
    assert rows.shape == (6, 200)
    ends = rows[:, -50:].mean(axis=1)
    good = np.abs(ends - np.log(0.75)) < 0.1
    bad = np.abs(ends - np.log(0.25)) < 0.1
    assert (good ^ bad).all()
    assert good.any()
    assert bad.any()
    assert good[0]  # the best comes first
    assert abs(fit.mean()["x"] + 3) < 0.1
    found = re.search(r"; (\d) of 6 runs reached its ELBO, (\S+), within the error", fit.message)
    assert found
    assert int(found[1]) == good.sum()
    assert float(found[2]) == pytest.approx(fit.diagnostics["elbo"], rel=1e-4)
    assert fit.diagnostics["starts"] == 6
    extra = re.search(r"from (\d+) fresh draws", fit.message)
    counted = 6 * (800 + 2 * NUM_ELBO_DRAWS) + (2 * int(extra[1]) if extra else 0)
    assert fit.timing.gradient_evaluations == counted


def test_the_first_of_several_runs_is_the_run_from_one_start() -> None:
    alone = vr.SVI(num_steps=800, tolerance=None).fit(two_modes())
    rows = restarted()[0].trace["elbo"]
    assert (rows == alone.trace["elbo"]).all(axis=1).sum() == 1


def test_a_start_that_diverges_leaves_the_others() -> None:
    def model() -> None:
        # no density beyond 0.5 either way, near which no run but a scattered one begins
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("f", jnp.where(jnp.abs(x) > 0.5, jnp.nan, 0.0))

    start = vr.Model(function=model, name="cliff", init=lambda key: {"x": 0.0})
    fit = vr.SVI(num_starts=5, num_steps=60, step_size=1e-6).fit(vr.Target(start), key=3)
    assert fit.has_result
    found = re.search(r"of 5 runs reached .*; (\d) diverged: the ELBO became nan at", fit.message)
    assert found
    assert np.isnan(fit.trace["elbo"][:, -1]).sum() == int(found[1])


# -- what is compiled once ----------------------------------------------------------------------


def counted(traced: list[None]) -> vr.Target:
    """A target whose model takes note of every time that it is traced."""

    def model(y: Any) -> None:
        traced.append(None)
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        s = numpyro.sample("s", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, s), obs=y)

    return vr.Target(model, y=np.array([0.5, 1.5, -1.0, 2.0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guide": {"mu": "multivariate_normal", "s": "gamma"}, "dtype": "float32"},
        {"guide": "delta", "objective": "sticking", "init": "map", "num_starts": 2},
        {"batch_size": 2, "step_size": optax.constant_schedule(0.01)},
        {"optimizer": optax.sgd(1e-3), "objective": "iwae"},
    ],
)
def test_a_second_fit_of_a_target_compiles_nothing(options: dict[str, Any]) -> None:
    traced: list[None] = []
    this, method = counted(traced), vr.SVI(num_steps=80, **options)
    first = method.fit(this, key=1, throw=True)
    assert first.timing.compile_seconds > 0
    traced.clear()
    again, other = (method.fit(this, key=key, throw=True) for key in (1, 2))
    assert not traced
    assert again.timing.compile_seconds == other.timing.compile_seconds == 0
    assert_same(again, first)
    assert (other.trace[next(iter(other.trace))] != first.trace[next(iter(first.trace))]).any()


@pytest.mark.slow
def test_another_configuration_has_code_of_its_own() -> None:
    this, quick = target("normal_mean"), {"num_steps": 80}
    for options in (
        {},
        {"guide": "multivariate_normal"},
        {"objective": "score"},
        {"num_particles": 3},
        {"step_size": 0.02},
        {"optimizer": optax.sgd(1e-3)},
        {"optimizer": optax.sgd(1e-2)},
        {"batch_size": 2},
    ):
        shared, alone = (
            vr.SVI(**quick, **options).fit(where, key=1, throw=True)
            for where in (this, vr.Target(this.model, **this.data))
        )
        assert_same(shared, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "guide", [autoguide.AutoDiagonalNormal, autoguide.AutoNormal, lambda y: point()]
)
def test_guides_that_users_bring_are_known_by_identity(guide: Any) -> None:
    this, method = target("normal_mean"), vr.SVI(guide=guide, num_steps=80)
    first, again = (method.fit(this, key=1, throw=True) for _ in range(2))
    assert first.timing.compile_seconds > 0 == again.timing.compile_seconds
    assert_same(again, first)


def point() -> None:
    numpyro.sample("mu", dist.Delta(numpyro.param("loc", 0.5)))


# -- checkpoints --------------------------------------------------------------------------------


def assert_same(a: vr.Fit, b: vr.Fit) -> None:
    """Equal bit for bit."""
    assert a.message == b.message
    assert a.status is b.status
    for one, two in ((a.mean(), b.mean()), (a.sd(), b.sd()), (a.mcse(), b.mcse())):
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
    assert a.diagnostics == pytest.approx(b.diagnostics, rel=0, abs=0, nan_ok=True)
    for name in a.trace:
        np.testing.assert_array_equal(a.trace[name], b.trace[name])


@pytest.mark.parametrize(
    ("options", "share"),
    [
        ({"num_steps": 8_000, "tolerance": 0.2}, 0.6),
        ({"num_steps": 400, "num_starts": 2, "dtype": "float32", "init": "map"}, 0.7),
        ({"num_steps": 400, "num_starts": 2, "batch_size": 2}, 0.7),
    ],
)
def test_an_interrupted_fit_goes_on_to_the_same_answer(
    options: dict[str, Any], share: float, tmp_path: Path
) -> None:
    this, path = target("normal_mean"), tmp_path / "run.npz"
    method = vr.SVI(**options, checkpoint=path)
    part = method.fit(this, key=4, progress=InterruptAt(share))
    assert part.status is vr.Status.INTERRUPTED
    assert part.message.endswith(f"'{path}' holds what was done: fit again to go on")
    whole = vr.SVI(**options).fit(this, key=4)
    resumed = method.fit(this, key=4)
    assert_same(resumed, whole)
    assert resumed.timing.gradient_evaluations < whole.timing.gradient_evaluations
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_an_interrupt_at_once_leaves_a_checkpoint(tmp_path: Path) -> None:
    method = vr.SVI(num_steps=400, checkpoint=str(tmp_path / "run.npz"))
    with pytest.raises(KeyboardInterrupt):
        method.fit(target("normal_mean"), progress=InterruptAt(0.0))
    assert_same(method.fit(target("normal_mean")), vr.SVI(num_steps=400).fit(target("normal_mean")))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "finished.npz"
    vr.SVI(num_steps=400, checkpoint=path).fit(target("normal_mean"), key=2, throw=True)
    return path


def test_a_finished_fit_takes_no_steps_again(done: Path) -> None:
    fit = vr.SVI(num_steps=400, checkpoint=done).fit(target("normal_mean"), key=2)
    at_once = vr.SVI(num_steps=400).fit(target("normal_mean"), key=2)
    assert fit.timing.gradient_evaluations == at_once.timing.gradient_evaluations - 400
    assert fit.diagnostics["num_steps"] == 400


def test_more_steps_go_on_from_where_they_ended(done: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.npz"
    path.write_bytes(done.read_bytes())
    more = vr.SVI(num_steps=1_000, checkpoint=path).fit(target("normal_mean"), key=2)
    at_once = vr.SVI(num_steps=1_000).fit(target("normal_mean"), key=2)
    np.testing.assert_array_equal(more.trace["elbo"], at_once.trace["elbo"])
    assert more.timing.gradient_evaluations == at_once.timing.gradient_evaluations - 400


def test_another_tolerance_asks_the_rule_again(tmp_path: Path) -> None:
    this, path = target("normal_mean"), tmp_path / "run.npz"
    first, second = (
        vr.SVI(num_steps=8_000, tolerance=tolerance, checkpoint=path).fit(this)
        for tolerance in (0.5, 1e-6)
    )
    assert first.message.startswith("stopped by its rule after ")
    assert first.diagnostics["num_steps"] < 8_000
    assert second.message.startswith("all 8000 steps were taken")


def other_model(y: Any) -> None:
    """As ``normal_mean``, but for the prior."""
    mu = numpyro.sample("mu", dist.Normal(0.5, 3.0))
    numpyro.deterministic("exp_mu", jnp.exp(mu))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)


def renamed() -> vr.Target:
    return vr.Target(other_model, **case("normal_mean").data)


def reworked() -> vr.Target:
    return vr.Target(vr.Model(function=other_model, name="normal_mean"), **case("normal_mean").data)


def fewer_rows() -> vr.Target:
    model = case("normal_mean").model
    assert not isinstance(model, vr.Model)
    data = case("normal_mean").data["y"][:4]
    return vr.Target(vr.Model(function=model, name="normal_mean"), y=data)


@pytest.mark.parametrize(
    ("options", "make", "key", "match"),
    [
        ({}, renamed, 2, "its model is normal_mean, and here it is other_model"),
        ({}, reworked, 2, "its log density at the start is"),
        ({}, fewer_rows, 2, r"its data is y \[5\] .* and here it is y \[4\]"),
        ({}, None, 3, "its seed is"),
        ({"guide": "multivariate_normal"}, None, 2, "its guide is normal, .* multivariate_normal"),
        ({"objective": "iwae"}, None, 2, "its objective is elbo, .* iwae"),
        ({"dtype": "float32"}, None, 2, "is of another fit: its"),
        ({"init": "map"}, None, 2, "its init is median, and here it is map"),
        ({"step_size": 0.02}, None, 2, "its optimizer's way from given gradients is 0.0"),
        ({"optimizer": optax.adam(0.01)}, None, 2, "its optimizer is one with state .*learning"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused(
    options: dict[str, Any],
    make: Callable[[], vr.Target] | None,
    key: int,
    match: str,
    done: Path,
) -> None:
    before = done.read_bytes()
    this = make() if make else target("normal_mean")
    with pytest.raises(ValueError, match=match) as caught:
        vr.SVI(num_steps=400, **options, checkpoint=done).fit(this, key=key)
    assert "delete the file or give another path" in str(caught.value)
    assert done.read_bytes() == before


def test_another_step_size_of_an_optimizer_of_ones_own_is_refused(tmp_path: Path) -> None:
    one, other = (
        vr.SVI(num_steps=40, optimizer=optax.sgd(rate), checkpoint=tmp_path / "run.npz")
        for rate in (1e-3, 2e-3)
    )
    assert_same(one.fit(target("normal_mean")), one.fit(target("normal_mean")))
    with pytest.raises(ValueError, match=r"its optimizer's way from given gradients is 0\.0"):
        other.fit(target("normal_mean"))


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    damaged, this = tmp_path / "damaged.npz", target("normal_mean")
    damaged.write_bytes(b"PK no archive")
    other = tmp_path / "other.npz"
    np.savez(other, x=np.zeros(2))
    for path in (damaged, other):
        with pytest.raises(ValueError, match=r"is no checkpoint of SVI that can be read .*delete"):
            vr.SVI(checkpoint=path).fit(this)
    for path in (tmp_path, tmp_path / "none" / "run.npz"):
        with pytest.raises(ValueError, match="expected a file in a folder that exists"):
            vr.SVI(checkpoint=path).fit(this)
    with pytest.raises(ValueError, match="checkpoint: got 3, expected text, a path or None"):
        vr.SVI(checkpoint=3)  # type: ignore[arg-type]


def test_checkpoints_are_seldom_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    inner = np.savez

    def counting(file: Any, **arrays: Any) -> None:
        written.append(arrays["0/elbo"].size)
        inner(file, **arrays)

    monkeypatch.setattr(np, "savez", counting)
    monkeypatch.setattr(module, "SECONDS", 1e6)
    vr.SVI(num_steps=80, checkpoint=tmp_path / "a.npz").fit(target("normal_mean"))
    assert written == [80]
    written.clear()
    monkeypatch.setattr(module, "SECONDS", 0.0)
    monkeypatch.setattr(module, "SHARE", np.inf)
    vr.SVI(num_steps=80, checkpoint=tmp_path / "b.npz").fit(target("normal_mean"))
    assert written == [*range(2, 81, 2), 80]


def test_a_write_that_fails_leaves_the_file(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "copy.npz"
    path.write_bytes(done.read_bytes())

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match=r"cannot be written .*no space left.*make room"):
        vr.SVI(num_steps=400, checkpoint=path).fit(target("normal_mean"), key=2)
    assert path.read_bytes() == done.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["copy.npz"]


def test_the_last_good_state_of_a_run_that_diverges_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    steep = optax.adam(optax.piecewise_constant_schedule(1e-2, {25: 1e5}))
    method = vr.SVI(num_steps=400, optimizer=steep, checkpoint=path)
    fit = method.fit(target("normal_precision"))
    assert fit.status is vr.Status.DIVERGED
    found = re.search(rf"'{path}' holds the last good state, of step (\d+)", fit.message)
    assert found
    with np.load(path) as file:
        assert file["0/elbo"].size == int(found[1]) > 0
        state = [file[name] for name in file.files if name.startswith("0/state/")]
    assert all(np.isfinite(leaf).all() for leaf in state)
    assert method.fit(target("normal_precision")).message == fit.message


# -- step sizes ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_step_size_falls_and_the_bias_with_it() -> None:
    """The exact posterior is in the family: what its ELBO lacks is the optimiser's."""
    known = case("linear_regression")
    assert known.log_evidence is not None
    free, fixed = (
        vr.SVI(guide="multivariate_normal", optimizer=optimizer, num_steps=12_000).fit(
            target("linear_regression"), throw=True
        )
        for optimizer in (None, optax.adam(0.01))
    )
    assert free.diagnostics["step_size"] in [0.04 / 4**k for k in (1, 2, 3)]
    assert "at the last step size" in free.message
    assert "step_size" not in fixed.diagnostics
    assert "last step size" not in fixed.message
    assert free.log_evidence is not None
    assert fixed.log_evidence is not None
    lost, lost_fixed = (
        known.log_evidence - e.value for e in (free.log_evidence, fixed.log_evidence)
    )
    assert lost < 4.5 * free.log_evidence.se + 0.002
    assert lost < lost_fixed


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.04),
        ({"guide": {"mu": "multivariate_normal", "tau": "gamma"}}, 0.04),
        ({"guide": autoguide.AutoLowRankMultivariateNormal}, 0.04),
        ({"tolerance": None}, 0.01),
        ({"guide": "delta"}, 0.01),
        ({"guide": {"mu": "multivariate_normal", "tau": "delta"}}, 0.01),
        ({"guide": {"z": vr.Amortised()}}, 0.01),
        ({"guide": autoguide.AutoBNAFNormal}, 0.01),
        ({"guide": lambda y: None}, 0.01),
        ({"guide": "iaf", "tolerance": None}, 0.002),
        ({"step_size": 0.3, "tolerance": None}, 0.3),
    ],
)
def test_the_first_step_size_is_larger_where_it_can_fall(
    options: dict[str, Any], expected: float
) -> None:
    assert vr.SVI(**options).first_step_size == expected


# -- options ------------------------------------------------------------------------------------


def test_a_schedule_of_step_sizes() -> None:
    this = target("normal_mean")
    constant, number = (
        vr.SVI(num_steps=100, step_size=step).fit(this).mean()["mu"]
        for step in (optax.constant_schedule(0.02), 0.02)
    )
    assert constant == pytest.approx(number, rel=1e-9)
    halted = optax.piecewise_constant_schedule(0.02, {50: 0.0})
    rows = vr.SVI(num_steps=100, guide="delta", step_size=halted).fit(this).trace["elbo"]
    assert (rows[51:] == rows[51]).all()
    assert rows[0] != rows[50]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"init": "mpa"}, "unknown init 'mpa'; did you mean 'map'"),
        ({"num_starts": 0}, "num_starts: got 0, expected a positive integer"),
        ({"step_size": "0.1"}, "step_size: got '0.1', expected a number, a function or None"),
        ({"step_size": lambda: 0.1}, "step_size: got .* expected a positive number, or an optax"),
        ({"step_size": lambda step: np.nan}, "step_size: got"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(**options)


def test_the_command_line_takes_them() -> None:
    texts = {"init": "map", "num_starts": "3", "checkpoint": "runs/a.npz", "step_size": "0.1"}
    method = set_options(vr.SVI(), "svi", texts)
    assert isinstance(method, vr.SVI)
    assert (method.init, method.num_starts, method.step_size) == ("map", 3, 0.1)
    assert method.checkpoint == Path("runs/a.npz")
    assert method.options()["checkpoint"] == str(Path("runs/a.npz"))
