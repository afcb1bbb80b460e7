"""Steps per second of SVI beside NumPyro's own ``SVI.run(progress_bar=False)``.

Same model, guide, optimiser and precision, in one process, alternating. Ours is run as it is used:
with its rule asked, a progress bar drawn and a checkpoint written; its loop is timed from the first
report of progress to the last, and its whole fit with the ELBO from fresh draws and the reading of
the guide. NumPyro's loop is the scan that ``SVI.run`` takes its steps in, compiled beforehand.

``--clock cpu`` counts the processor's seconds of all threads, which a busy machine tells too.

    python benchmarks/svi.py [--only radon,radon_full,criteo] [--steps 20000] [--repeats 5]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import common
import jax
import optax
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from numpyro.infer.initialization import init_to_median

import vi_recipes as vr
from vi_recipes.core import progress_bar

STEP_SIZE = 0.01
NEVER = 1e-9
"""A tolerance that is never met: the rule is asked all along and all steps are taken."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What seconds are."""

GUIDES = {"normal": AutoNormal, "multivariate_normal": AutoMultivariateNormal}


def radon() -> vr.Target:
    return vr.Target(vr.load_model("radon"))


def criteo() -> vr.Target:
    model = vr.load_model("criteo")
    assert model.simulate is not None
    return vr.Target(model, **model.simulate(num_rows=6_000, num_groups=500))


PROBLEMS: dict[str, tuple[Any, str]] = {
    "radon": (radon, "normal"),
    "radon_full": (radon, "multivariate_normal"),
    "criteo": (criteo, "normal"),
}
"""Name -> target and guide."""


def theirs(
    target: vr.Target, guide: str, steps: int, seed: int, now: Callable[[], float]
) -> tuple[float, float]:
    """Return NumPyro's steps per second in its loop, and its seconds for all."""
    data = target.keywords(target.arrays())
    key = jax.random.key(seed)

    def make() -> SVI:
        law = GUIDES[guide](target.model.function, init_loc_fn=init_to_median)
        return SVI(target.model.function, law, optax.adam(STEP_SIZE), Trace_ELBO())

    start = now()
    jax.block_until_ready(make().run(key, steps, progress_bar=False, **data).params)
    whole = now() - start
    svi = make()
    state = svi.init(key, **data)

    def scan(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: svi.update(s, **data), state, None, length=steps)

    compiled = jax.jit(scan).lower(state).compile()
    start = now()
    jax.block_until_ready(compiled(state))
    return steps / (now() - start), whole


@contextlib.contextmanager
def drawn() -> Iterator[Any]:
    """Yield a progress bar that is drawn where nobody sees it."""
    with contextlib.redirect_stderr(io.StringIO()), progress_bar("svi", enabled=True) as report:
        yield report


def ours(
    make: Callable[[], vr.Target],
    guide: str,
    steps: int,
    seed: int,
    folder: Path,
    now: Callable[[], float],
) -> tuple[float, float, float]:
    """Return our steps per second in the loop and in the fit without compilation, and seconds.

    Seconds are with the target, which keeps what was compiled for it: each fit has its own.
    """
    path = folder / f"{guide}-{seed}.npz"
    reports: list[tuple[float, int]] = []
    method = vr.SVI(
        guide=guide,
        num_steps=steps,
        step_size=STEP_SIZE,
        tolerance=NEVER,
        dtype="float32",
        checkpoint=path,
    )
    with drawn() as bar:

        def progress(done: int, total: int, text: str = "") -> None:
            bar(done, total, text)
            reports.append((now(), done))

        start = now()
        fit = method.fit(make(), key=seed, progress=progress, throw=True)
        whole = now() - start
    path.unlink()
    (first, before), (last, after) = reports[0], reports[-1]
    return (after - before) / (last - first), steps / fit.timing.run_seconds, whole


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PROBLEMS), help="%(default)s")
    parser.add_argument("--steps", type=int, default=20_000, help="of a run, %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="%(default)s")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="%(default)s")
    options = parser.parse_args()
    now = CLOCKS[options.clock]
    how = f"medians of {options.repeats}, float32, {options.clock} clock"
    common.heading(f"SVI, {options.steps:,} steps, {how}")
    rows = []
    for name in common.chosen(parser, options.only, PROBLEMS):
        make, guide = PROBLEMS[name]
        target = make()
        pairs = []
        with tempfile.TemporaryDirectory() as folder:
            # once for what Python and JAX load on first use
            for repeat in range(options.repeats + 1):
                mine = ours(make, guide, options.steps, repeat, Path(folder), now)
                pairs.append((mine, theirs(target, guide, options.steps, repeat, now)))
        loop, run, whole = (statistics.median(a[k] for a, _ in pairs[1:]) for k in range(3))
        their_loop, their_whole = (statistics.median(b[k] for _, b in pairs[1:]) for k in range(2))
        ratios = [a[0] / b[0] for a, b in pairs[1:]]
        rows.append(
            (
                f"{name}, dim {target.dim}, {guide}",
                f"{their_loop:,.0f}",
                f"{loop:,.0f}",
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
                # what a fit itself tells is by the clock
                f"{run / their_loop:.3f}" if options.clock == "wall" else "–",
                f"{their_whole:.2f}",
                f"{whole:.2f}",
            )
        )
    header = (
        "problem",
        "NumPyro, steps/s",
        "ours, steps/s",
        "loop, ours ÷ NumPyro",
        "fit ÷ NumPyro's loop",
        "NumPyro in all, s",
        "ours in all, s",
    )
    common.print_table(header, rows)


if __name__ == "__main__":
    main()
