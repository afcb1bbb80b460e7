"""A target with more deterministic sites: functions of those that it has."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers

from vi_recipes.model.sites import Site
from vi_recipes.model.target import Target


def takes(function: Callable[..., Any], sites: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function of all site values, from one of some: by its arguments' names, or of all.

    Parameters
    ----------
    function
        Its arguments are named as sites; or it has one of another name, a mapping site -> value.
        Others have defaults, and keep them. A list or a tuple of numbers is a vector.
    sites
        By name, those that there are.

    Raises
    ------
    ValueError
        For arguments that are no sites.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
        names = [p.name for p in parameters if p.name in sites or p.default is p.empty]
    except (TypeError, ValueError):  # some built-in functions tell nothing
        names = [""]
    if names and all(name in sites for name in names):
        return lambda values: _whole(function(**{name: values[name] for name in names}))
    if len(names) == 1:
        return functools.partial(_of_all, function, names[0])
    lost = ", ".join(name for name in names if name not in sites)
    raise ValueError(
        f"the function takes {', '.join(names) or 'nothing'}, and {lost or 'that'} is no site; "
        f"expected sites: {', '.join(sites)}; or one argument, a mapping of all of them"
    )


def _of_all(function: Callable[..., Any], argument: str, values: Mapping[str, Any]) -> Any:
    try:
        return _whole(function(values))
    except TypeError as error:  # a site that is named wrongly is the mapping, which has no numbers
        error.args = (f"{error}; '{argument}' is no site, and so a mapping of them all",)
        raise


def _whole(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        return value
    traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
    return jnp.asarray(value) if traced else np.asarray(value)


def with_derived(target: Target, functions: Mapping[str, Callable[..., Any]]) -> Target:
    """Return the same target with deterministic sites for functions of its sites' values.

    Parameters
    ----------
    target
        A model with its data.
    functions
        Name -> function of a mapping site -> value, which JAX can trace.
    """
    original = target.model.function

    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        with handlers.trace() as trace:
            result = original(*args, **kwargs)
        values = {s.name: trace[s.name]["value"] for s in target.quantities if s.name in trace}
        for name, derive in functions.items():
            numpyro.deterministic(name, derive(values))
        return result

    return Target(replace(target.model, function=function), **target.data)


def derived_site(name: str, shape: tuple[int, ...], like: Site | None = None) -> Site:
    """Return the record of a derived quantity, as tracing would make it.

    Where it is made of a site's scalars one by one, it has their labels.
    """
    if like is not None:
        made = Site(name, "deterministic", shape, shape, like.plates, like.dims)
        return replace(made, components=like.components)
    dims = tuple(f"{name}_dim_{axis}" for axis in range(len(shape)))
    return Site(name, "deterministic", shape, shape, (), dims)
