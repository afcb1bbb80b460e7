"""The random-effects logistic regression of ``models/criteo``, beside what else can fit it.

Simulated data, 61,895 rows in 5,000 groups, seed 0. Every line is a fresh process, timed from
outside: wall and processor seconds, and the largest resident memory. Peers that are not installed
are lines that say so.

    python benchmarks/criteo.py [--only ours,scipy] [--repeats 3]

- ours: ``vi-recipes compare`` from a cold start; and each method fitted twice in one process, of
  which the second fit compiles nothing.
- lme4, glmmTMB: maximum likelihood with the groups' effects integrated out, by Laplace's
  approximation (nAGQ = 1) or a cruder one (nAGQ = 0).
- svi, laplace: NumPyro by itself, in float32.
- scipy: trust-ncg on the deterministic mean-field objective of ours.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import common
from common import Row

METHODS = "map,laplace,meanfield,lrvb"
NUM_STEPS = 20_000
STEP_SIZE = 0.01
NUM_DRAWS = 1_000
NUM_COVARIATES = 5
SHOWN = ("(Intercept)", "x1", "sd(group)")
"""The parameters in the table of estimates, as R calls them: mu, beta[0] and tau^(-1/2)."""

LAPLACE_MEMORY = 20 * 1024.0
"""MB that must be free for NumPyro's dense Hessian to be tried."""

LAPLACE_SECONDS = 200.0
SCIPY_SECONDS = 200.0
MAX_STEPS = 2_000

# -- workers: each runs in a process of its own ----------------------------------------------------


def write_data(path: str) -> None:
    """Write the simulated data as a CSV file with columns y, group, x1, ..., x5."""
    import numpy as np

    import vi_recipes as vr

    simulate = vr.load_model("criteo").simulate
    assert simulate is not None
    data = simulate()
    columns = [data["y"], data["group"], *data["X"].T]
    names = ["y", "group", *(f"x{k + 1}" for k in range(NUM_COVARIATES))]
    formats = ["%d", "%d", *["%.17g"] * NUM_COVARIATES]
    np.savetxt(
        path, np.column_stack(columns), fmt=formats, delimiter=",", header=",".join(names),
        comments="",
    )  # fmt: skip


def fit_twice() -> None:
    """Fit MAP, mean field and linear response twice each; the second time nothing is compiled."""
    import vi_recipes as vr

    start = time.perf_counter()
    target = vr.Target(vr.load_model("criteo"))
    rows = [Row("a target built", read=time.perf_counter() - start)]
    estimates = {}
    for method in (vr.MAP(), vr.MeanField(), vr.LinearResponse()):
        first = method.fit(target, key=0)
        second = method.fit(target, key=0)
        rows.append(
            Row(
                f"{method.name}, second fit",
                compile=first.timing.compile_seconds,
                fit=second.timing.run_seconds,
                note=f"{second.status.name.lower()}; the first ran {first.timing.run_seconds:.2f} "
                f"s; {second.timing.gradient_evaluations} gradients, "
                f"{second.timing.hvp_evaluations} products",
            )
        )
        if second.has_result:
            mean, sd = second.mean(), second.sd()
            pairs = [[mean[name].flat[0], sd[name].flat[0]] for name in ("mu", "beta", "tau")]
            tau, sd_tau = pairs[2]
            pairs[2] = [tau**-0.5, sd_tau * tau**-1.5 / 2]  # to first order
            estimates[method.name] = dict(zip(SHOWN, pairs, strict=True))
    common.emit(rows, estimates)


