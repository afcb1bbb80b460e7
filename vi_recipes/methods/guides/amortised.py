"""Amortised guides: a network maps the data of a row to the law of its own latent variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import biject_to
from numpyro.infer import autoguide

from vi_recipes.core import ModelError, unknown
from vi_recipes.methods.guides.coordinates import Coordinates
from vi_recipes.model import Site, Target

INIT_SD = 0.1
"""Standard deviation of the latent variables at first, unconstrained, as in NumPyro's guides."""


@dataclass(frozen=True, kw_only=True)
class Amortised:
    """The latent variables of a row are normal, with a network of the row's data behind them.

    On the unconstrained scale, coordinates independent: the network gives their means and log sds,
    and its weights are the same for all rows. So there are as many parameters for a million rows
    as for a hundred, and rows may come in minibatches. What it gets wrong is the mean field's
    independence, and whatever of the exact answer the network cannot represent.

    Parameters
    ----------
    hidden
        Units of each hidden layer, with tanh; ``()`` is a linear encoder.
    inputs
        Arguments of the model whose rows go in, standardised by their means and sds over the rows
        of the target; ``None`` takes all that have one entry a row.

    References
    ----------
    Kingma, D. P. and Welling, M. (2014). Auto-encoding variational Bayes. ICLR, arXiv:1312.6114.
    Rezende, D. J., Mohamed, S. and Wierstra, D. (2014). Stochastic backpropagation and approximate
    inference in deep generative models. ICML, arXiv:1401.4082.

    Examples
    --------
    >>> import vi_recipes as vr
    >>> vr.SVI(guide={"z": vr.Amortised(hidden=(64,))}, batch_size=100).name
    'svi_structured'
    """

    hidden: tuple[int, ...] = (32,)
    inputs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.hidden, str) or not all(
            isinstance(width, int) and width >= 1 for width in self.hidden
        ):
            raise ValueError(
                f"hidden: got {self.hidden!r}, expected positive numbers of units, such as (32,), "
                "or () for a linear encoder"
            )
        if isinstance(self.inputs, str) or (self.inputs is not None and not self.inputs):
            raise ValueError(
                f"inputs: got {self.inputs!r}, expected names of the model's arguments, such as "
                "('y',), or None for all that have one entry a row"
            )

    def find_inputs(self, target: Target, names: Sequence[str]) -> tuple[str, ...]:
        """Return the arguments that go into the encoder of the sites ``names``.

        Raises
        ------
        ModelError
            For a site that is not in one plate's rows, and arguments that have not its rows.
        """
        sizes = set()
        for name in names:
            site = target.sites[name]
            if not any(axis == 0 for _, _, axis in site.plates):
                raise ModelError(
                    f"guide: site '{name}' of shape {site.shape} has no plate along its first "
                    "axis, so no rows to encode: choose another family than 'amortised' for it"
                )
            sizes.add(site.shape[0])
        if len(sizes) > 1:
            raise ModelError(
                f"guide: sites {', '.join(names)} have {', '.join(map(str, sorted(sizes)))} rows; "
                "give each plate an encoder of its own"
            )
        (size,) = sizes
        arrays = {n: v for n, v in target.data.items() if isinstance(v, np.ndarray)}
        fitting = [n for n, v in arrays.items() if v.ndim and len(v) == size]
        for name in self.inputs or ():
            if name not in fitting:
                wrong = unknown("argument with as many rows:", name, fitting)
                raise ModelError(f"guide: inputs: {wrong}")
        if not fitting:
            raise ModelError(
                f"guide: no argument of the model has the {size} rows of site '{names[0]}', so "
                "there is nothing to encode"
            )
        return self.inputs or tuple(fitting)

    def make(
        self, model: Callable[..., Any], target: Target, names: Sequence[str], **options: Any
    ) -> AutoAmortised:
        """Return the guide of the sites ``names``.

        Parameters
        ----------
        model
            The model with all other latent sites hidden.
        target
            What the inputs are standardised by.
        **options
            Of NumPyro's guides.
        """
        inputs = self.find_inputs(target, names)
        rows = _flatten(target.data, inputs)
        centre, spread = rows.mean(axis=0), rows.std(axis=0)
        spread = np.where(spread > 0, spread, 1.0)
        return AutoAmortised(model, self.hidden, inputs, centre, spread, **options)


def _flatten(data: Mapping[str, Any], inputs: Sequence[str]) -> Any:
    """Return arguments side by side, rows by columns."""
    xp = np if all(isinstance(data[name], np.ndarray) for name in inputs) else jnp
    return xp.concatenate([data[n].reshape(len(data[n]), -1) * 1.0 for n in inputs], axis=1)


