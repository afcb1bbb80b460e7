"""Parameters and data drawn from a model, and the model conditioned on those data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.infer import init_to_uniform

from vi_recipes.core import ModelError, one_at_a_time, unknown
from vi_recipes.model import Arrays, Sites, Target

ROUNDING = 1e-6
"""Relative difference of two log densities that count as the same."""

INTEGERS = "iub"
"""NumPy's kinds of integers and booleans."""


class SimulationError(ValueError):
    """Data that were simulated but cannot be fitted, such as infinite ones."""


@dataclass(frozen=True)
class Simulation:
    """One draw from the joint distribution of parameters and data.

    Parameters
    ----------
    truth
        Latent and deterministic values on the constrained scale, by site.
    log_likelihood
        Of the simulated data at those values; NaN where the target has no observed sites of its
        own, because discrete latent variables are summed out.
    target
        The model conditioned on the simulated data.
    """

    truth: Sites
    log_likelihood: float
    target: Target


class PriorPredictive:
    """Draws parameters and data of a model, all from one compiled function.

    The observed sites are sampled like the others, and the arguments that they observe are given
    the values. That the model of the simulated data is the model that they were drawn from is
    verified at every draw: the log densities of all sites must agree.

    Parameters
    ----------
    target
        The model, with data that say how many observations there are and what the covariates are.

    Raises
    ------
    ModelError
        For a model that cannot be simulated from; each names the site and the cure.
    """

    @one_at_a_time
    def __init__(self, target: Target) -> None:
        sites = _trace(target)
        _check(target, sites)
        self.arguments = {
            name: _argument_of(target, name, site["value"])
            for name, site in sites.items()
            if site["is_observed"]
        }
        """Observed site -> the argument of the model that it observes."""
        drawn_as_numbers = {
            argument: np.asarray(target.data[argument], float)
            for name, argument in self.arguments.items()
            if np.asarray(target.data[argument]).dtype.kind in INTEGERS
            and not sites[name]["fn"].support.is_discrete
        }
        if drawn_as_numbers:  # whole numbers, of a continuous distribution
            target = Target(target.complete_model, **{**target.data, **drawn_as_numbers})
        self.target = target
        self.shares_code = set(self.arguments.values()) <= set(target.traced_arguments)
        """Whether simulated data are new values of traced arrays, so that fits share code."""
        self.has_likelihood = bool(target.observed)
        """Whether the target has the model's observed sites, and a log likelihood with them."""
        self._latent = [n for n, site in sites.items() if not site["is_observed"]]
        self._draw = jax.jit(self._draw_fn)
        self._evaluate = jax.jit(self._log_densities)
        self._log_likelihood = jax.jit(self._log_likelihood_fn)

    def __reduce__(self) -> tuple[type[PriorPredictive], tuple[Target]]:
        return PriorPredictive, (self.target,)  # compiled anew where it is sent to

    def checked(self, values: Mapping[str, Any]) -> Sites:
        """Return given values of latent sites as arrays.

        Raises
        ------
        ModelError
            For a site that is not latent, another shape, and what is no finite number.
        """
        shapes = {site.name: site.shape for site in self.target.latents}
        found: Sites = {}
        for name, value in values.items():
            if name not in shapes:
                raise ModelError(f"truth: {unknown('latent site', name, shapes)}")
            try:
                found[name] = np.asarray(value, float)
            except (TypeError, ValueError):
                raise ModelError(f"truth: got {value!r} for '{name}', expected numbers") from None
            if found[name].shape != shapes[name] or not np.isfinite(found[name]).all():
                raise ModelError(
                    f"truth: got {value!r} for '{name}', expected finite numbers of shape "
                    f"{shapes[name]}"
                )
        return found

    @one_at_a_time
    def draw(self, key: jax.Array, given: Sites | None = None) -> Simulation:
        """Draw parameters and data.

        Parameters
        ----------
        key
            Of all that is drawn.
        given
            Latent sites whose values are not drawn, from :meth:`checked`.

        Raises
        ------
        SimulationError
            If the data are not finite.
        ModelError
            If the model reads its observations as covariates too, and for a given value that its
            prior does not allow.
        """
        given = given or {}
        with jax.enable_x64(True):
            try:
                drawn, observed, densities = jax.device_get(
                    self._draw(key, self.target.arrays(), given)
                )
            except (NotImplementedError, TypeError, ValueError) as error:
                raise ModelError(
                    f"model '{self.target.name}' cannot be simulated from: a distribution does not "
                    f"draw ({str(error).strip() or type(error).__name__}). Give it a sampler"
                ) from error
        for name in given:
            if not np.isfinite(densities[name]):
                raise ModelError(
                    f"truth: got {given[name].tolist()} for '{name}', where its prior in model "
                    f"'{self.target.name}' has no density"
                )
        values = {}
        for name, argument in self.arguments.items():
            value = observed[name]
            if not np.isfinite(value).all():
                raise SimulationError(
                    f"the data simulated for '{argument}' are not finite: the prior reaches too far"
                )
            values[argument] = value.astype(np.asarray(self.target.data[argument]).dtype)
        if self.shares_code:
            target = self.target.with_data(**values)
            evaluate = self._evaluate
        else:
            complete = self.target.complete_model
            target = Target(complete, **{**self.target.data, **values})
            evaluate = PriorPredictive(target)._evaluate
        with jax.enable_x64(True):
            again, deterministic, seen = jax.device_get(evaluate(drawn, target.arrays()))
        self._verify(densities, again, observed, seen)
        truth = {site.name: drawn[site.name] for site in target.latents} | deterministic
        total = sum(float(again[name]) for name in self.arguments)
        return Simulation(truth, total if self.has_likelihood else np.nan, target)

    @one_at_a_time
    def log_likelihood(self, target: Target, draws: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the joint log likelihood of simulated data at draws, shape (num_draws,)."""
        with jax.enable_x64(True):
            latent = {s.name: jnp.asarray(draws[s.name], float) for s in target.latents}
            compute = self._log_likelihood
            if not self.shares_code:
                compute = jax.jit(PriorPredictive(target)._log_likelihood_fn)
            return np.asarray(compute(latent, target.arrays()))

    # -- pure functions ----------------------------------------------------------------------

    def _draw_fn(self, key: jax.Array, arrays: Arrays, given: Any) -> tuple[Any, Any, Any]:
        """Return values of latent sites, values of observed ones, and all log densities."""
        function = self.target.complete_model.function
        free = handlers.substitute(handlers.uncondition(function), data=given)
        model = handlers.seed(free, key)
        trace = handlers.trace(model).get_trace(**self.target.keywords(arrays))
        latent = {name: trace[name]["value"] for name in self._latent}
        observed = {name: trace[name]["value"] for name in self.arguments}
        return latent, observed, _densities(trace)

    def _log_densities(self, latent: Any, arrays: Arrays) -> tuple[Any, Any, Any]:
        """Return the log densities of all sites, deterministic values, and what is observed."""
        function = self.target.complete_model.function
        model = handlers.seed(handlers.substitute(function, data=latent), jax.random.key(0))
        trace = handlers.trace(model).get_trace(**self.target.keywords(arrays))
        names = [s.name for s in self.target.quantities if s.kind == "deterministic"]
        deterministic = {name: trace[name]["value"] for name in names}
        seen = {name: jnp.asarray(trace[name]["value"]) for name in self.arguments}
        return _densities(trace), deterministic, seen

    def _log_likelihood_fn(self, latent: Any, arrays: Arrays) -> jax.Array:
        def one(values: Any) -> jax.Array:
            densities = self._log_densities(values, arrays)[0]
            return jnp.asarray(sum(densities[name] for name in self.arguments))

        return jax.lax.map(one, latent)

    def _verify(self, drawn: Any, again: Any, observed: Any, seen: Any) -> None:
        for name, argument in self.arguments.items():
            if not np.allclose(observed[name], seen[name]):
                raise ModelError(
                    f"observed site '{name}' does not take its values from argument '{argument}' "
                    "alone: give every observed site an argument of its own"
                )
        for name, density in drawn.items():
            if not np.allclose(density, again[name], rtol=ROUNDING, atol=ROUNDING, equal_nan=True):
                listed = ", ".join(f"'{a}'" for a in dict.fromkeys(self.arguments.values()))
                raise ModelError(
                    f"the distribution of site '{name}' depends on the observations (argument "
                    f"{listed}), so data drawn from model '{self.target.name}' are not data of the "
                    "model that is then fitted to them. Pass what the model reads as a covariate "
                    "as an argument of its own"
                )


def _densities(trace: Mapping[str, Any]) -> dict[str, jax.Array]:
    with jax.numpy_rank_promotion("allow"):
        return {
            name: jnp.sum(site["fn"].log_prob(site["value"]))
            for name, site in trace.items()
            if site["type"] == "sample"
        }


# -- what cannot be simulated ----------------------------------------------------------------------


def _trace(target: Target) -> dict[str, Any]:
    """Return the sample sites of the model as it was given, at any values."""
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore")  # observations outside their support are replaced
        seeded = handlers.seed(target.complete_model.function, jax.random.key(0))
        model = handlers.substitute(seeded, substitute_fn=init_to_uniform())
        trace = handlers.trace(model).get_trace(**target.keywords(target.arrays()))
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def _check(target: Target, sites: Mapping[str, Any]) -> None:
    """Refuse what has no prior predictive distribution."""
    model = f"model '{target.name}' cannot be simulated from"
    for name, site in sites.items():
        if isinstance(site["fn"], dist.Unit):
            raise ModelError(
                f"{model}: '{name}' is a numpyro.factor term, a density that nothing is drawn "
                "from. Write it as numpyro.sample of a distribution"
            )
        if site["scale"] is not None and not np.all(np.asarray(site["scale"]) == 1):
            raise ModelError(
                f"{model}: the log density of site '{name}' is scaled by {site['scale']}, so it is "
                "not that of its distribution. Drop the scale"
            )
        if site["is_observed"]:
            continue
        fn = site["fn"]
        while isinstance(
            fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution
        ):
            if isinstance(fn, dist.MaskedDistribution) and not np.all(np.asarray(fn._mask)):
                raise ModelError(
                    f"{model}: latent site '{name}' is masked, so some of its values have no "
                    "prior. Leave missing observations out, or mask the observed site instead "
                    "(handlers.mask, or .mask on its distribution)"
                )
            fn = fn.base_dist
        if isinstance(fn, dist.ImproperUniform):
            raise ModelError(
                f"{model}: site '{name}' has an improper prior, which has no draws. Give it a "
                "proper one in the model, such as a wide dist.Normal"
            )
    if not any(site["is_observed"] for site in sites.values()):
        raise ModelError(
            f"{model}: nothing is observed, so there are no data to simulate. Give it an observed "
            "site (obs=...)"
        )


def _argument_of(target: Target, name: str, value: Any) -> str:
    """Return the argument whose values an observed site has."""
    value = np.asarray(value)
    equal = [
        argument
        for argument, given in target.data.items()
        if isinstance(given, np.ndarray | float | int)
        and np.shape(given) == value.shape
        and np.allclose(np.asarray(given, float), value, rtol=1e-12, atol=0)
    ]
    if not equal:
        raise ModelError(
            f"observed site '{name}' of model '{target.name}' observes none of the arguments "
            f"({', '.join(target.data)}) as it is, but something computed from them, so simulated "
            "values have no place to go. Pass what it observes as an argument (obs=y)"
        )
    if len(equal) > 1:
        raise ModelError(
            f"observed site '{name}': arguments {' and '.join(equal)} hold the same values, and "
            "either may be what it observes. Give data in which they differ"
        )
    return equal[0]
