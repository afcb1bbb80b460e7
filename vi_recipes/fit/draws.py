"""Draws of a fit, for predictions and for ArviZ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from vi_recipes.core import as_key, fold_key, require_count
from vi_recipes.fit.fitted import Fitted
from vi_recipes.model import MAX_NUMBERS, Model, Sites, Target, as_target, listed, observed_sites
from vi_recipes.posterior import MomentsPosterior, held_draws

NUM_DRAWS = 2_000
"""Of approximations that can give any number."""


PIECE = 2**19
"""Numbers in a piece of fresh draws: what is formed on the way is several times as large."""


NUM_POINT_DRAWS = 4
"""Copies of a point that stand for its draws: as few as ArviZ summarises."""


@dataclass(frozen=True)
class FitDraws:
    """Draws of a fit, at which everything else is computed.

    Parameters
    ----------
    samples
        Site -> values on the constrained scale, shape ``(chain, draw, *site shape)``.
    kept
        Which of the draws that the fit holds these are, shape (draw,); ``None`` for fresh ones.
    z, log_q
        Where an approximation has a density: the flat unconstrained vectors, shape (draw, dim), and
        their log density over the unconstrained scale, shape (draw,). There is one chain then.
    """

    samples: Sites
    kept: np.ndarray | None = None
    z: np.ndarray | None = None
    log_q: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of chains and of draws in each."""
        first = next(iter(self.samples.values()))
        return first.shape[0], first.shape[1]


def fresh_draws(fit: Fitted, num_draws: int) -> Iterator[Sites]:
    """Yield draws of an approximation a piece at a time, site -> shape ``(draw, *site shape)``.

    The draws of a large model are never there at once, nor is the noise behind them. Each piece has
    a stream of its own; where one holds them all, they are those of the key 0.
    """
    posterior = fit.known_posterior()
    size = sum(site.size for site in fit.sites)
    at_once = max(PIECE // max(size, 1) // 2, 1) * 2  # even: draws come in pairs
    if num_draws <= at_once:
        yield posterior.draws(num_draws, as_key(0))
        return
    for piece, first in enumerate(range(0, num_draws, at_once)):
        key = fold_key(as_key(0), piece)
        yield posterior.draws(min(at_once, num_draws - first), key)


def has_long_draws(fit: Fitted) -> bool:
    """Whether fresh draws of a fit, as many as are saved, come in more than one piece."""
    size = sum(site.size for site in fit.sites)
    if not fit.has_result or fit.is_point or NUM_DRAWS * size <= PIECE:
        return False
    posterior = fit.known_posterior()
    # answers from outside are moments, with their draws or with none
    return held_draws(posterior) is None and not isinstance(posterior, MomentsPosterior)


def _together(pieces: Iterator[Sites], num_draws: int) -> Sites:
    """Return pieces as one, without holding all of them beside it."""
    first = next(pieces)
    if len(next(iter(first.values()))) == num_draws:
        return first
    whole = {n: np.empty((num_draws, *v.shape[1:]), v.dtype) for n, v in first.items()}
    start = 0
    for piece in chain([first], pieces):
        stop = start + len(next(iter(piece.values())))
        for name, value in piece.items():
            whole[name][start:stop] = value
        start = stop
    return whole


def plain_draws(fit: Fitted, num_draws: int | None = None) -> FitDraws:
    """Return draws of ``fit`` without a density, at most ``num_draws``.

    Of the draws that a fit holds every k-th of each chain is taken, and by default all; others give
    2,000, and a point four times itself.
    """
    posterior = fit.known_posterior()
    mean = fit.mean() if fit.is_point else {}
    # one read from a file holds few copies of itself, and one from outside may lack some sites
    if mean and all(np.isfinite(value).all() for value in mean.values()):
        number = num_draws or NUM_POINT_DRAWS
        return FitDraws({n: np.repeat(v[None, None], number, axis=1) for n, v in mean.items()})
    held = held_draws(posterior)
    if held is None:
        number = num_draws or NUM_DRAWS
        whole = _together(fresh_draws(fit, number), number)
        return FitDraws({name: value[None] for name, value in whole.items()})
    chains, draws = next(iter(held.values())).shape[:2]
    step = 1 if num_draws is None else -(-draws // max(num_draws // chains, 1))
    kept = np.arange(0, draws, step)
    return FitDraws({name: value[:, kept] for name, value in held.items()}, kept)


def fit_draws(
    fit: Fitted, target: Target, num_draws: int | None = None, *, predictive: bool = False
) -> FitDraws:
    """Return draws of ``fit``, with their density where it has one.

    Parameters
    ----------
    fit, target
        A fit, and what it is a fit of.
    num_draws
        At most. By default all that a fit holds, and 2,000 of others, or as many as memory allows.
    predictive
        Whether they are for replications of the data, of which four of a point are few.

    Raises
    ------
    ValueError
        For a target that is not the fit's, or a number that is not positive, or with more values
        than memory allows.
    """
    check_same(fit, target)
    size = sum(site.size for site in observed_sites(target).values())
    limit = max(MAX_NUMBERS // max(size, 1), 1)
    if num_draws is not None:
        check_num_draws(num_draws)
        if num_draws > limit:
            raise ValueError(
                f"num_draws: got {num_draws:,}, expected at most {limit:,}: the values at every "
                f"draw of {size:,} observations have to fit in memory"
            )
    posterior = fit.known_posterior()
    held = held_draws(posterior)
    default = NUM_DRAWS
    if fit.is_point:
        default = NUM_DRAWS if predictive else NUM_POINT_DRAWS
    elif held is not None:
        default = int(np.prod(next(iter(held.values())).shape[:2]))
    number = min(default, limit) if num_draws is None else num_draws
    weighed = posterior.weighed_draws(number, as_key(0))
    if weighed is None:
        return plain_draws(fit, number)
    samples = {name: value[None] for name, value in weighed.values.items()}
    return FitDraws(samples, z=weighed.z, log_q=weighed.log_q)


def check_num_draws(num_draws: int | None) -> None:
    """Raise a :class:`ValueError` unless it is ``None`` or a positive integer."""
    if num_draws is not None:
        require_count("num_draws", num_draws)


def target_of(fit: Fitted, target: Target | Model) -> Target:
    """Return what a fit is of: a target, or a model with data of its own; refuse others.

    Raises
    ------
    ValueError
        For another model or other data.
    """
    known = as_target(target) if isinstance(target, Model) else target
    check_same(fit, known)
    return known


def check_same(fit: Fitted, target: Target) -> None:
    """Raise a :class:`ValueError` unless ``fit`` is of ``target``: its model and its data.

    What was derived from a fit comes behind the sites of its model.
    """
    if not isinstance(target, Target):
        raise ValueError(f"target: got {type(target).__name__}, expected the Target of the fit")
    target = target.fitted_as or target
    theirs, ours = ([(s.name, s.shape) for s in q] for q in (fit.sites, target.quantities))
    known = fit.provenance
    derived = all(site.kind == "deterministic" for site in fit.sites[len(ours) :])
    if theirs[: len(ours)] != ours or not derived or (known.model and known.model != target.name):
        raise ValueError(
            f"target: got model '{target.name}' with the sites {listed(ours)}; expected that of "
            f"the fit, '{known.model}' with the sites {listed(theirs)}"
        )
    if known.data_fingerprint and known.data_fingerprint != target.fingerprint:
        raise ValueError(
            f"target: got data with the fingerprint {target.fingerprint}, but '{fit.method}' was "
            f"fitted to other data, {known.data_fingerprint}; make the Target of those"
        )
