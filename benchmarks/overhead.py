"""What NUTS and SVI cost through vi_recipes over NumPyro called directly.

Same model (radon), settings, precision and seed count, in one process, alternating; prints seconds
and the ratio of medians, compilation apart and together.

    python benchmarks/overhead.py [--repeats 5]
"""

from __future__ import annotations

import argparse
import statistics
import time

import jax
import numpyro
import optax
from numpyro.infer import MCMC, SVI, Trace_ELBO
from numpyro.infer import NUTS as Kernel
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.initialization import init_to_median

import vi_recipes as vr

NUM_STEPS = 20_000
NUM_WARMUP = NUM_SAMPLES = 1_000
NUM_CHAINS = 4


def numpyro_nuts(target: vr.Target, seed: int, chain_method: str) -> tuple[float, float]:
    """Return the total seconds and the seconds of a second run, which compiles nothing."""
    with jax.enable_x64(True):
        data = target.keywords(target.arrays())
        mcmc = MCMC(
            Kernel(target.model.function),
            num_warmup=NUM_WARMUP,
            num_samples=NUM_SAMPLES,
            num_chains=NUM_CHAINS,
            chain_method=chain_method,
            progress_bar=False,
        )
        seconds = []
        for run in range(2):
            start = time.perf_counter()
            mcmc.run(jax.random.key(seed + run), **data)
            jax.block_until_ready(mcmc.get_samples())
            seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def our_nuts(model: vr.Model, seed: int, chain_method: str) -> tuple[float, float]:
    """Return the total seconds, and those that were not compilation."""
    return _ours(model, vr.NUTS(chain_method=chain_method), seed)


def _ours(model: vr.Model, method: vr.Method, seed: int) -> tuple[float, float]:
    start = time.perf_counter()
    # a target keeps what was compiled for it: each fit has its own
    fit = method.fit(vr.Target(model), key=seed, throw=True)
    return time.perf_counter() - start, fit.timing.run_seconds


def numpyro_svi(target: vr.Target, seed: int) -> tuple[float, float]:
    """Return the total seconds and those of the compiled scan run again."""
    data = target.keywords(target.arrays())
    start = time.perf_counter()
    guide = AutoNormal(target.model.function, init_loc_fn=init_to_median)
    svi = SVI(target.model.function, guide, optax.adam(0.01), Trace_ELBO())
    state = svi.init(jax.random.key(seed), **data)

    def scan(state):  # the body of SVI.run(progress_bar=False), compiled as a whole
        return jax.lax.scan(lambda s, _: svi.update(s, **data), state, None, length=NUM_STEPS)

    compiled = jax.jit(scan).lower(state).compile()
    run_start = time.perf_counter()
    jax.block_until_ready(compiled(state))
    end = time.perf_counter()
    return end - start, end - run_start


def our_svi(model: vr.Model, seed: int) -> tuple[float, float]:
    """Return the total seconds, and those that were not compilation."""
    return _ours(model, vr.SVI(num_steps=NUM_STEPS, tolerance=None, dtype="float32"), seed)


def report(title: str, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> None:
    """Print medians and their ratio, with and without compilation."""
    for what, k in (("with compilation", 0), ("run alone", 1)):
        a, b = (statistics.median(pair[k] for pair in pairs) for pairs in (ours, theirs))
        print(
            f"{title:<28}{what:<18}vi_recipes {a:8.3f} s   numpyro {b:8.3f} s   ratio {a / b:.3f}"
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    model = vr.load_model("radon")
    target = vr.Target(model)
    print(f"radon, dim {target.dim}; numpyro {numpyro.__version__}, jax {jax.__version__}")
    our_svi(model, 99), numpyro_svi(target, 99)  # what Python and JAX load on first use
    pairs = [(our_svi(model, k), numpyro_svi(target, k)) for k in range(repeats)]
    report(f"SVI, {NUM_STEPS} steps", [p[0] for p in pairs], [p[1] for p in pairs])
    for chain_method, theirs in (("vectorized", "vectorized"), ("threads", "sequential")):
        pairs = [
            (our_nuts(model, k, chain_method), numpyro_nuts(target, k, theirs))
            for k in range(repeats)
        ]
        title = f"NUTS 4 x 2,000, {chain_method}"
        report(title, [p[0] for p in pairs], [p[1] for p in pairs])


if __name__ == "__main__":
    main()
