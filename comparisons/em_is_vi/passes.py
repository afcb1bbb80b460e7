"""Full, incremental and sparse E-steps: the free energy against passes over the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import vi_recipes as vr
from vi_recipes.core import Progress
from vi_recipes.latent import PartialSteps
from vi_recipes.report import COLOURS

NEAR = 1e-3
"""Nats below the maximum at which passes are counted."""

GAP = 1e-7
"""Nats below the maximum at which the plot ends."""

LENGTH = 50
"""Iterations in one call of compiled code."""

STILL = 1e-8
"""Nats gained by one such call that count as none."""

NUM_BLOCKS = 10
NUM_SPARSE = 4
FREEZE_BELOW = 0.1

RATES = (1.0, 4.0, 10.0, 20.0, 40.0, 80.0)
"""Of the days of six kinds that are simulated."""


@dataclass(frozen=True)
class Path:
    """How the free energy rose.

    Parameters
    ----------
    passes
        Over the data, up to every E-step.
    gap
        Nats below the maximum there.
    """

    passes: np.ndarray
    gap: np.ndarray

    @property
    def near(self) -> float:
        """Passes until the free energy is near the maximum."""
        return float(self.passes[np.argmax(self.gap < NEAR)])


def targets(seed: int) -> dict[str, vr.Target]:
    """Return models whose states are enumerated, all begun away from their maxima."""
    deaths = vr.load_model("times_deaths")
    y = np.random.default_rng(seed).poisson(np.resize(RATES, 600))
    six = {"pi": np.full(6, 1 / 6), "log_lam": np.log(np.quantile(y, np.linspace(0.1, 0.9, 6)) + 1)}
    return {
        "linkage, 5 cells": vr.Target(begun(vr.load_model("linkage"), {"theta": 0.1})),
        "times_deaths, 2 kinds of day": vr.Target(
            begun(deaths, {"pi": np.array([0.5, 0.5]), "log_lam": np.log([1.0, 4.0])})
        ),
        "6 kinds of day, simulated": vr.Target(begun(deaths, six), y=y, num_components=6),
    }


def begun(model: vr.Model, init: Mapping[str, Any]) -> vr.Model:
    """Return a model that is begun where ``init`` says."""
    return replace(model, init=lambda *_, **__: dict(init))


def climb(target: vr.Target) -> dict[str, Path]:
    """Return the paths of EM with full, incremental and sparse E-steps from one start."""
    energy = vr.FreeEnergy(target)
    steps = PartialSteps(energy.marginal, forward=True, newton=True)
    with jax.enable_x64(True):
        theta, arrays = jnp.asarray(energy.start), target.arrays()
        raised = {
            "full": run(steps.over_likely_states(0, FREEZE_BELOW), (theta, jnp.zeros(())), arrays),
            "incremental": run(
                steps.over_blocks(NUM_BLOCKS), steps.first_shares(NUM_BLOCKS)(theta, arrays), arrays
            ),
            "sparse": run(
                steps.over_likely_states(NUM_SPARSE, FREEZE_BELOW), (theta, jnp.zeros(())), arrays
            ),
        }
    best = max(values[:, -1].max() for values in raised.values())
    found = {}
    for name, values in raised.items():
        if name == "incremental":
            # q is the posterior at the start before blocks take turns: a pass of its own
            path, passes = values.ravel(), 1 + np.arange(1, values.size + 1) / NUM_BLOCKS
        else:
            passes, path = (part.ravel() for part in np.split(values, 2, axis=1))
        found[name] = Path(passes, best - path)
    return found


def run(step: Any, state: Any, arrays: Any) -> np.ndarray:
    """Return the objective of a step, iteration by iteration, until it stands still."""
    several = jax.jit(
        lambda state, arrays: jax.lax.scan(lambda s, _: step(s, arrays), state, None, length=LENGTH)
    )
    values: list[np.ndarray] = []
    while len(values) < 2 or values[-1][-1, -1] - values[-2][-1, -1] > STILL:
        state, some = several(state, arrays)
        values.append(np.asarray(some))
    return np.concatenate(values)


def picture(seed: int, progress: Progress) -> tuple[Figure, dict[str, dict[str, Path]]]:
    """Draw the paths model by model, and return them."""
    made, paths = targets(seed), {}
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    several = figure.subplots(1, len(made), sharey=True)
    for k, (axes, (name, target)) in enumerate(zip(several, made.items(), strict=True)):
        progress(k, len(made), f"partial E-steps: {name}")
        paths[name] = climb(target)
        for colour, (way, path) in zip(COLOURS, paths[name].items(), strict=False):
            axes.plot(path.passes, np.maximum(path.gap, GAP / 10), color=colour, lw=1.3, label=way)
        axes.set(xscale="log", yscale="log", ylim=(GAP, None), xlabel="passes over the data")
        axes.set_title(name)
    several[0].set_ylabel("free energy, nats below the maximum")
    several[0].legend(loc="upper right")
    return figure, paths


def told(paths: dict[str, dict[str, Path]]) -> str:
    """Say how many passes each way takes, model by model."""
    each = [
        f"{name}: " + ", ".join(f"{path.near:,.3g} {way}" for way, path in ways.items())
        for name, ways in paths.items()
    ]
    return "; ".join(each)
