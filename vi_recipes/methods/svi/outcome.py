"""What runs of SVI came to: the parameters to report, the best run, the verdict and the trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpyro.infer import SVI as Engine

from vi_recipes.core import Status
from vi_recipes.methods.base import Result
from vi_recipes.methods.guides.families import family_of
from vi_recipes.methods.svi.chunks import Run, series
from vi_recipes.methods.svi.fresh import Fresh
from vi_recipes.methods.svi.objectives import Objective
from vi_recipes.methods.svi.stopping import SLACK, Plateau, average_error, judge_series
from vi_recipes.model import Target
from vi_recipes.posterior import DrawsPosterior, Posterior

NUM_ELBO_DRAWS = 400
NUM_WINDOWS = 200

AVERAGE, LAST = (
    "the average of the second half of the steps",
    "the last step, better than the average",
)
"""What the parameters of an answer are, in words."""


@dataclass(frozen=True)
class Ending:
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


def candidates(runs: Sequence[Run], engine: Engine, fresh: Fresh) -> list[Candidate]:
    """Return what every run comes to: its average, or its last step where that is better.

    Averages of flows' weights can be worse than any of the weights averaged.
    """
    averages = [jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *run.late) for run in runs]
    names = [AVERAGE + " at the last step size" * (len(run.levels) > 1) for run in runs]
    if family_of(engine.guide).fits_point:
        late = [float(np.array_split(run.elbo, 4)[-1].mean()) for run in runs]
        parts = zip(runs, averages, late, names, strict=True)
        return [Candidate(run, params, value, None, name) for run, params, value, name in parts]
    lasts = [jax.tree.map(np.asarray, engine.optim.get_params(r.state.optim_state)) for r in runs]
    drawn = fresh.draw([*averages, *lasts], NUM_ELBO_DRAWS)
    found = []
    for k, run in enumerate(runs):
        of_average, of_last = drawn[k], drawn[k + len(runs)]
        error = standard_error(of_average - of_last)
        if of_average.mean() > of_last.mean() - max(SLACK, 2 * error):
            found.append(_by_draws(run, averages[k], of_average, names[k]))
        else:
            found.append(_by_draws(run, lasts[k], of_last, LAST))
    return found


def _by_draws(run: Run, params: Any, drawn: np.ndarray, which: str) -> Candidate:
    return Candidate(run, params, float(drawn.mean()), drawn, which)


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of independent values."""
    return float(values.std(ddof=1) / np.sqrt(values.size))


# -- how well it is known ----------------------------------------------------------------------


def most_draws(run: Run) -> int:
    """Return how many fresh draws may be taken for one answer: a quarter of what the run took."""
    return max(4 * NUM_ELBO_DRAWS, run.steps // 4)


def plateau_of(best: Candidate, fresh: Fresh | None, limit: float) -> Plateau:
    """Return how far the objective still climbs, known to a share of ``limit`` where draws do it.

    The last quarter is compared with the second: what twice the steps have gained is about what
    twice the steps again would, where a climb slows down as slowly as a logarithm. Where the steps
    themselves do not tell, the averages of the two are compared by fresh draws that they have in
    common, or, where averages are no good, their last chunks; twice as many draws until the error
    is small, or too many are asked for.
    """
    level = best.run.level
    plateau = judge_series(series(level), apart=2)
    if fresh is None or plateau.known(limit) or len(level) < 4:
        return plateau
    quarters = np.array_split(np.arange(len(level)), 4)[1::2]
    some = [[part[-1]] for part in quarters] if best.which == LAST else quarters
    points = [
        jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(level[k].mean for k in part))
        for part in some
    ]
    gains, more = np.zeros(0), NUM_ELBO_DRAWS
    while gains.size < most_draws(best.run):
        before, after = fresh.draw(points, more)
        gains = np.concatenate([gains, after - before])
        plateau = Plateau(float(gains.mean()), standard_error(gains), gains.size)
        if plateau.known(limit) or plateau.climbs(limit) or not np.isfinite(plateau.error):
            break
        more = gains.size
    return plateau


def sharpen(best: Candidate, fresh: Fresh, limit: float) -> Candidate:
    """Return a candidate whose objective is known to ``limit``, where affordable draws do it."""
    if best.drawn is None or not best.se > limit:
        return best
    # a tenth more, since the error is an estimate
    needed = int(1.1 * best.drawn.size * (best.se / limit) ** 2) if np.isfinite(best.se) else 0
    if not best.drawn.size < needed <= most_draws(best.run):
        return best
    (more,) = fresh.draw([best.params], needed - best.drawn.size)
    return _by_draws(best.run, best.params, np.concatenate([best.drawn, more]), best.which)


def pick(candidates: Sequence[Candidate]) -> tuple[Candidate, int]:
    """Return the best of several, and how many come up to it within the error."""
    best = max(candidates, key=lambda c: c.value)
    errors = [np.nan_to_num(np.hypot(c.se, best.se)) for c in candidates]
    reached = [
        c.value >= best.value - max(SLACK, 2 * e) for c, e in zip(candidates, errors, strict=True)
    ]
    return best, sum(reached)


def judge_run(
    run: Run,
    plateau: Plateau,
    title: str,
    limit: float,
    tolerance: float | None,
    interrupted: bool,
) -> Ending:
    """Return the verdict on a run that has not diverged.

    Parameters
    ----------
    run
        The run.
    plateau
        How far its objective still climbs.
    title
        What the objective is called.
    limit
        What of it matters, in nats.
    tolerance
        Of the locations.
    interrupted
        Whether Ctrl-C ended it.
    """
    steps, level = run.elbo.size, series(run.level).size
    gain = f"from the second to the last quarter of the {level} steps "
    if level < steps:
        gain += "at the last step size "
    gain += f"the {title} {plateau}"
    seen = f"{run.iterates}; {gain}" if run.iterates else gain
    if interrupted:
        return Ending(Status.INTERRUPTED, f"{steps} steps; {seen}")
    message = f"stopped by its rule after {steps} steps: {seen}"
    if not run.stopped:
        message = f"all {steps} steps were taken; {seen}"
    if not plateau.flat(limit) and plateau.gain <= limit + 3 * plateau.error:
        advice = (
            f"the {title} swings too much to tell whether it still gains {limit:g}: raise "
            "num_particles, or lower step_size"
        )
        return Ending(Status.UNCONVERGED, message, advice)
    if steps < 40 or not plateau.flat(limit):
        advice = "lower tolerance" if run.stopped else "raise num_steps, or step_size"
        return Ending(Status.UNCONVERGED, message, advice)
    if run.stopped:
        return Ending(Status.OK, message)
    if run.iterates and tolerance is not None and not run.iterates.within(tolerance):
        return Ending(Status.UNCONVERGED, message, "raise num_steps, or tolerance")
    return Ending(Status.OK, message)


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
