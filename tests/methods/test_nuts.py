"""NUTS: its own invariants, both chain methods, both parametrisations, and how runs end."""

from __future__ import annotations

import _thread
import dataclasses
import threading
import time
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target
from strikes_for_tests import is_struck

import vi_recipes as vr
from vi_recipes.core import Timing, silent
from vi_recipes.methods.nuts.nuts import _decentred
from vi_recipes.methods.nuts.running import ChainWatch, run_chains


@cache
def fitted(name: str, **options: Any) -> vr.Fit:
    options = {"num_warmup": 300, "num_samples": 500, "num_chains": 2, **options}
    return vr.NUTS(**options).fit(target(name), key=4, throw=True)


def distance(a: vr.Fit, b: vr.Fit, site: str) -> float:
    """Return the largest difference of means and sds, in joint Monte Carlo standard errors."""
    mean = np.abs(a.mean()[site] - b.mean()[site]) / np.hypot(a.mcse()[site], b.mcse()[site])
    sd = np.abs(a.sd()[site] - b.sd()[site]) / np.hypot(a.mcse_sd()[site], b.mcse_sd()[site])
    return float(max(mean.max(), sd.max()))


@pytest.mark.slow
def test_threads_and_lockstep_agree() -> None:
    threads = fitted("normal_precision", chain_method="threads")
    lockstep = fitted("normal_precision", chain_method="vectorized")
    for site in ("tau", "mu", "sigma"):
        # 6 comparisons at 4.5 standard errors: 4e-5 that samplers of one posterior differ so much
        assert distance(threads, lockstep, site) < 4.5
    assert threads.mean()["mu"].shape == lockstep.mean()["mu"].shape == ()
    stats = (threads.sample_stats, lockstep.sample_stats)
    assert {k: v.shape for k, v in stats[0].items()} == {k: v.shape for k, v in stats[1].items()}


@pytest.mark.slow
def test_centred_and_noncentred_agree() -> None:
    centred = fitted("nested_plates", num_samples=1_000)
    decentred = fitted("nested_plates", num_samples=1_000, noncentered=("s", "c"))
    assert list(centred.mean()) == list(decentred.mean()) == ["mu", "s", "c"]
    for site in ("mu", "s", "c"):
        # 20 comparisons at 4.5 standard errors: 1.4e-4
        assert distance(centred, decentred, site) < 4.5
    known = case("nested_plates")
    for site in ("mu", "s", "c"):
        error = np.abs(decentred.mean()[site] - known.mean[site]) / decentred.mcse()[site]
        assert error.max() < 4.5


def test_the_statistics_are_those_of_the_draws() -> None:
    fit = fitted("normal_precision")
    stats = fit.sample_stats
    samples = fit.posterior.samples  # type: ignore[union-attr]
    assert {v.shape for v in stats.values()} == {(2, 500)}
    this = target("normal_precision")
    for c, d in ((0, 0), (1, 250), (1, 499)):
        z = this.unconstrain({name: v[c, d] for name, v in samples.items()})
        assert stats["lp"][c, d] == pytest.approx(this.log_density(z), rel=1e-10)
    # the Hamiltonian is the potential energy and a positive kinetic one
    assert (stats["energy"] > -stats["lp"]).all()
    # trees of depth d take up to 2^d - 1 leapfrog steps
    assert (stats["n_steps"] <= 2.0 ** stats["tree_depth"] - 1).all()
    assert (stats["n_steps"] >= 2.0 ** (stats["tree_depth"] - 1)).all()
    assert fit.timing.gradient_evaluations > stats["n_steps"].sum()  # warm-up counts too
    assert (np.ptp(stats["step_size"], axis=1) == 0).all()  # adaptation is over
    assert stats["step_size"][0, 0] != stats["step_size"][1, 0]
    assert fit.diagnostics["accept_prob_mean"] == pytest.approx(0.8, abs=0.15)