class AutoAmortised(autoguide.AutoGuide):  # type: ignore[misc]
    """The guide that :class:`Amortised` makes.

    Parameters
    ----------
    model
        The model with all but the guide's own sites hidden.
    hidden, inputs
        As for :class:`Amortised`.
    centre, spread
        What is taken off the inputs, and what they are then divided by, one a column.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        hidden: tuple[int, ...],
        inputs: tuple[str, ...],
        centre: np.ndarray,
        spread: np.ndarray,
        **options: Any,
    ) -> None:
        self.hidden, self.inputs, self.centre, self.spread = hidden, inputs, centre, spread
        super().__init__(model, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw the latent variables of the rows in the arguments."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        latents = {
            name: site
            for name, site in self.prototype_trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        widths = [int(np.prod(self._shape(site)[1:], dtype=int)) for site in latents.values()]
        loc, log_sd = self._encode(kwargs, sum(widths), self._weights)
        ends = np.cumsum(widths)
        drawn = {}
        for (name, site), end, width in zip(latents.items(), ends, widths, strict=True):
            shape = (len(loc), *self._shape(site)[1:])
            columns = slice(int(end) - width, int(end))
            sd = jnp.exp(log_sd[:, columns]).reshape(shape)
            event_dim = len(shape) - len(site["fn"].batch_shape)
            law = dist.Normal(loc[:, columns].reshape(shape), sd).to_event(event_dim)
            transform = biject_to(site["fn"].support)
            law = dist.TransformedDistribution(law, transform)
            with ExitStack() as stack:
                for frame in site["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                drawn[name] = numpyro.sample(name, law)
        return drawn

    @staticmethod
    def _shape(site: Mapping[str, Any]) -> tuple[int, ...]:
        """Return the shape of a site on the unconstrained scale."""
        return tuple(biject_to(site["fn"].support).inverse_shape(jnp.shape(site["value"])))

    def _weights(self, name: str, shape: tuple[int, ...], sd: float, mean: float = 0.0) -> Any:
        def start(key: jax.Array) -> jax.Array:
            return mean + sd * jax.random.normal(key, shape)

        return numpyro.param(f"{self.prefix}_{name}", start)

    def _encode(
        self, data: Mapping[str, Any], width: int, weights: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """Return means and log sds of the latent variables, rows by ``width``."""
        units = (_flatten(data, self.inputs) - self.centre) / self.spread
        for k, wide in enumerate(self.hidden):
            size = units.shape[1]
            W = weights(f"weight_{k}", (size, wide), size**-0.5)
            units = jnp.tanh(units @ W + weights(f"offset_{k}", (wide,), 0.0))
        size = units.shape[1]
        loc = units @ weights("loc_weight", (size, width), 0.1 * size**-0.5)
        loc = loc + weights("loc_offset", (width,), 0.0)
        log_sd = units @ weights("log_sd_weight", (size, width), 0.0)
        return loc, log_sd + weights("log_sd_offset", (width,), 0.0, float(np.log(INIT_SD)))

    def locate(
        self, params: Mapping[str, Any], target: Target
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return site -> means and sds of the rows of ``target``, unconstrained and flat.

        Parameters
        ----------
        params
            The optimised parameters.
        target
            Whose rows are encoded.
        """
        sites: list[Site] = [
            target.sites[name]
            for name, site in self.prototype_trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        ]
        widths = [int(np.prod(site.unconstrained_shape[1:], dtype=int)) for site in sites]
        encoded = self._encode(
            target.data,
            sum(widths),
            lambda name, *_: np.asarray(params[f"{self.prefix}_{name}"], float),
        )
        loc, log_sd = (np.asarray(value, float) for value in encoded)
        ends = np.cumsum(widths)
        return {
            site.name: (
                loc[:, end - width : end].ravel(),
                np.exp(log_sd[:, end - width : end]).ravel(),
            )
            for site, end, width in zip(sites, ends, widths, strict=True)
        }

    @override
    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: Mapping[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return draws of the latent variables of the rows in the arguments."""
        guide = numpyro.handlers.substitute(self, data=dict(params))
        many = numpyro.infer.Predictive(guide, num_samples=int(np.prod(sample_shape)) or 1)
        drawn = many(rng_key, *args, **kwargs)
        return {n: v.reshape(*sample_shape, *v.shape[1:]) for n, v in drawn.items()}


def place_amortised(part: AutoAmortised, at: Coordinates) -> None:
    """Read the laws that an encoder gives the rows of the target."""
    for name, (loc, sd) in part.locate(at.params, at.target).items():
        at.put_known_normals(at.target.slices[name], loc, sd)
