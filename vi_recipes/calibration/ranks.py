"""Where the truth ranks among the draws of a fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from vi_recipes.calibration.simulate import PriorPredictive, Simulation, SimulationError
from vi_recipes.core import ModelError, Progress, Status, as_names, split_key
from vi_recipes.fit import Fit
from vi_recipes.methods import NUTS, Method
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import DrawsPosterior, is_constant

LOG_LIKELIHOOD = "log likelihood"
"""Label of the joint log likelihood, a quantity that depends on the data too."""

MAX_LONGER = 3
"""How often a sampler with too few effective draws runs again, twice as long each time."""


@dataclass(frozen=True)
class Outcome:
    """What one simulation came to.

    Parameters
    ----------
    ranks
        Of every quantity's true value among the draws, 0 to their number; ``None`` where the fit
        has no result.
    reason
        Why there is no result, or what the fit says against itself; may be empty.
    seconds, compile_seconds
        Of the fit, and the part of it that went into compilation.
    ess
        Smallest bulk effective sample size of a sampler; NaN for independent draws.
    """

    ranks: np.ndarray | None
    reason: str = ""
    seconds: float = 0.0
    compile_seconds: float = 0.0
    ess: float = field(default=np.nan)


@dataclass(frozen=True)
class Quantities:
    """The scalars whose ranks are taken.

    Parameters
    ----------
    sites
        Names of their sites.
    labels
        One a scalar, and the joint log likelihood's where there is one.
    left_out
        Sentences on those that have no ranks.
    kept
        Which scalars of the sites have ranks, by place; ``None`` for all.
    """

    sites: tuple[str, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    kept: tuple[int, ...] | None = None

    def flat(self, values: Mapping[str, np.ndarray], num_leading: int) -> np.ndarray:
        """Return the scalars of the sites side by side, after ``num_leading`` dimensions."""
        parts = [np.asarray(values[name], float) for name in self.sites]
        flat = np.concatenate([v.reshape(*v.shape[:num_leading], -1) for v in parts], axis=-1)
        return flat if self.kept is None else flat[..., list(self.kept)]


def choose(
    predictive: PriorPredictive, wanted: Sequence[str] | None, truths: Sequence[Sites] = ()
) -> Quantities:
    """Return the quantities: those of the sites wanted, or of all; and the log likelihood.

    What is the same in all of several ``truths``, up to rounding, has no rank and is left out.

    Raises
    ------
    ValueError
        For an unknown site, or one whose labels may switch.
    """
    target = predictive.target
    sites = {site.name: site for site in target.quantities}
    labelled = {name for group in target.exchangeable for name in group.sites}
    names = list(sites) if wanted is None else as_names("quantities", wanted)
    if not names:
        raise ValueError(f"quantities: got none, expected some of {', '.join(sites)}")
    if unknown := [name for name in names if name not in sites]:
        raise ValueError(
            f"quantities: got {', '.join(unknown)}, expected sites of model '{target.name}': "
            f"{', '.join(sites)}"
        )
    if wanted is not None and (switching := [name for name in names if name in labelled]):
        raise ValueError(
            f"quantities: got {', '.join(switching)}, whose labels are interchangeable: the draws' "
            "labels need not be the truth's. Name functions of them that do not depend on labels"
        )
    left_out = []
    if dropped := [name for name in names if name in labelled]:
        left_out.append(
            f"{', '.join(dropped)}: labels are interchangeable, and the draws' need not be the "
            "truth's"
        )
        names = [name for name in names if name not in labelled]
    labels = target.labels(names, coords=True)
    kept = None
    if len(truths) > 1 and names:
        rows = np.stack([Quantities(tuple(names), ()).flat(truth, 0) for truth in truths])
        constant = is_constant(np.ptp(rows, axis=0), np.abs(rows).max(axis=0))
        if constant.any():
            listed = [label for label, is_one in zip(labels, constant, strict=True) if is_one]
            left_out.append(f"{_few(listed)}: constant")
            kept = tuple(np.flatnonzero(~constant).tolist())
            labels = [labels[k] for k in kept]
    num_ranked = len(labels)
    if predictive.has_likelihood:
        labels.append(LOG_LIKELIHOOD)
    else:
        left_out.append("the log likelihood: discrete latent variables are summed out of it")
    if not num_ranked:
        raise ValueError(
            f"quantities: no site of model '{target.name}' has ranks ({'; '.join(left_out)}); add "
            "a numpyro.deterministic that does not depend on labels"
        )
    return Quantities(tuple(names), tuple(labels), tuple(left_out), kept)


def _few(labels: Sequence[str], most: int = 6) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return ", ".join(labels[:most]) + more


def simulate_and_rank(
    predictive: PriorPredictive,
    method: Method,
    quantities: Quantities,
    num_draws: int,
    key: jax.Array,
    progress: Progress,
) -> Outcome:
    """Draw parameters and data, fit, and rank the parameters among the fit's draws.

    Raises
    ------
    ValueError
        For a model that cannot be simulated from, or a method that gives no draws.
    KeyboardInterrupt
        If ``progress`` does, or the fit was interrupted.
    """
    data_key, fit_key, draw_key, tie_key = split_key(key, 4)
    try:
        simulation = predictive.draw(data_key)
    except SimulationError as error:
        return Outcome(None, str(error))
    target = simulation.target
    seconds = compile_seconds = 0.0
    for _ in range(1 + MAX_LONGER):
        try:
            fit = method.fit(target, key=fit_key, progress=progress)
        except ModelError as error:  # no finite density at these data, for instance
            return Outcome(None, str(error), seconds, compile_seconds)
        seconds += fit.timing.total_seconds
        compile_seconds += fit.timing.compile_seconds
        if fit.status is Status.INTERRUPTED:
            raise KeyboardInterrupt
        if not fit.has_result:
            return Outcome(None, fit.explanation, seconds, compile_seconds)
        ess = _effective(fit, target)
        if not (isinstance(method, NUTS) and ess < num_draws):
            break
        method = replace(method, num_samples=2 * method.num_samples)
    draws = _draws(fit, num_draws, draw_key)
    if points := [site.name for site in target.latents if not np.ptp(draws[site.name], 0).any()]:
        if fit.is_sampler:  # at these data
            why = f"the draws of {', '.join(points)} are all the same"
            return Outcome(None, why, seconds, compile_seconds, ess)
        raise ModelError(
            f"method '{method.name}' gives a point for {', '.join(points)}, among whose draws "
            "nothing has a rank. Calibrate a method that gives a distribution of all parameters"
        )
    spurious = "" if not ess < num_draws else f"{ess:.0f} effective draws, fewer than {num_draws}"
    doubt = "" if fit.status.ok else fit.message
    flat, truth = _scalars(predictive, simulation, draws, quantities)
    if unknown := _few([quantities.labels[k] for k in np.flatnonzero(np.isnan(flat).any(axis=0))]):
        return Outcome(None, f"draws of {unknown} are NaN", seconds, compile_seconds, ess)
    ranks = _ranks(flat, truth, tie_key)
    reason = "; ".join(part for part in (spurious, doubt) if part)
    return Outcome(ranks, reason, seconds, compile_seconds, ess)


def _effective(fit: Fit, target: Target) -> float:
    """Return the smallest bulk effective sample size of a latent scalar; NaN if independent."""
    sizes = fit.convergence().get("ess_bulk", {})
    known = [np.ravel(sizes[site.name]) for site in target.latents if site.name in sizes]
    numbers = np.concatenate(known) if known else np.empty(0)
    return float(np.nanmin(numbers)) if np.isfinite(numbers).any() else np.nan


def _draws(fit: Fit, num_draws: int, key: jax.Array) -> Sites:
    """Return draws by site; a sampler's evenly thinned, so that they are nearly independent."""
    posterior = fit.posterior
    if fit.is_sampler and isinstance(posterior, DrawsPosterior):
        samples = {n: v.reshape(-1, *v.shape[2:]) for n, v in posterior.samples.items()}
        total = len(next(iter(samples.values())))
        if total < num_draws:
            raise ValueError(
                f"num_draws: got {num_draws}, expected at most the {total} draws of method "
                f"'{fit.method}'; raise its num_samples"
            )
        rows = ((np.arange(num_draws) + 0.5) * total / num_draws).astype(int)
        return {name: value[rows] for name, value in samples.items()}
    try:
        return fit.draws(num_draws, key)
    except ValueError as error:
        raise ModelError(
            f"method '{fit.method}' gives no draws to rank the truth among ({error}). Calibrate a "
            "method that gives a distribution"
        ) from None


def _scalars(
    predictive: PriorPredictive, simulation: Simulation, draws: Sites, quantities: Quantities
) -> tuple[np.ndarray, np.ndarray]:
    """Return the quantities of the draws, shape (num_draws, quantities), and of the truth."""
    flat = quantities.flat(draws, 1)
    truth = quantities.flat(simulation.truth, 0)
    if predictive.has_likelihood:
        likelihood = predictive.log_likelihood(simulation.target, draws)
        flat = np.column_stack([flat, likelihood])
        truth = np.append(truth, simulation.log_likelihood)
    return flat, truth


def _ranks(flat: np.ndarray, truth: np.ndarray, key: jax.Array) -> np.ndarray:
    """Return the rank of every quantity, ties broken at random."""
    below, ties = (flat < truth).sum(axis=0), (flat == truth).sum(axis=0)
    seed = np.asarray(jax.random.key_data(key)).ravel().tolist()
    return np.asarray(below + np.random.default_rng(seed).integers(0, ties + 1))