def numpyro_svi(guide_name: str, path: str) -> None:
    """Fit one of NumPyro's guides by Adam steps in one compiled scan, with nothing of ours."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import pandas as pd
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    start = time.perf_counter()
    frame = pd.read_csv(path)
    X = jnp.asarray(frame.iloc[:, 2:].to_numpy())
    y, group = jnp.asarray(frame["y"].to_numpy()), jnp.asarray(frame["group"].to_numpy())
    num_groups = int(group.max()) + 1
    read = time.perf_counter() - start

    def model(y: jax.Array, X: jax.Array, group: jax.Array) -> None:
        beta = numpyro.sample("beta", dist.Normal(0, 10**0.5).expand([NUM_COVARIATES]).to_event(1))
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        tau = numpyro.sample("tau", dist.Gamma(3, 3))
        with numpyro.plate("groups", num_groups):
            u = numpyro.sample("u", dist.Normal(mu, tau**-0.5))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=X @ beta + u[group]), obs=y)

    start = time.perf_counter()
    guide = getattr(autoguide, guide_name)(model)
    svi = SVI(model, guide, numpyro.optim.Adam(STEP_SIZE), Trace_ELBO())
    state = svi.init(jax.random.key(0), y, X, group)

    def scan(state: Any, y: jax.Array, X: jax.Array, group: jax.Array) -> Any:
        def step(state: Any, _: None) -> tuple[Any, jax.Array]:
            return svi.update(state, y, X, group)

        return jax.lax.scan(step, state, None, length=NUM_STEPS)

    compiled = jax.jit(scan).lower(state, y, X, group).compile()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    state, losses = jax.block_until_ready(compiled(state, y, X, group))
    steps = time.perf_counter() - start
    params = svi.get_params(state)
    key = jax.random.key(1)
    draws = guide.sample_posterior(key, params, sample_shape=(NUM_DRAWS,))
    shown = (draws["mu"], draws["beta"][:, 0], draws["tau"] ** -0.5)
    pairs = [[float(v.mean()), float(v.std())] for v in shown]
    fit = time.perf_counter() - start  # for Laplace: with the Hessian, which the draws need
    note = f"{NUM_STEPS} steps in {steps:.1f} s"
    if guide_name == "AutoNormal":
        elbo = -Trace_ELBO(num_particles=100).loss(key, params, model, guide, y, X, group)
        note += f"; ELBO {float(elbo):.2f}"
    else:
        note += f", Hessian and draws in {fit - steps:.1f} s; last loss {float(losses[-1]):.2f}"
    row = Row(guide_name, read=read, compile=compile_seconds, fit=fit, note=note)
    common.emit([row], {f"NumPyro {guide_name}": dict(zip(SHOWN, pairs, strict=True))})


def scipy_trust() -> None:
    """Minimise the deterministic mean-field objective by ours and by SciPy's trust-ncg.

    From the same start, until the Newton decrement that ours stops at. The decrement is worked out
    after each of SciPy's steps, and the clock stands still for that.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from scipy.optimize import minimize

    import vi_recipes as vr
    from vi_recipes.core import Timing, silent
    from vi_recipes.elbo import CurvedKL, make_factors, search

    method, key, timing = vr.MeanField(), jax.random.key(0), Timing()
    target = vr.Target(vr.load_model("criteo"))
    with jax.enable_x64(True):
        kl = CurvedKL(target, make_factors(target, {}), {}, key, timing)
        kl.use_nodes(method.num_nodes)
        kl.use_pairs(method.num_pairs)
        start = kl.find_structure(key)
        for _ in range(2):  # the first time compiles
            before = timing.to_dict()
            began = time.perf_counter()
            ours = search(kl, start, method.limits, silent)
            our_seconds = time.perf_counter() - began
        counts = {k: v - before[k] for k, v in timing.to_dict().items()}

        began = time.perf_counter()
        held = kl.held

        def product(flat: jax.Array, vector: jax.Array, held: Any) -> jax.Array:
            return jax.jvp(lambda f: jax.grad(kl.value)(f, held), (flat,), (vector,))[1]

        value_and_grad = jax.jit(jax.value_and_grad(kl.value)).lower(start, held).compile()
        hvp = jax.jit(product).lower(start, start, held).compile()
        compile_seconds = time.perf_counter() - began

        num_products, paused = 0, 0.0

        def function(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_grad(flat, held)
            return float(value), np.asarray(gradient)

        def hessp(flat: np.ndarray, vector: np.ndarray) -> np.ndarray:
            nonlocal num_products
            num_products += 1
            return np.asarray(hvp(flat, vector, held))

        def locations(flat: np.ndarray) -> np.ndarray:
            return np.asarray(kl.factors.location_scale(jnp.asarray(flat).reshape(-1, 2))[0])

        def decrement(flat: np.ndarray) -> float:
            hessian = kl.hessian(flat)
            return np.inf if hessian is None else hessian.decrement(kl.evaluate(flat)[1])

        def callback(intermediate_result: Any) -> None:
            nonlocal paused
            begin = time.perf_counter()
            found = decrement(intermediate_result.x)
            paused += time.perf_counter() - begin
            seconds = time.perf_counter() - began - paused
            if found <= method.tolerance / 10 or seconds > SCIPY_SECONDS:
                raise StopIteration

        rows, estimates = [], {}
        found = [("ours", ours.eta.ravel(), ours.elbo)]
        rows.append(
            Row(
                "our trust region, second time",
                compile=timing.compile_seconds,
                fit=our_seconds,
                note=f"ELBO {ours.elbo:.2f}, {len(ours.trace)} steps, "
                f"{counts['gradient_evaluations']:.0f} gradients, "
                f"{counts['hvp_evaluations']:.0f} products",
            )
        )
        for radius in (1.0, float(np.sqrt(start.size))):
            num_products, paused, began = 0, 0.0, time.perf_counter()
            theirs = minimize(
                function,
                np.asarray(start, float),
                jac=True,
                hessp=hessp,
                method="trust-ncg",
                callback=callback,
                options={
                    "gtol": 0.0,
                    "maxiter": MAX_STEPS,
                    "initial_trust_radius": radius,
                    "max_trust_radius": 1e6,
                },
            )
            seconds = time.perf_counter() - began - paused
            name = f"SciPy trust-ncg, radius {radius:.3g}"
            found.append((name, theirs.x, -float(theirs.fun)))
            rows.append(
                Row(
                    name,
                    compile=compile_seconds,
                    fit=seconds,
                    note=f"{theirs.nit} steps, {theirs.njev} gradients, {num_products} products",
                )
            )
        for name, flat, elbo in found:
            apart = float(np.abs(locations(flat) - locations(ours.eta)).max())
            estimates[name] = {
                "ELBO, less ours": [elbo - ours.elbo],
                "Newton decrement": [decrement(flat)],
                "largest difference of a location": [apart],
            }
    common.emit(rows, estimates)


# -- the parts of the benchmark --------------------------------------------------------------------

Part = Callable[[Path, int, dict[str, Any]], list[Row]]
"""From the data's file and the number of repeats to rows; estimates are added to the last."""


def ours(data: Path, repeats: int, estimates: dict[str, Any]) -> list[Row]:
    """Measure the command line from a cold start, and second fits in one process."""
    rows = [common.compare("criteo", methods, repeats=repeats) for methods in (METHODS, "lrvb")]
    run = common.measure(common.worker(__file__, "fit_twice"), repeats=repeats)
    rows.append(run.row("one process, each method twice"))
    return [*rows, *common.collect(run, estimates)]


def r_package(package: str, data: Path, repeats: int, estimates: dict[str, Any]) -> list[Row]:
    """Measure lme4's or glmmTMB's fits."""
    covariates = " + ".join(f"x{k + 1}" for k in range(NUM_COVARIATES))
    variants: dict[str, tuple[str, ...]] = {"glmmTMB": ()}
    if package == "lme4":
        variants = {
            "glmer, nAGQ = 1": ("nAGQ=1",),
            "glmer, nAGQ = 1, bobyqa": ("nAGQ=1", "optimizer=bobyqa"),
            "glmer, nAGQ = 0": ("nAGQ=0",),
        }
    return [
        common.mixed_model(
            name, package, data, f"y ~ {covariates} + (1 | group)", ["group"], estimates,
            "family=binomial", *options, repeats=repeats,
        )
        for name, options in variants.items()
    ]  # fmt: skip


def svi(data: Path, repeats: int, estimates: dict[str, Any]) -> list[Row]:
    """Measure NumPyro's mean field."""
    run = common.measure(common.worker(__file__, "numpyro", "AutoNormal", data), repeats=repeats)
    return [common.one(run, "NumPyro AutoNormal", estimates)]


def laplace(data: Path, repeats: int, estimates: dict[str, Any]) -> list[Row]:
    """Measure NumPyro's Laplace approximation, whose Hessian is dense."""
    name, free = "NumPyro AutoLaplaceApproximation", common.available_memory()
    if free < LAPLACE_MEMORY:
        return [Row(name, note=f"not tried: {free:,.0f} MB free, {LAPLACE_MEMORY:,.0f} needed")]
    run = common.measure(
        common.worker(__file__, "numpyro", "AutoLaplaceApproximation", data),
        time_limit=LAPLACE_SECONDS,
        memory_limit=common.memory_limit(),
    )
    return [common.one(run, name, estimates)]


def scipy(data: Path, repeats: int, estimates: dict[str, Any]) -> list[Row]:
    """Measure SciPy on our objective; what it reached is a table of its own."""
    run = common.measure(common.worker(__file__, "scipy"), repeats=repeats, time_limit=590)
    reached: dict[str, Any] = {}
    rows = [run.row("one process, ours and SciPy's"), *common.collect(run, reached)]
    common.print_estimates("The deterministic mean-field objective, minimised", reached)
    return rows


PARTS: dict[str, Part] = {
    "ours": ours,
    "lme4": partial(r_package, "lme4"),
    "glmmTMB": partial(r_package, "glmmTMB"),
    "svi": svi,
    "laplace": laplace,
    "scipy": scipy,
}
WORKERS = {
    "data": write_data,
    "fit_twice": fit_twice,
    "numpyro": numpyro_svi,
    "scipy": scipy_trust,
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, of %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="processes per line; the median")
    options = parser.parse_args()
    parts = common.chosen(parser, options.only, PARTS)
    common.heading("criteo: 61,895 rows, 5,000 groups")
    rows: list[Row] = []
    estimates: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "criteo.csv"
        written = common.measure(common.worker(__file__, "data", data))
        if written.failure:
            raise SystemExit(f"the data were not written: {written.failure}")
        for part in parts:
            rows += PARTS[part](data, options.repeats, estimates)
    common.print_costs(rows, "`vi-recipes compare` lrvb", "lrvb, second fit")
    common.print_estimates("Estimates, with their standard deviations", estimates, SHOWN)
    print(common.load())


if __name__ == "__main__":
    if not common.is_worker(WORKERS):
        main()
