"""A model conditioned on data: the density that every method aims at."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from vi_recipes.core import (
    COMPILED_QUICKLY,
    MadeOnce,
    ModelError,
    as_names,
    called,
    one_at_a_time,
    require,
    visible,
)
from vi_recipes.data import fingerprint, normalise
from vi_recipes.model.bound import Arrays, read_only
from vi_recipes.model.coordinates import DensityByCoordinate
from vi_recipes.model.division import Division
from vi_recipes.model.labels import coordinate_labels, labels_by_site
from vi_recipes.model.model import Exchangeable, Model
from vi_recipes.model.plates import candidates
from vi_recipes.model.spread import Spread
from vi_recipes.model.terms import site_terms
from vi_recipes.model.weights import weights_of

MOST_ROWS = 12
"""Sites that a target names when it is shown."""


def check_target(target: object) -> None:
    """Raise a :class:`ValueError` unless ``target`` is a :class:`Target`."""
    if not isinstance(target, Target):
        got = getattr(target, "__name__", type(target).__name__)
        raise ValueError(
            f"target: got {got}, expected a Target; make one with vi_recipes.Target(model, **data)"
        )


def as_target(target: object) -> Target:
    """Return a target: itself, or a :class:`Model` conditioned on its own data.

    Raises
    ------
    ValueError
        For anything else, and a model without data.
    """
    if isinstance(target, Model) and target.data is not None:
        return Target(target)
    check_target(target)
    assert isinstance(target, Target)
    return target


class Target(DensityByCoordinate):
    """A NumPyro model conditioned on data.

    The model is traced once. Every density takes a flat unconstrained vector ``z`` of length
    :attr:`dim`: the latent sites in model order, each raveled in C order, as NumPyro's automatic
    guides order them.

    Parameters
    ----------
    model
        A :class:`Model`, or any NumPyro model function.
    **data
        Its keyword arguments. A ``Model`` with default data needs none, and arguments given here
        take the place of the defaults of the same name.

    Raises
    ------
    ValueError
        For data that do not fit the model, a model without latent sites, discrete latent sites,
        ``numpyro.param`` sites, and subsampling plates; each names the site and the cure.

    Notes
    -----
    It is put together from one class a file: ``BoundModel`` (data), ``TracedModel`` (sites),
    ``FlatDensity`` (densities and transforms), ``DensityWithStart`` (where to start),
    ``DensityWithFlows`` (what sites depend on) and ``DensityByCoordinate`` (which coordinate a
    scalar depends on).

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import vi_recipes as vr
    >>> def coin(y):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     with numpyro.plate("toss", len(y)):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> target = vr.Target(coin, y=np.array([1, 0, 1]))
    >>> target.dim, sorted(target.sites)
    (1, ['p', 'y'])
    """

    @one_at_a_time
    def __init__(self, model: Model | Callable[..., Any], /, **data: Any) -> None:
        if not isinstance(model, Model):
            if not callable(model):
                raise ValueError(
                    f"model: got {type(model).__name__}, expected a vi_recipes.Model or a NumPyro "
                    "model function"
                )
            model = Model(function=model, name=getattr(model, "__name__", "model"))
        super().__init__(model, data)
        self.fitted_as: Target | None = None
        """Whose fits are of this one too; see :meth:`at`."""
        self.undivided: Target | None = None
        """The target that :func:`shard` was given, with this host's rows, of which fits of this one
        are fits too: for what is read row by row."""
        self.members: Division[Target] | None = None
        """How the members of a plate are divided over hosts, where they are."""
        self.part_of: Division[Target] | None = None
        """Of which division this is one host's part."""
        self._read_coords()  # labels that do not fit are told now, and not after the first fit

    def with_data(self, /, **values: Any) -> Target:
        """Return the same model conditioned on other values of some arguments.

        The two share what was traced and compiled, so this costs next to nothing. Nothing that was
        found out about the old values is kept.

        Parameters
        ----------
        **values
            Argument -> array of the shape and kind that it has here.

        Raises
        ------
        ValueError
            For an argument that :attr:`traced_arguments` does not list, another shape or kind of
            number, NaN or infinity; and where rows are filled up or on several hosts.
        """
        self.check_undivided()
        places = self._traced_leaf_of()
        leaves = list(self._leaves)
        for name, value in values.items():
            if name not in places:
                raise ValueError(
                    f"argument: got '{name}', expected an array that the model reads no sizes off: "
                    f"{', '.join(places) or 'there is none'}. Make a new Target to change others"
                )
            old, new = leaves[places[name]], np.asarray(normalise(name, value))
            if new.shape != old.shape or new.dtype.kind != old.dtype.kind:
                raise ValueError(
                    f"argument '{name}': got {new.dtype} of shape {new.shape}, expected "
                    f"{old.dtype} of shape {old.shape}. Make a new Target for data of another form"
                )
            leaves[places[name]] = read_only(new.astype(old.dtype))
        other = copy.copy(self)
        other._leaves = leaves
        other._trace_leaves(self._is_traced)
        other.fingerprint = fingerprint(other.data)
        other.compiled_once = MadeOnce()
        other.form_of = None  # which has the data as they were
        if self.undivided is not None:
            other.undivided = self.undivided.with_data(**values)
        if self.state_sum is not None:  # whose states a row reads may be among the data
            return Target(self.complete_model, **other.data)
        return other

    def at(self, /, **values: Any) -> Target:
        """Return the same model at other data, of any shape, to predict there by fits of this one.

        :func:`posterior_predictive` and :func:`log_likelihood` take it beside a fit of this target,
        as long as its latent sites have the shapes that they have here.

        Parameters
        ----------
        **values
            Argument -> value; the others stay as they are. An observed argument is needed for its
            shape.

        Raises
        ------
        ValueError
            For data that do not fit the model, and for latent sites of another shape.
        """
        other = Target(self.complete_model, **{**self.data, **values})
        ours, theirs = ({s.name: s.shape for s in t.latents} for t in (self, other))
        for name, shape in ours.items():
            if theirs.get(name) != shape:
                raise ValueError(
                    f"data: at these, latent site '{name}' has shape {theirs.get(name)}, but "
                    f"{shape} in the fits: new members have no draws there"
                )
        other.fitted_as = self.fitted_as or self
        return other

    def on(self, spread: Spread) -> Target:
        """Return the same target with its traced arrays placed by ``spread``."""
        other = copy.copy(self)
        other.spread = spread
        other._trace_leaves(self._is_traced)
        other.compiled_once, other.compiled_for_any_data = MadeOnce(), MadeOnce()
        return other

    @property
    def weighted_latents(self) -> str | None:
        """Why scales and masks make the joint density none of its rows; ``None`` if they do not.

        A continuous latent site of rows that are weighted: a power of its density is no law of it,
        and the weight of a row is that of the integral over it. A masked one that nothing else
        depends on is flat.
        """
        if not self.has_weights:
            return None
        return self.compiled_once("weighted latents", lambda: _why_weighted(self))

    @property
    def dense_rows(self) -> int:
        """Rows of the largest matrix that its Hessian has, if its plates are what they seem."""
        borders = [s.border.size for s in candidates(self.latents, self.slices)]
        return min(borders, default=self.dim)

    @property
    def exchangeable(self) -> tuple[Exchangeable, ...]:
        """Groups of sites subject to label switching."""
        return self.model.exchangeable

    @property
    def coords(self) -> dict[str, np.ndarray]:
        """Dimension name -> labels, for ArviZ."""
        return self.compiled_once("coords", self._read_coords)

    def _read_coords(self) -> dict[str, np.ndarray]:
        given = self.model.coords
        what = f"coords of model '{self.name}'"
        made = called(what, given, **self.data) if callable(given) else given
        if not isinstance(made, Mapping):
            raise ModelError(
                f"{what}: got {type(made).__name__}, expected a mapping: dimension -> labels"
            )
        labels = dict(made)
        coords: dict[str, np.ndarray] = {}
        for site in self.sites.values():
            for dim, size in zip(site.dims, site.shape, strict=True):
                values = coordinate_labels(labels[dim]) if dim in labels else np.arange(size)
                if values.shape != (size,):
                    raise ValueError(
                        f"coords['{dim}'] of model '{self.name}' has {values.size} labels, but "
                        f"site '{site.name}' has size {size} along it"
                    )
                coords[dim] = values
        return coords

    def labels(self, sites: Sequence[str] | None = None, *, coords: bool = False) -> list[str]:
        """Return the labels of the scalars of ``sites`` (default: all reported), C order.

        ``coords=False`` gives zero-based indices (``beta[0]``, ``A[0, 1]``); ``True`` the
        coordinate labels, as ArviZ prints them. The two agree where a dimension has no labels.
        """
        names = [s.name for s in self.quantities] if sites is None else as_names("sites", sites)
        for name in names:
            require(name in self.sites, "sites", name, f"some of {', '.join(self.sites)}")
        table = labels_by_site(self.quantities, self.coords if coords else None)
        others = (self.sites[n] for n in names if n not in table)  # observed ones
        table |= labels_by_site(others, self.coords if coords else None)
        return [label for n in names for label in table[n]]

    def __repr__(self) -> str:
        named = [f"{s.name}{list(s.shape) if s.shape else ''}" for s in self.latents[:MOST_ROWS]]
        more = len(self.latents) - len(named)
        listed = ", ".join([*named, f"and {more} more"] if more else named)
        return f"Target({self.name!r}, dim={self.dim}, latent: {listed})"

    def _repr_html_(self) -> str:
        sites = list(self.sites.values())
        rows = "".join(
            f"<tr><td>{escape(visible(s.name))}</td><td>{s.kind}</td><td>{_times(s.shape)}</td>"
            f"<td>{escape(s.support)}</td></tr>"
            for s in sites[:MOST_ROWS]
        )
        more = f"<p>{len(sites) - MOST_ROWS} more sites</p>" if len(sites) > MOST_ROWS else ""
        head = "<tr><th>site</th><th>kind</th><th>shape</th><th>support</th></tr>"
        name = escape(visible(self.name))
        return f"<p><b>{name}</b>: {self.dim:,} coordinates</p><table>{head}{rows}</table>{more}"


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(f"{size:,}" for size in shape) or "scalar"


