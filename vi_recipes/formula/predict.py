"""Predictions of a fit at new data: the linear predictor, the mean, and the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpyro import handlers
from numpyro.infer import Predictive

from vi_recipes.core import as_key, check_arguments, one_at_a_time, require
from vi_recipes.fit import Fit, fit_draws, interval_setting, wide_frame
from vi_recipes.formula.families import family_of
from vi_recipes.formula.gaussian import NormalPredictor, normal_predictor
from vi_recipes.formula.glmm import GLMM
from vi_recipes.formula.newdata import Groups, NewRows, fitted_rows, formula_of, new_rows
from vi_recipes.model import Model, Target, as_target

PredictionKind = Literal["mean", "response", "linear"]

AT_ONCE = 2**21
"""Numbers that are formed at once."""


@dataclass(frozen=True, repr=False)
class Prediction:
    """Predictions at rows of new data.

    Where the fit's posterior is Gaussian, means, sds and intervals of linear predictors, and of
    means that follow from them, are those of the normal law that they have, and not of draws.

    Parameters
    ----------
    draws
        Shape (chain, draw, row); what is of levels, such as their probabilities, has shape
        (chain, draw, row, level).
    kind, groups
        What they are, as asked for.
    levels
        Of the response, where it has some.
    rows
        What the rows of the data are called: the index of a data frame.
    normal, link
        The law of the linear predictor where it is known, and what the mean follows from it by.
    """

    draws: np.ndarray
    kind: PredictionKind
    groups: Groups
    levels: tuple[str, ...] = ()
    rows: pd.Index | None = None
    normal: NormalPredictor | None = None
    link: str = "identity"

    def __repr__(self) -> str:
        chains, draws, rows = self.draws.shape[:3]
        return (
            f"Prediction(kind={self.kind!r}, groups={self.groups!r}, {rows} rows, "
            f"{chains * draws} draws)"
        )

    def _repr_html_(self) -> str:
        return str(self.frame().to_html())

    @property
    def mean(self) -> np.ndarray:
        """Return the mean, by row: over draws where no normal law is known."""
        return self._moments[0]

    @property
    def sd(self) -> np.ndarray:
        """Return the standard deviation, by row: over draws where no normal law is known."""
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean, sd = self.draws.mean(axis=(0, 1)), self.draws.std(axis=(0, 1), ddof=1)
        if self.normal is None:
            return np.asarray(mean), np.asarray(sd)
        exact = self.normal.moments(self.link)
        known = self.normal.known
        return np.where(known, exact[0], mean), np.where(known, exact[1], sd)

    def interval(self, level: float | None = None) -> np.ndarray:
        """Return the interval, by row; the last axis has its two ends.

        Its kind is what ArviZ is set to, and so is its level where none is given.
        """
        setting = interval_setting(level)
        flat = self.draws.reshape(-1, *self.draws.shape[2:])
        ends = np.stack(setting.ends(flat.reshape(len(flat), -1)), axis=-1)
        ends = ends.reshape(*flat.shape[1:], 2)
        # of a normal law both kinds are the same, of what follows from it only by a line
        if self.normal is None or (setting.kind != "eti" and self.link != "identity"):
            return ends
        exact = self.normal.interval(self.link, setting.prob)
        return np.where(self.normal.known[:, None], exact, ends)

    def frame(self, level: float | None = None) -> pd.DataFrame:
        """Return a frame with a row for each row of the data: mean, sd, low, high, interval.

        ``interval`` says of which level and kind ``low`` and ``high`` are (see :meth:`interval`).
        Its index is that of the data. What is of levels has a row for each of them, and the column
        ``row`` has the index.
        """
        ends = self.interval(level)
        columns = {"mean": self.mean, "sd": self.sd, "low": ends[..., 0], "high": ends[..., 1]}
        made = wide_frame({name: np.ravel(value) for name, value in columns.items()})
        made["interval"] = str(interval_setting(level))
        rows = pd.RangeIndex(self.mean.shape[0]) if self.rows is None else self.rows
        if self.mean.ndim == 1:
            return made.set_axis(rows)
        made.insert(0, "level", list(self.levels) * len(rows))
        made.insert(0, "row", rows.repeat(self.mean.shape[1]))
        return made


@check_arguments("fit")
@one_at_a_time
def predict(
    fit: Fit,
    target: Target | Model,
    data: Any = None,
    kind: PredictionKind = "mean",
    groups: Groups = "known",
    *,
    offset: Any = None,
    num_draws: int | None = None,
    key: jax.Array | int = 0,
) -> Prediction:
    """Return what a fit of a formula's model predicts at new data.

    Parameters
    ----------
    fit, target
        A fit, and what it is a fit of: ``glmm(...)``, or the target made of it.
    data
        A data frame, a mapping of columns or a file, with the columns of the terms; by default the
        rows that were fitted.
    kind
        ``"linear"`` is the linear predictor; ``"mean"`` the response's mean (of successes the
        probability, of levels the probabilities); ``"response"`` a new response, of levels 1 at the
        one that is drawn and 0 at the others.
    groups
        ``"known"`` takes the members that the data had as they are; one that they did not have is
        drawn from its population, the same for all rows that share it, and a missing value is a
        member that is not known, drawn anew in each row. ``"new"`` takes all members for new ones.
        ``"population"`` leaves group effects at 0.
    offset
        Of the new rows, where the model's was no column.
    num_draws, key
        As in :func:`posterior_predictive`.

    Raises
    ------
    ValueError
        For a model that is not by formula, columns that are not there, missing values, levels that
        the data did not have, and responses among trials that are not given.
    FitError
        For a fit without a result.
    """
    target = as_target(target)
    require(kind in get_args(PredictionKind), "kind", kind, "'mean', 'response' or 'linear'")
    require(groups in get_args(Groups), "groups", groups, "'known', 'new' or 'population'")
    model = formula_of(target)
    if data is None:
        data, offset = fitted_rows(model, offset)
    at = new_rows(model, data, groups, offset)
    if kind == "response" and family_of(model.family).takes_trials and not at.has_trials:
        raise ValueError(
            f"data: it lacks the trials of '{model.response.text}', which a response is among; "
            "kind='mean' gives probabilities"
        )
    drawn = fit_draws(fit, target, num_draws, predictive=True).samples
    names = [site.name for site in target.latents]
    chains, number = drawn[names[0]].shape[:2]
    flat = {n: drawn[n].reshape(chains * number, *drawn[n].shape[2:]) for n in names}
    keys = jax.random.split(as_key(key))
    with jax.enable_x64(True):
        extended = _extended(model, flat, at, keys[0])
        values = _run(model, extended, at, kind, keys[1])
    shaped = values.reshape(chains, number, *values.shape[1:])
    index = data.index if isinstance(data, pd.DataFrame) else None
    prediction = Prediction(shaped, kind, groups, model.response.levels, index)
    family = family_of(model.family)
    link = "identity" if kind == "linear" else model.link
    known = {"linear": not family.of_levels, "mean": family.mean_follows and link != "inverse"}
    if not known.get(kind, False):
        return prediction

    def constant(names: Sequence[str]) -> np.ndarray:
        one = {n: np.zeros_like(v[0]) if n in names else v[0] for n, v in extended.items()}
        with jax.enable_x64(True):
            latents = {name: jnp.asarray(value, float) for name, value in one.items()}
            function = handlers.seed(handlers.substitute(model.function, latents), keys[1])
            return np.broadcast_to(np.asarray(function(**at.arguments)[0]), at.rows)

    return replace(prediction, normal=normal_predictor(fit, target, model, at, constant), link=link)


def _extended(
    model: GLMM, flat: dict[str, np.ndarray], at: NewRows, key: jax.Array
) -> dict[str, np.ndarray]:
    """Return the draws with members behind those of the data: from their population, or zero."""
    local = {e.site: t.group for p in model.predictors for t in p.terms for e in t.effects}
    need = [site for site, group in local.items() if at.extra[group.name]]
    if not need:
        return flat
    number = len(next(iter(flat.values())))
    if at.groups == "population":
        more = {site: np.zeros((number, 1)) for site in need}
    else:
        # the model itself draws them, of as many members as are new
        sizes = {g.size: max(at.extra[g.name], 1) for g in model.groups}
        codes = {g.name: np.zeros(at.rows, int) for g in model.groups}
        shared = {n: jnp.asarray(v, float) for n, v in flat.items() if n not in local}
        draw = Predictive(
            model.function, shared or None, num_samples=None if shared else number,
            return_sites=need, batch_ndims=1,
        )  # fmt: skip
        more = {n: np.asarray(v) for n, v in draw(key, **(at.arguments | sizes | codes)).items()}
    return flat | {site: np.concatenate([flat[site], more[site]], axis=1) for site in need}


def _run(
    model: GLMM, flat: dict[str, np.ndarray], at: NewRows, kind: PredictionKind, key: jax.Array
) -> np.ndarray:
    """Run the model at every draw."""
    family = family_of(model.family)
    arguments = dict(at.arguments)
    if kind == "mean" and family.takes_trials:
        arguments["trials"] = np.ones(at.rows, int)  # a probability is one among no trials too

    def one(given: tuple[dict[str, jax.Array], jax.Array]) -> jax.Array:
        latents, key = given
        function = handlers.seed(handlers.substitute(model.function, latents), key)
        eta, law = function(**arguments)
        if kind == "response":
            drawn = law.expand((at.rows,)).sample(jax.random.fold_in(key, 1))
            coded = family.is_ordinal or (family.of_levels and not family.takes_trials)
            return jax.nn.one_hot(drawn, law.probs.shape[-1]) if coded else drawn
        if kind == "linear":
            return eta if family.of_levels else jnp.broadcast_to(eta, (at.rows,))
        if family.is_ordinal or family.of_levels:
            return jnp.broadcast_to(law.probs, (at.rows, law.probs.shape[-1]))
        # a draw of nu below 1 has no mean; where there is one it is the centre
        centre = law.loc if family.name == "studentt" else law.mean
        return jnp.broadcast_to(centre, (at.rows,))

    number = len(next(iter(flat.values())))
    latents = {name: jnp.asarray(value, float) for name, value in flat.items()}
    together = max(1, min(number, AT_ONCE // max(at.rows, 1)))
    run = jax.jit(lambda latents, keys: jax.lax.map(one, (latents, keys), batch_size=together))
    return np.asarray(run(latents, jax.random.split(key, number)))
