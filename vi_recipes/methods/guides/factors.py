"""Blocks of gamma, beta and Dirichlet laws on the constrained scale."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer import autoguide

from vi_recipes.methods.guides.coordinates import Coordinates
from vi_recipes.methods.guides.family import Params, Scales
from vi_recipes.methods.guides.sites import block_sites

INIT_SD = 0.1
"""Standard deviation of a block's coordinates at first, unconstrained, as in NumPyro's guides."""


class AutoFactors(autoguide.AutoGuide):  # type: ignore[misc]
    """Independent laws on the constrained scale, all of one family.

    Every law has a mean and a concentration: the shape of a gamma law, the sum of the two
    parameters of a beta law and of all those of a Dirichlet law. The two are orthogonal, or nearly
    so, in the Fisher metric, which is what step sizes by coordinate ask for. Concentrations at
    first give the coordinates, logs or logits, about :data:`INIT_SD`.
    """

    @override
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        with handlers.block():
            self._init_values = self._postprocess_fn(self._init_locs)

    @property
    def sites(self) -> list[str]:
        """The block's sites."""
        return block_sites(self)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw the block's sites."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        drawn = {}
        for name in self.sites:
            fn = self.prototype_trace[name]["fn"]
            with ExitStack() as stack:
                for frame in self.prototype_trace[name]["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                drawn[name] = numpyro.sample(name, self._law(name, fn))
        return drawn

    @abstractmethod
    def _law(self, name: str, fn: dist.Distribution) -> dist.Distribution:
        """Return the law of a site, of which the model has the law ``fn``."""

    def _parameters(
        self,
        name: str,
        event_dim: int,
        support: Any,
        mean: Callable[[Any], Any],
        size: Callable[[Any], Any],
        size_dim: int,
    ) -> tuple[Any, Any]:
        """Return means and concentrations; at first ``mean`` and ``size`` of the start's values."""
        # only called where nothing is substituted: what the set-up knew is gone afterwards
        return (
            numpyro.param(
                f"{name}_{self.prefix}_mean",
                lambda _: mean(self._init_values[name]),
                constraint=support,
                event_dim=event_dim,
            ),
            numpyro.param(
                f"{name}_{self.prefix}_concentration",
                lambda _: INIT_SD**-2 * size(self._init_values[name]),
                constraint=dist.constraints.positive,
                event_dim=size_dim,
            ),
        )

    @override
    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: Mapping[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return draws of the block's sites."""

        def of_all() -> dict[str, dist.Distribution]:
            return {n: self._law(n, self.prototype_trace[n]["fn"]) for n in self.sites}

        laws = handlers.substitute(of_all, data=params)()
        keys = jax.random.split(rng_key, len(laws))
        return {
            name: law.sample(key, sample_shape)
            for key, (name, law) in zip(keys, laws.items(), strict=True)
        }

    # -- what is read off it ---------------------------------------------------------------------

    @abstractmethod
    def put(self, name: str, mean: Any, size: Any, error: Any, at: Coordinates) -> None:
        """Have the coordinates take in a site.

        Parameters
        ----------
        name
            The site.
        mean, size
            Means and concentrations.
        error
            Standard errors of the unconstrained means, flat.
        at
            The coordinates.
        """

    @abstractmethod
    def spread(self, mean: Any, size: Any) -> Any:
        """Return about the sds of log or logit coordinates, from means and concentrations."""


class AutoGamma(AutoFactors):
    """Independent gamma laws of positive sites."""

    @override
    def _law(self, name: str, fn: dist.Distribution) -> dist.Distribution:
        event_dim = fn.event_dim
        mean, size = self._parameters(
            name, event_dim, dist.constraints.positive, lambda x: x, jnp.ones_like, event_dim
        )
        return dist.Gamma(size, size / mean).to_event(event_dim)

    @override
    def put(self, name: str, mean: Any, size: Any, error: Any, at: Coordinates) -> None:
        at.put_gammas(name, size, size / mean, error)

    @override
    def spread(self, mean: Any, size: Any) -> Any:
        return size**-0.5


class AutoBeta(AutoFactors):
    """Independent beta laws of sites in an interval."""

    @override
    def _law(self, name: str, fn: dist.Distribution) -> dist.Distribution:
        event_dim, base = fn.event_dim, fn.support
        while isinstance(base, dist.constraints.independent):
            base = base.base_constraint
        low, width = base.lower_bound, base.upper_bound - base.lower_bound
        mean, size = self._parameters(
            name,
            event_dim,
            dist.constraints.unit_interval,
            lambda x: (x - low) / width,
            lambda x: width**2 / ((x - low) * (low + width - x)),
            event_dim,
        )
        law = dist.Beta(mean * size, (1 - mean) * size)
        if base is not dist.constraints.unit_interval:
            to_support = AffineTransform(low, width, domain=dist.constraints.unit_interval)
            law = dist.TransformedDistribution(law, to_support)
        return law.to_event(event_dim)

    @override
    def put(self, name: str, mean: Any, size: Any, error: Any, at: Coordinates) -> None:
        at.put_betas(name, mean * size, (1 - mean) * size, error)

    @override
    def spread(self, mean: Any, size: Any) -> Any:
        return np.asarray((size * mean * (1 - mean)) ** -0.5)


class AutoDirichlet(AutoFactors):
    """Dirichlet laws of sites on a simplex."""

    @override
    def _law(self, name: str, fn: dist.Distribution) -> dist.Distribution:
        event_dim = fn.event_dim
        mean, size = self._parameters(
            name,
            event_dim,
            dist.constraints.simplex,
            lambda x: x,
            lambda x: jnp.full_like(x[..., 0], x.shape[-1]),
            event_dim - 1,
        )
        return dist.Dirichlet(mean * size[..., None]).to_event(event_dim - 1)

    @override
    def put(self, name: str, mean: Any, size: Any, error: Any, at: Coordinates) -> None:
        whole = mean * size[..., None]
        a = whole[..., :-1]
        # what is left of the stick, summed from its end
        b = np.cumsum(whole[..., :0:-1], axis=-1)[..., ::-1]
        at.put_betas(name, a, b, error, np.log(np.arange(a.shape[-1], 0, -1.0)))

    @override
    def spread(self, mean: Any, size: Any) -> Any:
        return np.asarray((size[..., None] * mean * (1 - mean))[..., :-1] ** -0.5)


def place_factors(part: AutoFactors, at: Coordinates) -> None:
    """Read a block of such laws."""
    for name in part.sites:
        key = f"{name}_{part.prefix}"
        mean, size = (at.params[f"{key}_{what}"] for what in ("mean", "concentration"))
        error = 0.0 if at.noise is None else np.ravel(at.noise[f"{key}_mean"])
        part.put(name, mean, size, error, at)


def factor_scales(guide: AutoFactors) -> Scales:
    """Return the means, whose unconstrained scale is that of logs or logits."""
    names = [f"{name}_{guide.prefix}" for name in guide.sites]
    return {f"{name}_mean": partial(_spread, guide, name) for name in names}


def _spread(guide: AutoFactors, key: str, params: Params) -> np.ndarray:
    mean, size = (np.asarray(params[f"{key}_{what}"]) for what in ("mean", "concentration"))
    return np.asarray(guide.spread(mean, size))
