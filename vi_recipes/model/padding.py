"""Rows without weight that fill a target's rows up to a number that devices divide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger

from vi_recipes.core import ModelError
from vi_recipes.data import empty
from vi_recipes.model.target import Target

COUNTED = "rows_that_count"
"""The argument that a padded model has besides its own: 1 for a row that counts, 0 for padding."""

SAME = 1e-9
"""Relative difference of two log densities that is rounding."""


def padded(target: Target, num_rows: int) -> Target:
    """Return a target of ``num_rows`` rows, of which the last ones have no weight.

    They are copies of the first row, with the observed sites masked there.

    Parameters
    ----------
    target
        The model with its rows.
    num_rows
        At least as many as it has.

    Raises
    ------
    ModelError
        For a model whose density other rows enter elsewhere than in observed sites with an entry
        a row: a mean over rows, a latent variable for each, a ``numpyro.factor``.
    """
    rows = rows_of(target)
    extra = num_rows - rows

    def filled(array: np.ndarray) -> np.ndarray:
        if not extra:  # as on that one of several hosts which has most
            return array
        whole = empty((num_rows, *array.shape[1:]), array.dtype)
        whole[:rows], whole[rows:] = array, array[:1]
        return whole

    data = change_rows(target.data, rows, filled)
    data[COUNTED] = np.arange(num_rows) < rows
    given = target.complete_model
    init = given.init
    model = replace(
        given,
        function=_Padded(given.function),
        data=None,
        em=None,  # closed forms know no weights
        vb=None,
        coords={name: labels for name, labels in target.coords.items() if len(labels) != rows},
        init=None if init is None else lambda key, **_: init(key, **target.data),
    )
    try:
        other = Target(model, **data)
        points = target.anywhere() + 0.3 * np.random.default_rng(7).standard_normal((2, target.dim))
        same = [(s.name, s.shape) for s in target.quantities] == [
            (s.name, s.shape) for s in other.quantities
        ] and np.allclose(
            other.log_densities(points), target.log_densities(points), rtol=SAME, atol=SAME
        )
    except ValueError:
        same = False
    if not same:
        own = [site for site in target.quantities if site.shape[:1] == (rows,)]
        why = "its density is no sum over rows"
        if own:
            why = f"{own[0].kind} site '{own[0].name}' has an element for each"
        raise ModelError(
            f"mesh: the {rows} rows of model '{target.name}' would have to be filled up to "
            f"{num_rows}, and {why}: leave rows out, or use a number of devices that divides them"
        )
    other.fingerprint, other.padded_rows = target.fingerprint, extra
    return other


def rows_of(target: Target) -> int:
    """Return the number of rows: the longest first axis of what is observed, 0 if all is scalar."""
    return max((site.shape[0] for site in target.observed if site.shape), default=0)


def change_rows(
    data: Mapping[str, Any], rows: int, change: Callable[[np.ndarray], Any]
) -> dict[str, Any]:
    """Return data with each array that has an entry a row as ``change`` makes it."""

    def changed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return change_rows(value, rows, change)
        of_rows = isinstance(value, np.ndarray) and value.shape[:1] == (rows,)
        return change(value) if of_rows else value

    return {name: changed(value) for name, value in data.items()}


class _Padded:
    """A model's function whose observed rows count or do not; it can be sent if that can."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__name__ = getattr(function, "__name__", "model")

    def __call__(self, *, rows_that_count: Any, **data: Any) -> Any:
        with _OnlyCounted(jnp.asarray(rows_that_count, bool)):
            return self._function(**data)


class _OnlyCounted(Messenger):  # type: ignore[misc]
    def __init__(self, counted: Any) -> None:
        super().__init__()
        self.counted = counted

    def process_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "sample" or not message["is_observed"]:
            return
        law, shape = message["fn"], jnp.shape(message["value"])
        batch = shape[: len(shape) - law.event_dim]
        if not batch or batch[0] != len(self.counted):
            return
        if law.batch_shape != batch:
            law = law.expand(batch)
        message["fn"] = law.mask(self.counted.reshape(-1, *(1,) * (len(batch) - 1)))
