"""What runs of SVI came to: the parameters to report, the best run, the verdict and the trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI as Engine

from vi_recipes.core import Status
from vi_recipes.methods.base import Result
from vi_recipes.methods.guides.families import family_of
from vi_recipes.methods.svi.chunks import Run, Taken, series
from vi_recipes.methods.svi.objectives import Objective
from vi_recipes.methods.svi.stopping import MAX_ERROR, SLACK, average_error, judge_series
from vi_recipes.model import Target
from vi_recipes.posterior import DrawsPosterior, Posterior

NUM_ELBO_DRAWS = 400
NUM_WINDOWS = 200


@dataclass(frozen=True)
class Verdict:
    """How a run ended: status, what happened, and what to try."""

    status: Status
    message: str
    advice: str = ""


@dataclass(frozen=True)
class Candidate:
    """The answer of one run.

    Parameters
    ----------
    run
        What it is the answer of.
    params
        The guide's, unconstrained.
    value
        The objective there.
    drawn
        Its estimates from fresh draws, of which it is the mean; ``None`` for points.
    which
        What the parameters are, in words.
    """

    run: Run
    params: Any
    value: float
    drawn: np.ndarray | None
    which: str

    @property
    def se(self) -> float:
        """Standard error of the objective's value; NaN where it is not known."""
        return float("nan") if self.drawn is None else standard_error(self.drawn)

    @property
    def noise(self) -> Any:
        """Standard errors that the optimiser leaves on the parameters; ``None`` if not known."""
        late = self.run.late
        if len(late) < 2:  # locations are unconstrained: their batch means are on the right scale
            return None
        return jax.tree.map(lambda *leaves: average_error(np.stack(leaves)), *late)


def candidate(
    run: Run, engine: Engine, key: jax.Array, advance: Callable[..., Taken], data: Sequence[Any]
) -> Candidate:
    """Return the average of a run's second half, or its last step where that is better."""
    average = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *run.late)
    which = "the average of the second half of the steps"
    if len(run.levels) > 1:
        which += " at the last step size"
    if family_of(engine.guide).fits_point:
        quarter = np.array_split(run.elbo, 4)[-1]
        return Candidate(run, average, float(quarter.mean()), None, which)
    last = jax.tree.map(np.asarray, engine.optim.get_params(run.state.optim_state))
    of_average, of_last = (
        _fresh(engine, run.state, params, key, advance, data) for params in (average, last)
    )
    # Averages of flows' weights can be worse than any of the weights averaged. Both had the same
    # random numbers and minibatches, so that their difference is known better than either.
    error = standard_error(of_average - of_last)
    if not of_average.mean() > of_last.mean() - max(SLACK, 2 * error):
        which = "the last step, better than the average"
        return Candidate(run, last, float(of_last.mean()), of_last, which)
    return Candidate(run, average, float(of_average.mean()), of_average, which)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(values.size))


def _fresh(
    engine: Engine,
    state: Any,
    params: Any,
    key: jax.Array,
    advance: Callable[..., Taken],
    data: Sequence[Any],
) -> np.ndarray:
    """Return estimates of the objective at unconstrained ``params``, each from fresh draws.

    The loss of a step is taken before the step, so the compiled chunk gives it: nothing more is
    compiled.
    """
    optim_state = engine.optim.init(jax.tree.map(jnp.asarray, params))
    one, elbos = jnp.int32(1), []
    state = state._replace(rng_key=key)
    for arrays in data:
        # each step hands on its stream of random numbers, and nothing else
        taken = advance(state._replace(optim_state=optim_state), one, arrays)
        state = taken.state
        elbos.append(-float(np.asarray(taken.losses)[0]))
    return np.array(elbos)


def pick(candidates: Sequence[Candidate]) -> tuple[Candidate, int]:
    """Return the best of several, and how many come up to it within the error."""
    best = max(candidates, key=lambda c: c.value)
    errors = [np.nan_to_num(np.hypot(c.se, best.se)) for c in candidates]
    reached = [
        c.value >= best.value - max(SLACK, 2 * e) for c, e in zip(candidates, errors, strict=True)
    ]
    return best, sum(reached)