def test_diagnostics_are_arvizs() -> None:
    import arviz as az

    fit = fitted("normal_precision")
    summary = az.summary(fit.to_arviz(), round_to="none")
    assert fit.diagnostics["r_hat_max"] == pytest.approx(summary["r_hat"].max())
    assert fit.diagnostics["ess_bulk_min"] == pytest.approx(summary["ess_bulk"].min())
    np.testing.assert_allclose(fit.summary()["mcse_mean"], summary["mcse_mean"], rtol=1e-10)
    np.testing.assert_allclose(fit.summary()["ess_bulk"], summary["ess_bulk"], rtol=1e-10)


def test_seeds() -> None:
    options = {"num_warmup": 50, "num_samples": 20, "num_chains": 2}
    a, b, c = (
        vr.NUTS(**options).fit(target("normal_mean"), key=k).posterior.samples["mu"]  # type: ignore
        for k in (1, jax.random.key(1), 2)
    )
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()
    assert (a[0] != a[1]).all()  # chains have streams of their own


def test_the_draws_do_not_depend_on_how_they_are_chunked() -> None:
    # 40 chunks at most: 60 iterations run in chunks of 2, 61 in chunks of 2 with one over
    short, longer = (
        vr.NUTS(num_warmup=40, num_samples=n, num_chains=1).fit(target("normal_mean"), key=3)
        for n in (20, 21)
    )
    a, b = (f.posterior.samples["mu"] for f in (short, longer))  # type: ignore[union-attr]
    assert b.shape == (1, 21)
    np.testing.assert_array_equal(a, b[:, :20])


# -- how a run ends -----------------------------------------------------------------------------


def funnel() -> None:
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    with numpyro.plate("n", 5):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))


