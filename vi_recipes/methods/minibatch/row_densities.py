"""Log densities of sites, row by row: what tells whether minibatches add up to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from vi_recipes.methods.guides.scaling import ScaleUp, dim_of
from vi_recipes.model import Arrays, Target

TOLERANCE = 1e-8
"""Relative difference of log densities that counts as rounding."""


class RowDensities(NamedTuple):
    """Log densities of all sites, element by element, and the values of the latent ones."""

    elements: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    dims: dict[str, int | None]

    @property
    def inside(self) -> list[str]:
        """Sites in the plate."""
        return [name for name, dim in self.dims.items() if dim is not None]

    def at(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Return the elements of a site in the plate, at some of its rows."""
        dim = self.dims[name]
        assert dim is not None
        return np.take(self.elements[name], rows, axis=dim)

    def moved(self, other: RowDensities) -> list[str]:
        """Return the sites outside the plate that have another density there."""
        return [
            name
            for name, dim in self.dims.items()
            if dim is None and not agree(self.elements[name], other.elements[name])
        ]


def agree(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether log densities are the same but for rounding."""
    return one.shape == other.shape and np.allclose(
        one, other, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True
    )


class Probe:
    """Works out the log densities of a target, those in some plates scaled, for any of its data."""

    def __init__(self, target: Target, plates: Sequence[str], factor: float) -> None:
        self._target = target
        self._dims: dict[str, int | None] = {}

        def run(z: jax.Array, arrays: Arrays) -> Any:
            values = target.constrain_fn(z, arrays)
            values = {site.name: values[site.name] for site in target.latents}
            model = handlers.substitute(target.seeded, data=values)
            with ScaleUp(factor, dict.fromkeys(plates)), jax.numpy_rank_promotion("allow"):
                trace = handlers.trace(model).get_trace(**target.keywords(arrays))
            elements = {}
            for name, site in trace.items():
                if site["type"] == "sample":
                    value = site["fn"].log_prob(site["value"])
                    elements[name] = value if site["scale"] is None else site["scale"] * value
                    dims = (dim_of(site, plate) for plate in plates)
                    self._dims[name] = next((dim for dim in dims if dim is not None), None)
            return elements, values

        self._run = jax.jit(run)

    def __call__(self, z: np.ndarray, data: Mapping[str, Any]) -> RowDensities:
        """Return the densities at ``z``, unconstrained, given ``data``."""
        with jax.enable_x64(True):
            arrays = tuple(
                jnp.asarray(data[name]) if isinstance(data[name], np.ndarray) else old
                for name, old in zip(
                    self._target.traced_arguments, self._target.arrays(), strict=True
                )
            )
            of_jax = self._run(jnp.asarray(z, float), arrays)
        elements, values = jax.tree.map(np.asarray, of_jax)
        return RowDensities(elements, values, dict(self._dims))
