"""Guides in the units of a target's coordinates: how far their locations go in a step.

Adam goes about its step size in a step, whatever the gradient: a location in millimetres takes a
thousand times as many steps as one in metres. So every location goes by its coordinate's unit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.nn import sigmoid, softplus
from numpyro.infer import autoguide

from vi_recipes.methods.guides.sites import block_sites, places_of
from vi_recipes.model import Target


class GuideUnits(NamedTuple):
    """What a guide's unconstrained parameters go by, name -> array; ones for those left out."""

    locations: dict[str, jax.Array]
    """Units of locations, which steps are multiplied by."""
    spreads: dict[str, jax.Array]
    """Units of sds behind a softplus, which the first sds are multiplied by."""


def guide_units(guide: Any, target: Target) -> GuideUnits:
    """Return the units of the parameters of a guide that has been set up.

    Of NumPyro's normals, points and blocks of them; empty for other guides, and where all units
    are 1.
    """
    units = GuideUnits({}, {})
    if (target.units == 1).all():
        return units
    # of one array, which code that is compiled takes: a number by itself would be written in it
    units_of_all = jnp.asarray(target.units)
    parts = list(guide) if isinstance(guide, autoguide.AutoGuideList) else [guide]
    for part in parts:
        if isinstance(part, autoguide.AutoNormal | autoguide.AutoDelta):
            for name in block_sites(part):
                unit = units_of_all[target.slices[name]]
                unit = unit.reshape(target.sites[name].unconstrained_shape)
                key = f"{name}_{part.prefix}"
                # a point is a parameter on its own support: what has an edge has unit 1
                if not target.edged[target.slices[name]].any():
                    units.locations[f"{key}_loc"] = unit
                    units.spreads[f"{key}_scale"] = unit
        elif isinstance(
            part,
            autoguide.AutoDiagonalNormal
            | autoguide.AutoMultivariateNormal
            | autoguide.AutoLowRankMultivariateNormal
            | autoguide.AutoLaplaceApproximation,
        ):
            unit = units_of_all[places_of(part, target)]
            units.locations[f"{part.prefix}_loc"] = unit
            units.spreads[f"{part.prefix}_scale"] = unit
            # a root of the covariance: rows of what is below the diagonal, then the sds
            below = jnp.ones(unit.size * (unit.size - 1) // 2)
            units.spreads[f"{part.prefix}_scale_tril"] = jnp.concatenate([below, unit])
    return units


def first_in_units(params: dict[str, Any], units: GuideUnits) -> dict[str, Any]:
    """Return unconstrained parameters to begin with, their sds in units; pure."""
    return params | {
        name: _from_own(params[name], unit) for name, unit in _spreads(params, units).items()
    }


def steps_in_units(
    optimizer: optax.GradientTransformation, find: Callable[[], GuideUnits]
) -> optax.GradientTransformation:
    """Return an optimiser whose steps are in units; ``find`` is called once the guide is set up.

    A location's step is multiplied by its unit. An sd is a unit times the softplus of what is
    stepped: its own parameter, softplus's inverse of it, would soon step below zero where the unit
    is large, at an sd that is nothing beside it.
    """

    def update(grads: Any, state: Any, params: Any = None) -> Any:
        units = find()
        spreads = _spreads(params, units)
        in_units = {name: _to_own(params[name], unit) for name, unit in spreads.items()}
        slopes = {
            name: grads[name] * _slope(in_units[name], params[name], unit)
            for name, unit in spreads.items()
        }
        steps, state = optimizer.update(grads | slopes, state, params | in_units)
        scaled = {
            name: step * jnp.asarray(units.locations[name], step.dtype)
            if name in units.locations and units.locations[name].shape == step.shape
            else step
            for name, step in steps.items()
        }
        moved = {
            name: _from_own(in_units[name] + steps[name], unit) - params[name]
            for name, unit in spreads.items()
        }
        return scaled | moved, state

    return optax.GradientTransformation(optimizer.init, update)


def _spreads(params: Mapping[str, Any], units: GuideUnits) -> dict[str, jax.Array]:
    return {
        name: unit
        for name, unit in units.spreads.items()
        if name in params and params[name].shape == unit.shape
    }


def _inverse_softplus(sd: Any) -> Any:
    return sd + jnp.log(-jnp.expm1(-sd))


def _from_own(own: Any, unit: jax.Array) -> Any:
    """Return the guide's parameters whose sds are units times the softplus of ``own``."""
    return jnp.where(unit == 1, own, _inverse_softplus(unit * softplus(own))).astype(own.dtype)


def _to_own(param: Any, unit: jax.Array) -> Any:
    return jnp.where(unit == 1, param, _inverse_softplus(softplus(param) / unit)).astype(
        param.dtype
    )


def _slope(own: Any, param: Any, unit: jax.Array) -> Any:
    """Return the derivative of the guide's parameters by ``own``."""
    return (unit * sigmoid(own) / sigmoid(param)).astype(param.dtype)