@pytest.mark.slow
def test_divergences_are_reported_and_cured_by_another_parametrisation() -> None:
    this = vr.Target(funnel)
    fit = vr.NUTS(num_warmup=200, num_samples=400, num_chains=2).fit(this, key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert fit.diagnostics["divergences"] > 0
    assert f"{fit.diagnostics['divergences']:.0f} divergences in 800 draws" in fit.message
    assert "non-centre" in fit.advice
    assert fit.sample_stats["diverging"].sum() == fit.diagnostics["divergences"]
    cured = vr.NUTS(num_warmup=200, num_samples=400, num_chains=2, noncentered=("x",))
    assert cured.fit(this, key=0).diagnostics["divergences"] == 0


def test_one_chain_cannot_vouch_for_itself() -> None:
    fit = vr.NUTS(num_warmup=200, num_samples=400, num_chains=1).fit(target("normal_mean"))
    assert fit.status is vr.Status.UNCONVERGED
    assert "one chain" in fit.message
    assert fit.has_result


def test_too_few_draws_are_reported() -> None:
    fit = vr.NUTS(num_warmup=100, num_samples=50, num_chains=2).fit(target("normal_mean"))
    assert fit.status is vr.Status.UNCONVERGED
    assert "bulk ESS down to" in fit.message
    assert "(want 200)" in fit.message


def test_chains_that_disagree_are_reported() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        far = jnp.logaddexp(dist.Normal(-30, 1.0).log_prob(x), dist.Normal(30, 1.0).log_prob(x))
        numpyro.factor("f", far)

    # starting points scatter by 10 around 0, so both modes are found and none is left
    method = vr.NUTS(num_warmup=200, num_samples=200, num_chains=6, scatter=10.0)
    fit = method.fit(vr.Target(model), key=1)
    assert fit.status is vr.Status.UNCONVERGED
    assert "R-hat up to" in fit.message
    assert fit.diagnostics["r_hat_max"] > 1.2


def test_the_depth_limit_is_reported() -> None:
    options = {"num_warmup": 200, "num_samples": 200, "num_chains": 2, "max_tree_depth": 1}
    fit = vr.NUTS(**options).fit(target("nested_plates"))
    assert fit.status is vr.Status.UNCONVERGED
    assert "of trees at the depth limit" in fit.message
    assert fit.sample_stats["n_steps"].max() == 1


class InterruptAt:
    """A progress reporter that interrupts once so much is done: by itself, or as Ctrl-C does."""

    def __init__(self, share: float, *, ctrl_c: bool) -> None:
        self.share = share
        self.ctrl_c = ctrl_c
        self.is_done = False

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if done < self.share * total or self.is_done:
            return
        self.is_done = True
        if self.ctrl_c:
            _thread.interrupt_main()
        else:
            raise KeyboardInterrupt


@pytest.mark.parametrize("chain_method", ["threads", "vectorized"])
@pytest.mark.parametrize("ctrl_c", [True, False])
def test_an_interrupt_keeps_the_draws(chain_method: Any, ctrl_c: bool) -> None:
    # long enough for the main thread, which gets the signal, to act on it before the run is over
    method = vr.NUTS(num_warmup=500, num_samples=200_000, num_chains=2, chain_method=chain_method)
    fit = method.fit(target("normal_mean"), progress=InterruptAt(0.1, ctrl_c=ctrl_c))
    assert fit.status is vr.Status.INTERRUPTED
    draws = fit.posterior.samples["mu"].shape[1]  # type: ignore[union-attr]
    assert 50 <= draws < 200_000
    assert f"{draws} of 200000 draws a chain" in fit.message
    assert fit.sample_stats["lp"].shape == (2, draws)
    known = case("normal_mean")
    assert abs(fit.mean()["mu"] - known.mean["mu"]) < 4.5 * fit.mcse()["mu"]


def test_an_interrupt_during_warm_up_has_nothing_to_keep() -> None:
    method = vr.NUTS(num_warmup=100_000, num_samples=100)
    with pytest.raises(KeyboardInterrupt):
        method.fit(target("normal_mean"), progress=InterruptAt(0.05, ctrl_c=False))


def test_an_error_in_a_chain_is_a_failure_not_a_hang() -> None:
    def broken(done: int, total: int, text: str = "") -> None:
        raise RuntimeError("the disk is full")

    method = vr.NUTS(num_warmup=50, num_samples=50)
    fit = method.fit(target("normal_mean"), progress=broken)
    assert fit.status is vr.Status.FAILED
    assert "the disk is full" in fit.message


def test_an_interrupt_ends_chains_wherever_it_strikes() -> None:
    def step(state: int, _: Any) -> tuple[int, dict[str, np.ndarray]]:
        steps.append(state)
        time.sleep(1e-3)
        return state, {"z": np.full((1, 1), state)}

    def run() -> None:
        watch = ChainWatch(lambda *_, **__: None, 2 * iterations)
        drawn.append(run_chains(step, [0, 1], 0, iterations, 1, watch, x64=True))

    iterations = 2_000
    for at in range(60):
        steps, drawn = list[int](), list[Any]()
        assert is_struck(run, at)
        until = time.monotonic() + 10
        while any(t.name.startswith("chain ") for t in threading.enumerate()):
            assert time.monotonic() < until
            time.sleep(1e-3)
        assert len(steps) < 2 * iterations
        for k, parts in enumerate(drawn[0] if drawn else []):
            assert len(parts) == steps.count(k)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chain_method": "vectorized", "dtype": "float32"},
        {"noncentered": ("c",)},
        {"marginal": True},
    ],
)
def test_a_second_fit_of_a_target_compiles_nothing(options: dict[str, Any]) -> None:
    traced: list[None] = []

    def model(y: Any) -> None:
        traced.append(None)
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            c = numpyro.sample("c", dist.Normal(mu, 1.0))
            numpyro.sample("y", dist.Normal(c, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.5, 1.5]))
    method = vr.NUTS(num_warmup=20, num_samples=20, num_chains=2, **options)
    first = method.fit(this, key=1, throw=True)
    assert first.timing.compile_seconds > 0
    traced.clear()
    again, other = (method.fit(this, key=key, throw=True) for key in (1, 2))
    assert not traced
    assert again.timing.compile_seconds == other.timing.compile_seconds == 0
    assert again.mean()["mu"] == first.mean()["mu"] != other.mean()["mu"]
    longer = dataclasses.replace(method, max_tree_depth=3).fit(this, key=1, throw=True)
    assert longer.timing.compile_seconds > 0


