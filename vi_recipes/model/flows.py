"""How every site of a model depends on its latent sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array

from vi_recipes.model.bound import Arrays
from vi_recipes.model.start import DensityWithStart
from vi_recipes.model.steps import Flow, join, trace_flows
from vi_recipes.model.terms import SiteInputs, site_inputs


class SiteFlows(NamedTuple):
    """How a sample site's log density depends on the latent sites.

    Parameters
    ----------
    leaves
        Each of the arrays that :attr:`SiteTerm.leaves` lists: its value and its distribution's.
    weight
        Its masks and scale.
    whole
        All that it is made of together.
    ending
        Latent sites at some of whose values it may be minus infinity, where the density is 0.
    """

    leaves: list[Flow]
    weight: Flow
    whole: Flow
    ending: frozenset[str]


class Flows(NamedTuple):
    """How the sites of a model depend on the latent ones.

    Parameters
    ----------
    densities
        Sample site -> of its log density.
    values
        Latent or deterministic site -> of its value on the constrained scale.
    """

    densities: dict[str, SiteFlows]
    values: dict[str, Flow]

    @property
    def stepped(self) -> dict[str, tuple[str, ...]]:
        """Sample sites whose log density may jump -> latent sites at some of whose values it does.

        It need not: what is done with a threshold may be continuous there, as in a hinge.
        """
        flows = {name: flow.whole.stepped for name, flow in self.densities.items()}
        return {name: tuple(sorted(latents)) for name, latents in flows.items() if latents}

    @property
    def ending(self) -> dict[str, tuple[str, ...]]:
        """Sample sites whose density may end -> latent sites at some of whose values it is 0.

        As that of ``Uniform(0, theta)`` is where theta is below an observed value. It need not: the
        prior may keep from there.
        """
        return {n: tuple(sorted(f.ending)) for n, f in self.densities.items() if f.ending}

    @property
    def stepped_values(self) -> tuple[str, ...]:
        """Sites whose values depend on latent sites by steps, such as ``z > 0`` or a count."""
        return tuple(name for name, flow in self.values.items() if flow.stepped)


class DensityWithFlows(DensityWithStart):
    """A flat density that knows what each of its sites depends on, however it does."""

    @property
    def flows(self) -> Flows:
        """How the sites depend on the latent ones, read off the model's intermediate code."""
        return self.compiled_for_any_data("flows", self._find_flows)

    def _find_flows(self) -> Flows:
        def look(
            unconstrained: Mapping[str, Array], arrays: Arrays
        ) -> tuple[dict[str, SiteInputs], dict[str, Array]]:
            values = self.constrain_sites_fn({**unconstrained, **constant}, arrays)
            return site_inputs(self, values, arrays), values

        with jax.enable_x64(True):
            zeros = {s.name: np.zeros(s.unconstrained_shape) for s in self.latents}
            # the only share of a mixture has no coordinate
            constant: dict[str, Any] = {n: value for n, value in zeros.items() if not value.size}
            moving = {n: value for n, value in zeros.items() if value.size}
            inputs, values = trace_flows(look, moving, self.arrays())
        densities = {
            name: SiteFlows(
                site.leaves,
                join(site.weights),
                join([*site.leaves, *site.weights, *site.within]),
                join([*site.leaves, *site.within]).ending | join(site.bounds).latents,
            )
            for name, site in inputs.items()
        }
        return Flows(densities, values)
