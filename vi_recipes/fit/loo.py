"""Leave-one-out cross-validation of fits, of several methods, and of several models, by ArviZ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.core import FitError, as_key, check_arguments
from vi_recipes.fit.counted import LOOError, copies_of, counted, differences, repeated
from vi_recipes.fit.draws import check_same, target_of
from vi_recipes.fit.fit import Fit
from vi_recipes.importance import MIN_DRAWS, khat
from vi_recipes.model import (
    Model,
    Site,
    Target,
    observed_data,
    site_labels,
    weights_of_observations,
)
from vi_recipes.posterior import MomentsPosterior, per_scalar

if TYPE_CHECKING:
    import pandas as pd
    from arviz_stats.utils import ELPDDataLOO

NUM_NAMED = 3
"""Observations that a message names."""


@check_arguments("fit", "observed", "correct")
def loo(
    fit: Fit,
    target: Target | Model,
    *,
    observed: str | None = None,
    num_draws: int | None = None,
    correct: bool = True,
) -> ELPDDataLOO:
    """Return Pareto-smoothed leave-one-out cross-validation, pointwise, as ArviZ computes it.

    A sampler's draws are weighted by 1 / p(y_i | theta). Those of an approximation q are weighted
    by p(theta, y) / q(theta) as well, so that it is the posterior's own predictive density that is
    estimated, and not that of q: where Pareto's k is below its limit, all methods agree on one
    model to within their Monte Carlo error. ``p`` is the gain of the density of the data at the
    draws as they are over the estimate, the effective number of parameters where q is near.

    A row whose weight is a whole number stands for so many observations: one of them is left out
    at a time, and all count. Where some weight is not whole, each row counts once.

    Parameters
    ----------
    fit
        A fit of ``target``, by a sampler, by nested quadrature or by a method whose approximation
        has a density.
    target
        The model with its data.
    observed
        The observed site whose elements are left out; may be left out itself where there is one.
    num_draws
        As in :func:`vi_recipes.log_likelihood`.
    correct
        Whether to weight an approximation's draws by p / q. Without it q is taken for the
        posterior, which shows in nothing; of many parameters it may be all there is, because
        the weights' k is then high everywhere.

    Returns
    -------
    arviz_stats.utils.ELPDDataLOO
        ``elpd`` and ``se`` in nats, ``p``, ``elpd_i`` and ``pareto_k`` by row, and ``good_k``, the
        limit of k for that many draws. Its ``warning`` says whether some k exceeds it.

    Raises
    ------
    ValueError
        For a target that is not the fit's, a site that is not observed, or more draws than memory
        allows. Its subclass ``LOOError``, with the reason, for what has no such estimate: a fit
        without a result, a point, particles, draws without a density, fewer than 100 draws, a model
        without a pointwise likelihood or with one observation, and observations whose likelihood
        is zero, or the same, at every draw.

    References
    ----------
    Vehtari, A., Gelman, A. and Gabry, J. (2017). Practical Bayesian model evaluation using
    leave-one-out cross-validation and WAIC. Statistics and Computing 27.
    doi:10.1007/s11222-016-9696-4
    Magnusson, M., Andersen, M. R., Jonasson, J. and Vehtari, A. (2019). Bayesian leave-one-out
    cross-validation for large data. ICML. arXiv:1904.10679
    """
    target = target_of(fit, target)
    name = _observed_name(target, observed)
    weights = weights_of_observations(target)[name]
    return _loo(fit, target, name, weights, num_draws=num_draws, correct=correct)


def _loo(
    fit: Fit,
    target: Target,
    name: str,
    weights: np.ndarray,
    *,
    num_draws: int | None,
    correct: bool,
) -> ELPDDataLOO:
    """Return that of an observed site, of which each element counts as often as its weight says."""
    import arviz as az

    _check_fit(fit, correct)
    tree = fit.to_arviz(target, log_likelihood=True, num_draws=num_draws)
    values = tree["log_likelihood"][name].to_numpy()
    chains, draws = values.shape[:2]
    if chains * draws < MIN_DRAWS:
        raise LOOError(
            f"it has {chains * draws} draws, and the tail of the weights takes {MIN_DRAWS}; give "
            "it more"
        )
    if values.ndim == 2 or values[0, 0].size < 2:
        raise LOOError(
            f"site '{name}' is one observation: left out, none remain. Observe independent "
            "elements in a plate"
        )
    _check_values(values, target.sites[name], target.coords)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of large k, which the result shows
            ratios = None
            if fit.is_sampler:
                samples = {str(n): v.to_numpy() for n, v in tree["posterior"].data_vars.items()}
                found = az.loo(tree, var_name=name, pointwise=True, reff=_efficiency(samples))
            elif not correct or fit.stated_error is not None:
                found = az.loo(tree, var_name=name, pointwise=True, reff=1.0)
            else:
                stats = tree["sample_stats"]
                if not np.isfinite(stats["log_p"]).any():
                    raise LOOError("the posterior has no density at any draw of it")
                found = az.loo_approximate_posterior(
                    tree, stats["log_p"], stats["log_q"], var_name=name, pointwise=True
                )
                ratios = (stats["log_p"] - stats["log_q"]).to_numpy()
            return counted(_judged(found, values, ratios), values, weights)
    except ValueError as error:
        raise error if isinstance(error, LOOError) else LOOError(f"ArviZ: {error}") from None


def loo_table(
    fits: Mapping[str, Fit],
    target: Target,
    *,
    base: str | None = None,
    observed: str | None = None,
    num_draws: int | None = None,
    correct: bool = True,
) -> tuple[pd.DataFrame, dict[str, ELPDDataLOO]]:
    """Return a row a fit, and the pointwise results of the fits that have any.

    Parameters
    ----------
    fits
        Name -> fit, all of ``target``.
    target, observed, num_draws, correct
        As in :func:`loo`.
    base
        From which differences are taken, if it has a result; by default the best.

    Returns
    -------
    tuple
        The table, whose columns :meth:`Comparison.loo` explains; name -> pointwise result.

    Raises
    ------
    ValueError
        For a target that is not that of the fits, or a site that is not observed.
    """
    import pandas as pd

    results: dict[str, ELPDDataLOO] = {}
    reasons = dict.fromkeys(fits, "")
    for fit in fits.values():
        check_same(fit, target)
    try:
        site = _observed_name(target, observed)
    except LOOError as reason:
        site, reasons = "", dict.fromkeys(fits, str(reason))
    weights = weights_of_observations(target)[site] if site else np.ones(0)
    for name, fit in fits.items() if site else ():
        try:
            results[name] = _loo(fit, target, site, weights, num_draws=num_draws, correct=correct)
            results[name]["log_weights"] = None  # as many as draws times observations
        except LOOError as reason:
            reasons[name] = str(reason)
    rows: dict[str, dict[str, Any]] = {name: _row(results.get(name)) for name in fits}
    apart = differences(results, base if base in results else None, weights)
    for name, (difference, error) in apart.items():
        rows[name] |= {"elpd_diff": difference, "dse": error}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["reason"] = pd.Series(reasons)
    return table, results


@check_arguments("fits", "observed", "correct")
def compare_models(
    fits: Mapping[str, tuple[Fit, Target]],
    *,
    observed: str | None = None,
    num_draws: int | None = None,
    correct: bool = True,
) -> pd.DataFrame:
    """Compare models of the same observations by leave-one-out cross-validation.

    Parameters
    ----------
    fits
        Name of a model -> a fit of it, and its target.
    observed, num_draws, correct
        As in :func:`loo`.

    Returns
    -------
    pandas.DataFrame
        That of :func:`arviz.compare`, not rounded: the best model first, ``elpd``, ``se``, ``p``,
        ``elpd_diff`` with its standard error ``dse``, and ``weight`` by stacking.

    Raises
    ------
    ValueError
        For fewer than two models, models of different observations, or a fit without
        cross-validation, which is named.
    """
    import arviz as az

    if len(fits) < 2:
        raise ValueError(f"fits: got {len(fits)} models, expected at least two")
    data = {}
    for name, (_, target) in fits.items():
        site = _observed_name(target, observed)
        data[name] = observed_data(target)[site]
    first = next(iter(data))
    for name, values in data.items():
        if values.shape != data[first].shape or not np.array_equal(values, data[first]):
            raise ValueError(
                f"fits: model '{name}' has observations of shape {values.shape} that are not "
                f"those of '{first}', of shape {data[first].shape}; expected the same observations "
                "in the same order"
            )
    options: dict[str, Any] = {"num_draws": num_draws, "correct": correct}
    results, weights = {}, {}
    for name, (fit, target) in fits.items():
        check_same(fit, target)
        site = _observed_name(target, observed)
        weights[name] = copies_of(weights_of_observations(target)[site])
        if not np.array_equal(weights[name], weights[first]):
            raise ValueError(
                f"fits: the rows of model '{name}' have other weights than those of '{first}'; "
                "expected the same observations in the same order"
            )
        try:
            found = _loo(fit, target, site, weights[name], **options)
            results[name] = repeated(found, weights[name])
        except LOOError as reason:
            raise LOOError(f"model '{name}': {reason}") from None
    return az.compare(results, round_to="none")


# -- parts -----------------------------------------------------------------------------------


def _observed_name(target: Target, observed: str | None) -> str:
    try:
        target.check_pointwise()
    except ValueError as reason:
        raise LOOError(str(reason)) from None
    names = [site.name for site in target.observed]
    if observed is None and len(names) == 1:
        return names[0]
    if observed not in names:
        raise ValueError(f"observed: got {observed!r}, expected one of {', '.join(names)}")
    return observed


def _check_fit(fit: Fit, correct: bool) -> None:
    """Raise a :class:`LOOError` unless the fit has draws that can be weighted."""
    try:
        posterior = fit.known_posterior()
    except FitError:
        raise LOOError(fit.explanation) from None
    if fit.is_point:
        raise LOOError("a point has no posterior from which an observation could be left out")
    if fit.is_sampler or fit.stated_error is not None:
        return  # its draws are the posterior's
    try:
        posterior.draws(1, as_key(0))
    except ValueError as reason:
        raise LOOError(str(reason)) from None
    cure = "; correct=False takes the approximation for the posterior"
    if all(np.isnan(error).all() for error in fit.mcse().values()):
        raise LOOError("its particles are no independent draws, and have no density")
    if correct and posterior.weighed_draws(1, as_key(0)) is None:
        if isinstance(posterior, MomentsPosterior):
            raise LOOError(
                "it was read from a file that keeps no density of the approximation, by which "
                f"draws are weighted; fit it again{cure}"
            )
        raise LOOError(
            "its draws have no density under the approximation by which to weight them: coordinate "
            "ascent's and those of some guides have none, and that of a normal of more than 1,000 "
            f"coordinates may be out of reach{cure}"
        )


def _check_values(values: np.ndarray, site: Site, coords: Mapping[str, np.ndarray]) -> None:
    """Raise a :class:`LOOError` that names the observations no weights can be made of."""
    shape = values.shape[2:]
    flat = values.reshape(-1, int(np.prod(shape)))
    impossible = ~np.isfinite(flat).all(axis=0)
    constant = np.ptp(np.where(np.isfinite(flat), flat, 0.0), axis=0) == 0
    for which, what in (
        (impossible, "a likelihood of zero, or one that is not finite, at some draws"),
        (constant, "the same likelihood at every draw, as masked data have"),
    ):
        if which.any():
            elements = replace(site, shape=shape, dims=site.dims[: len(shape)])
            labels = site_labels(elements, coords)
            chosen = [labels[i] for i in np.flatnonzero(which)[:NUM_NAMED]]
            more = int(which.sum()) - len(chosen)
            listed = ", ".join(chosen) + (f" and {more:,} more" if more > 0 else "")
            raise LOOError(f"observation(s) {listed} have {what}")


def _judged(
    result: ELPDDataLOO, values: np.ndarray, log_ratios: np.ndarray | None = None
) -> ELPDDataLOO:
    """Return a result whose high k are those of weights that do vary.

    See :func:`~vi_recipes.importance.smooth`.
    Of an observation that says little of the parameters the weights are level, and ArviZ's k noise.

    Parameters
    ----------
    result
        Pointwise.
    values
        Log-likelihoods, the chain and the draw leading.
    log_ratios
        log p - log q of every draw, shape (chain, draw); ``None`` where they are 0.
    """
    high = np.argwhere(result.pareto_k.to_numpy() > result.good_k)
    for place in map(tuple, high):
        log_weights = -values[(slice(None), slice(None), *place)]
        if log_ratios is not None:
            log_weights = log_weights + log_ratios
        shape = khat(log_weights.ravel())
        if shape < result.pareto_k[place]:
            result.pareto_k[place] = max(shape, 0.0)
    result["warning"] = bool((result.pareto_k > result.good_k).any())
    return result


def _efficiency(samples: Mapping[str, np.ndarray]) -> float:
    """Return effective draws over draws, the mean over all scalars."""
    chains, draws = next(iter(samples.values())).shape[:2]
    sizes = per_scalar("ess", samples, method="mean")
    return float(np.nanmean(np.concatenate([v.ravel() for v in sizes.values()]))) / (chains * draws)


def _row(result: ELPDDataLOO | None) -> dict[str, float]:
    """Return the row of a table: numbers, or NaN where there are none."""
    names = ("elpd_loo", "se", "p_loo", "elpd_diff", "dse", "max_k", "num_high_k", "good_k")
    row = dict.fromkeys((*names, "num_draws"), np.nan)
    if result is not None:
        k = result.pareto_k.to_numpy()
        row |= {"elpd_loo": result.elpd, "se": result.se, "p_loo": result.p}
        row |= {"max_k": k.max(), "num_high_k": int((k > result.good_k).sum())}
        row |= {"good_k": result.good_k, "num_draws": result.n_samples}
    return {name: float(value) for name, value in row.items()}
