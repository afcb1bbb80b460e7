"""What the comparison needs to know of a NumPyro model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vi_recipes.core import check_fields, require

Data = Mapping[str, Any]
"""The keyword arguments of a model function: arrays, and the scalars that fix its shapes."""

Values = Mapping[str, Any]
"""Site name -> value on the constrained scale, the scale the model itself uses."""


@dataclass(frozen=True, kw_only=True)
class Exchangeable:
    """Sites whose elements along one axis are interchangeable (label switching).

    Parameters
    ----------
    sites
        Site name -> the axis that the labels run along. The same permutation applies to every
        site named. Deterministic sites that carry the label must be named too.
    """

    sites: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class PartialEStep:
    """The E-step for some of the members at a time; every function is traced by JAX.

    For models whose members are independent given theta, and whose sufficient statistics add up
    over disjoint sets of members. Nothing is gained where the statistics of the data that the
    E-step needs do not change, as in factor analysis, which needs their covariance only.

    Parameters
    ----------
    num_members
        ``num_members(**data) -> int``: how many members there are.
    e_step
        ``e_step(theta, rows, weights, **data) -> (stats, log_likelihood)``: for the members whose
        numbers, from 0, are ``rows``, integers of shape (B,), each taken ``weights`` times, shape
        (B,). A weight is 0 where a row only fills a block up, else 1. Over blocks that make up all
        members, both add up to what the full E-step returns.
    expected
        ``expected(theta, stats, **data) -> float``: E_q[log p(y, z | theta)], what the M-step
        maximises, for the statistics of any members. It is linear in them. With the entropy of q
        it makes the free energy, which must rise at every partial step.
    """

    num_members: Callable[..., int]
    e_step: Callable[..., tuple[Any, Any]]
    expected: Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class EMSteps:
    """Closed-form EM for a model; every function is traced by JAX.

    All arguments named ``theta`` are dicts of parameter values on the constrained scale.

    Parameters
    ----------
    start
        ``start(key, **data) -> theta``: a random starting point (k-means for mixtures). Runs
        outside JAX transformations and may use any library.
    e_step
        ``e_step(theta, **data) -> (stats, log_likelihood)``: the expected sufficient statistics
        under p(z | y, theta), a pytree, and log p(y | theta) at the same theta.
    m_step
        ``m_step(stats, objective, **data) -> theta``: the maximiser of the expected complete-data
        log-likelihood, plus the log prior density when ``objective`` is ``"map"``.
    log_prior
        ``log_prior(theta, **data) -> float``: log p(theta), a density over the sites' own
        (constrained) parameterisation. ``None`` when only ``"mle"`` is available.
    collapse
        ``collapse(theta, **data) -> (measure, floor)``: positive quantities that go to zero when a
        component collapses or empties, and the values below which it has. A mapping name ->
        ``(array, floor)``.
    complete
        ``complete(theta, **data) -> values``: theta with whatever other sites follow from it, so
        that EM is comparable site by site with the other methods. The identity by default.
    partial
        The E-step for some of the members, for ``EM(num_blocks=...)``.
    summary
        ``summary(**data) -> {name: array}``: what all steps need of the data, such as a
        covariance, formed once a fit. Where it is given, ``e_step``, ``m_step``, ``log_prior``,
        ``collapse`` and ``complete`` are given it in place of the data. Not with ``partial``, whose
        steps take rows of the data.

    Raises
    ------
    ValueError
        For ``partial`` together with ``summary``.
    """

    start: Callable[..., dict[str, Any]]
    e_step: Callable[..., tuple[Any, Any]]
    m_step: Callable[..., dict[str, Any]]
    log_prior: Callable[..., Any] | None = None
    collapse: Callable[..., Mapping[str, tuple[Any, float]]] | None = None
    complete: Callable[..., dict[str, Any]] | None = None
    partial: PartialEStep | None = None
    summary: Callable[..., dict[str, Any]] | None = None

    def __post_init__(self) -> None:
        if self.partial is not None and self.summary is not None:
            raise ValueError(
                "EMSteps: got partial and summary, expected one of them: partial E-steps take rows "
                "of the data, which a summary stands in for"
            )


@dataclass(frozen=True, kw_only=True)
class VBSteps:
    """Closed-form coordinate-ascent VB for a conjugate model; ``step`` is traced by JAX.

    Arguments named ``eta`` are pytrees of the factors' parameters.

    Parameters
    ----------
    start
        ``start(key, **data) -> eta``: a random starting point. Runs outside JAX transformations.
    step
        ``step(eta, **data) -> (eta, elbo)``: every factor updated once, in turn, and the ELBO at
        one moment of the round, the same in every round.
    draws
        ``draws(key, eta, num_draws, **data) -> values``: draws from the factors, site -> array of
        shape ``(num_draws, *site shape)``, for all sites that are reported.
    diagnostics
        ``diagnostics(eta, **data) -> {name: number}``: what else is worth reporting, such as the
        effective number of components.
    """

    start: Callable[..., Any]
    step: Callable[..., tuple[Any, Any]]
    draws: Callable[..., dict[str, Any]]
    diagnostics: Callable[..., Mapping[str, Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A NumPyro model function with what a comparison needs to know of it.

    Parameters
    ----------
    function
        The NumPyro model. Its keyword arguments are the data.
    name
        Short name, as typed at the command line.
    data
        ``data() -> mapping``: the default data, as keyword arguments of ``function``.
    load
        ``load(path) -> mapping``: keyword arguments from a user's file. ``None`` reads JSON, CSV,
        Parquet or netCDF whose keys or columns are the keyword arguments themselves.
    simulate
        ``simulate(seed=0, ...) -> mapping``: keyword arguments drawn from the model's design.
    parameters, latents
        Names of the sites that are parameters theta and latent variables z. What is in neither is
        taken to be a parameter.
    dims
        Site name -> names of its dimensions, for ArviZ. Batch dimensions follow the plates where
        nothing is said.
    coords
        ``coords(**data) -> {dimension: labels}``, or the mapping itself.
    exchangeable
        Groups of sites subject to label switching.
    em
        Closed-form EM steps.
    vb
        Closed-form coordinate-ascent VB steps.
    options
        Method name -> options that suit this model better than the method's defaults, such as
        ``{"nuts": {"noncentered": ["u"]}}`` for groups with little data. Comparisons use them
        where the user says nothing, and reports show them.
    init
        ``init(key, **data) -> values``: a starting point on the constrained scale, for all latent
        sites or some. ``None`` starts from prior medians.
    description, citation
        One sentence, and the source with a DOI where it has one.
    rows_left_out
        How many rows of the data it does without, because values are missing.

    Raises
    ------
    ValueError
        For a field of another type.

    Examples
    --------
    >>> import numpyro, numpyro.distributions as dist
    >>> import vi_recipes as vr
    >>> def coin(y):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     with numpyro.plate("toss", len(y)):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> model = vr.Model(function=coin, name="coin")
    """

    function: Callable[..., Any]
    name: str
    data: Callable[[], Data] | None = None
    load: Callable[[Path], Data] | None = None
    simulate: Callable[..., Data] | None = None
    parameters: tuple[str, ...] = ()
    latents: tuple[str, ...] = ()
    dims: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coords: Callable[..., Mapping[str, Any]] | Mapping[str, Any] = field(default_factory=dict)
    exchangeable: tuple[Exchangeable, ...] = ()
    em: EMSteps | None = None
    vb: VBSteps | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    init: Callable[..., dict[str, Any]] | None = None
    description: str = ""
    citation: str = ""
    rows_left_out: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        require(bool(self.name.strip()), "name", self.name, "a short name")
        for group in self.exchangeable:
            require(
                isinstance(group, Exchangeable), "exchangeable", group, "a list of Exchangeable"
            )
        for what in (self.em, self.vb):
            kind = EMSteps if what is self.em else VBSteps
            require(isinstance(what, kind | None), kind.__name__, what, f"{kind.__name__} or None")
