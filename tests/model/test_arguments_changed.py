"""Models that change what they are given: every method has the same data all the same."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import vi_recipes as vr

Y = np.array([0.5, 1.5, 1.0])
"""Under a flat prior their mean, 1, is the mode."""

FLAT = dist.ImproperUniform(dist.constraints.real, (), ())


def modes(model: Any, **data: Any) -> list[float]:
    target = vr.Target(model, **data)
    fits = [vr.MAP().fit(target), vr.Laplace().fit(target), vr.MAP(solver="l-bfgs").fit(target)]
    return [float(fit.mean()["mu"]) for fit in fits]


def test_a_default_that_grows_is_as_it_was_for_every_trace() -> None:
    def model(y: Any, seen: list[float] = []) -> None:  # noqa: B006
        mu = numpyro.sample("mu", FLAT)
        numpyro.sample("y", dist.Normal(mu + len(seen), 1.0), obs=y)
        seen.append(1.0)

    assert modes(model, y=Y) == pytest.approx([1.0] * 3)


def test_a_dict_that_loses_a_key_has_it_again() -> None:
    def model(data: dict[str, Any]) -> None:
        shift = data["inner"].pop("shift", 100.0)
        mu = numpyro.sample("mu", FLAT)
        numpyro.sample("y", dist.Normal(mu + shift, 1.0), obs=data.pop("y"))

    given = {"y": Y, "inner": {"shift": 0.25}}
    assert modes(model, data=given) == pytest.approx([0.75] * 3)
    assert given == {"y": Y, "inner": {"shift": 0.25}}


def test_a_list_that_is_appended_to_is_an_array_of_the_model_s_own() -> None:
    def model(y: Any, rows: Any) -> None:
        mu = numpyro.sample("mu", FLAT)
        numpyro.sample("y", dist.Normal(mu + jnp.sum(rows["a"]), 1.0), obs=y)
        rows["a"] = rows["a"] * 2
        rows["b"] = 3

    assert modes(model, y=Y, rows={"a": [0.25, 0.25]}) == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("given", [np.array([1, 2, 1]), pd.Series([1, 2, 1]), [1, 2, 1]])
def test_writing_into_an_array_is_refused_with_the_cure(given: Any) -> None:
    def model(y: Any, group: Any) -> None:
        groups = len(np.unique(group))  # reads sizes off it: the model has NumPy's array itself
        group -= 1
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([groups]))
        numpyro.sample("y", dist.Normal(mu[group], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"writes into one of its arguments\. .* a copy"):
        vr.Target(model, y=Y, group=given)
    assert list(given) == [1, 2, 1]


def test_writing_into_traced_data_is_refused_with_the_cure() -> None:
    def model(y: Any) -> None:
        y[0] = 0.0
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", FLAT), 1.0), obs=y)

    with pytest.raises(ValueError, match="writes into one of its arguments"):
        vr.Target(model, y=Y.copy())


def test_large_arrays_are_not_copied() -> None:
    def model(y: Any) -> None:
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", FLAT), 1.0), obs=y)

    target = vr.Target(model, y=Y)
    assert np.shares_memory(target.data["y"], Y)
    assert Y.flags.writeable