def _why_weighted(target: Target) -> str | None:
    def look(z: jax.Array, arrays: Arrays) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        values = target.constrain_fn(z, arrays)
        latent = {site.name: values[site.name] for site in target.latents}
        seeded = handlers.seed(target.complete_model.function, jax.random.key(0))
        with jax.numpy_rank_promotion("allow"):
            model = handlers.substitute(seeded, data=latent)
            weights = weights_of(handlers.trace(model).get_trace(**target.keywords(arrays)))

            def own(z: jax.Array) -> dict[str, jax.Array]:
                terms = site_terms(target, z, arrays)
                return {n: terms[n].total for n in latent if n in terms}

            depends = jax.jacrev(own)(z)
        slope = jax.grad(lambda z: target.log_density_fn(z, arrays, jacobian=False))(z)
        return {n: weights[n] for n in latent}, {**depends, "": slope}

    start = target.anywhere()
    with jax.enable_x64(True):
        compiled = jax.jit(look, compiler_options=COMPILED_QUICKLY)
        weights, slopes = jax.tree.map(
            np.asarray, compiled(jnp.asarray(start + 0.3), target.arrays())
        )
    for site in target.latents:
        weight, place = weights[site.name], target.slices[site.name]
        if (weight == 1).all():
            continue
        if np.isin(weight, (0.0, 1.0)).all():
            flat = (slopes[""][place] == 0).sum()
            if flat:
                return (
                    f"latent site '{site.name}' is masked (handlers.mask, obs_mask), and nothing "
                    f"in the model bounds {flat} of its {place.stop - place.start} coordinates: "
                    "their posterior is flat. Sample only the elements that are needed"
                )
            continue
        others = np.delete(slopes.get(site.name, np.zeros(target.dim)), np.r_[place])
        if np.any(others != 0) or np.ptp(weight) > 0:
            return (
                f"latent site '{site.name}' is under handlers.scale (weights from {weight.min():g} "
                f"to {weight.max():g}): a power of its density is no law of it, and the weight of "
                "a row is that of the integral over it, which EM and MarginalMLE take. Scale "
                "observed sites only, or write the rows out"
            )
    return None