def judge_run(
    run: Run, title: str, tolerance: float | None, max_error: float, interrupted: bool
) -> Verdict:
    """Return the verdict on a run that has not diverged."""
    elbo, level = run.elbo, series(run.level)
    plateau = judge_series(level)
    gain = "over the last quarter "
    if level.size < elbo.size:
        gain += f"of the {level.size} at the last step size "
    gain += f"the {title} gained {plateau.gain:.2g} (Monte Carlo error {plateau.error:.2g})"
    seen = f"{run.iterates}; {gain}" if run.iterates else gain
    if interrupted:
        return Verdict(Status.INTERRUPTED, f"{elbo.size} steps; {seen}")
    if run.stopped:
        return Verdict(Status.OK, f"stopped by its rule after {elbo.size} steps: {seen}")
    message = f"all {elbo.size} steps were taken; {seen}"
    if elbo.size < 40 or not plateau.flat:
        return Verdict(Status.UNCONVERGED, message, "raise num_steps, or step_size")
    if plateau.error > max(MAX_ERROR, max_error):
        advice = f"lower step_size: the {title} still swings"
        return Verdict(Status.UNCONVERGED, message, advice)
    if run.iterates and tolerance is not None and not run.iterates.within(tolerance):
        return Verdict(Status.UNCONVERGED, message, "raise num_steps, or tolerance")
    return Verdict(Status.OK, message)


def explain_divergence(run: Run, title: str) -> str:
    """Return where the objective ceased to be finite, and what it was before."""
    assert run.diverged is not None
    step = run.elbo.size + 1
    message = f"the {title} became {run.diverged[step - 1 - run.steps]} at step {step}"
    if run.chunks:
        last = run.chunks[-1].elbo
        message += f"; over the {last.size} steps to step {run.steps} it still averaged "
        message += f"{last.mean():.6g}"
    return message


def among(runs: Sequence[Run], best: Candidate, reached: int, title: str) -> str:
    """Return what to add to the message of the best of several runs; nothing for a single one."""
    if len(runs) == 1:
        return ""
    text = (
        f"; {reached} of {len(runs)} runs reached its {title}, {best.value:.6g}, within the error"
    )
    if failed := [explain_divergence(r, title) for r in runs if r.diverged is not None]:
        text += f"; {len(failed)} diverged: {failed[0]}"
    return text


def diverged(runs: Sequence[Run], objective: Objective, path: Path | None) -> Result:
    """Return the result of runs that have all diverged; ``path`` is their checkpoint's."""
    message = explain_divergence(runs[0], objective.title)
    if len(runs) > 1:
        message += f"; so it went, sooner or later, in all {len(runs)} runs"
    if path is not None and runs[0].chunks:
        message += f"; '{path}' holds the last good state, of step {runs[0].steps}"
    return Result(
        None,
        Status.DIVERGED,
        message,
        "lower step_size, use dtype='float64', or clip gradients with optax",
        trace=make_trace(runs, objective),
    )


def draws_points(posterior: Posterior, target: Target) -> bool:
    """Whether a site of a guide function has the same value in every draw."""
    drawn = posterior.samples if isinstance(posterior, DrawsPosterior) else {}
    return any(
        bool((drawn[s.name][:, 0] == drawn[s.name][:, 1]).all()) for s in target.latents if drawn
    )


def make_trace(runs: Sequence[Run], objective: Objective) -> dict[str, np.ndarray]:
    """Return the objective over the steps of every run, in windows; the first run's has errors.

    Of several runs the objective has a row each, NaN from where a run ended.
    """
    quantity, longest = objective.quantity, max(run.elbo.size for run in runs)
    windows = np.array_split(np.arange(longest), min(NUM_WINDOWS, longest)) if longest else []

    def row(elbo: np.ndarray, of: Callable[[np.ndarray], Any]) -> np.ndarray:
        parts = [elbo[w[0] : w[-1] + 1] for w in windows]
        return np.array([of(p) if p.size else np.nan for p in parts])

    rows = [row(run.elbo, np.mean) for run in runs]
    return {
        quantity: rows[0] if len(rows) == 1 else np.stack(rows),
        f"{quantity}_se": row(runs[0].elbo, lambda p: p.std() / np.sqrt(p.size)),
        f"{quantity}_step": np.cumsum([w.size for w in windows]),
    }