# -- labels, precision and options --------------------------------------------------------------


def test_labels_are_aligned_within_a_fit() -> None:
    fit = fitted("mixture")
    mean = fit.mean()["mu"]
    known = case("mixture").mean["mu"]
    order = np.argsort(mean)
    # the two labels are known up to their order; unaligned draws would average to one value
    error = np.abs(mean[order] - known) / fit.mcse()["mu"][order]
    assert error.max() < 4.5  # 2 comparisons: 1e-5
    assert "of draws relabelled" in fit.message
    assert fit.diagnostics["r_hat_max"] < 1.05


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x64", [False, True])
def test_precision_is_the_methods_own(dtype: Any, x64: bool) -> None:
    seen: list[Any] = []

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        seen.append(jnp.result_type(mu))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.5, 1.5]))
    with jax.enable_x64(x64):
        seen.clear()
        method = vr.NUTS(dtype=dtype, num_warmup=20, num_samples=20, num_chains=2)
        fit = method.fit(this, throw=True)
        assert jax.config.jax_enable_x64 == x64
    assert fit.provenance.dtype == dtype
    assert jnp.dtype(dtype) in seen
    assert fit.sample_stats["lp"].dtype == dtype


@pytest.mark.slow
def test_an_unknown_site_to_noncentre() -> None:
    with pytest.raises(ValueError, match=r"noncentered: got 'school', expected latent.*theta"):
        vr.NUTS(noncentered=("school",)).fit(target("eight_schools"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_warmup": -1}, "num_warmup: got -1"),
        ({"num_samples": 3}, "num_samples: got 3, expected an integer of 4 or more"),
        ({"num_chains": 0}, "num_chains: got 0"),
        ({"target_accept_prob": 1.0}, "target_accept_prob: got 1.0, expected a number between"),
        ({"max_tree_depth": 0}, "max_tree_depth: got 0"),
        ({"chain_method": "parallel"}, "chain_method: got 'parallel'"),
        ({"dtype": "float16"}, "dtype: got 'float16'"),
        ({"scatter": 0.0}, "scatter: got 0.0"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.NUTS(**options)


def test_another_form_of_a_model_starts_where_the_model_does_and_reads_what_it_reads() -> None:
    def far(y: Any, group: Any) -> None:
        sd = numpyro.sample("sd", dist.LogNormal(9.0, 0.1))
        with numpyro.plate("groups", 2):
            u = numpyro.sample("u", dist.Normal(0.0, sd))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)

    data = {"y": np.array([1.0, 2.0, 3.0]), "group": np.array([0, 1, 1])}
    target = vr.Target(far, **data)
    inner = _decentred(target, ["u"], Timing())
    there, here = target.anywhere(), inner.anywhere()
    np.testing.assert_array_equal(here[inner.slices["sd"]], there[target.slices["sd"]])
    np.testing.assert_array_equal(here[inner.slices["u_decentered"]], 0.0)
    wrong = vr.Target(far, **data | {"group": np.array([0, 1, 2])})
    with pytest.raises(ValueError, match="out of bounds"):
        _decentred(wrong, ["u"], Timing()).start(jax.random.key(0))


@pytest.mark.parametrize("where", ["threading.Thread.start", "_thread.start_new_thread"])
def test_chains_without_room_for_a_thread_are_no_interrupted_ones(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    watch = ChainWatch(silent, 4)
    with monkeypatch.context() as patched:
        patched.setattr(where, full)
        with pytest.raises(RuntimeError, match="new thread"):
            run_chains(lambda *_: (0, {}), [0, 1], 0, 2, 1, watch, x64=True)
    assert watch.stopped is (where == "_thread.start_new_thread")  # others may have begun
