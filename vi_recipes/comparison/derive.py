"""Quantities that people report, derived from the parameters of every method."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.edit import with_fits
from vi_recipes.fit import Fit, derived
from vi_recipes.model import Target


@overload
def derive(fit: Fit, /, **functions: Callable[..., Any]) -> Fit: ...


@overload
def derive(fit: Comparison, /, **functions: Callable[..., Any]) -> Comparison: ...


def derive(fit: Fit | Comparison, /, **functions: Callable[..., Any]) -> Fit | Comparison:
    """Return a fit, or a comparison, with quantities derived from its sites.

    They are in every table, in accuracy and in verdicts, as the model's own deterministic sites
    are. Of Gaussian and mean-field fits they are as exact as those: by quadrature where they depend
    on one coordinate, linear response's by derivatives where they are smooth. Of samplers, and of
    what was read from disk, they are by its draws; of others by 4,000 draws, whose Monte Carlo
    errors are shown; of a point they are the function at the point.

    Parameters
    ----------
    fit
        One fit, or all of a comparison.
    **functions
        Name -> function of the values of sites at one draw, constrained scale: its arguments are
        named as sites, or it has one of another name, a mapping site -> value. Written with
        ``jax.numpy``, or with anything else, which takes longer.

    Raises
    ------
    ValueError
        For a name that the model has, arguments that are no sites, or a function that fails.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> c = vr.derive(c, odds_ratio=lambda beta: jnp.exp(beta[1]))
    >>> c = vr.derive(c, icc=lambda tau, sigma: tau**2 / (tau**2 + sigma**2))
    >>> list(c.means().index)
    ['beta[0]', 'beta[1]', 'tau', 'sigma', 'odds_ratio', 'icc']
    """
    if not functions:
        raise ValueError("derive: no quantities given, expected name=function")
    for name, function in functions.items():
        if not callable(function):
            raise ValueError(f"derive: '{name}': got {function!r}, expected a function of sites")
    made: dict[int, Target | None] = {}
    likes: dict[str, str] = {}
    if isinstance(fit, Fit):
        return derived(fit, functions, made, likes)
    if not isinstance(fit, Comparison):
        raise ValueError(f"derive: got {type(fit).__name__}, expected a Fit or a Comparison")
    fits = {name: derived(one, functions, made, likes) for name, one in fit.fits.items()}
    reference = fit.reference
    if reference is not None:
        own = fit.reference_name or ""
        reference = fits[own] if own in fits else derived(reference, functions, made, likes)
    return with_fits(fit, fits, reference)
