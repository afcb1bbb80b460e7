"""One result type for every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, override

import numpy as np

from vi_recipes.core import check_arguments
from vi_recipes.fit import stored
from vi_recipes.fit.arviz import to_tree
from vi_recipes.fit.draws import plain_draws
from vi_recipes.fit.fitted import Fitted
from vi_recipes.fit.intervals import interval_setting, intervals
from vi_recipes.fit.population import population
from vi_recipes.fit.records import MAX_STORED_COV
from vi_recipes.fit.tails import doubted, quantiles, unsettled
from vi_recipes.model import Target

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True, repr=False)
class Fit(Fitted):
    """The result of one method on one target.

    Every mean, sd and covariance is on the constrained scale, as the model names its sites; where
    a method returns a point, ``mean()`` is that point and ``sd()`` is NaN. A fit whose status says
    it has no result raises :class:`FitError` when its numbers are asked for.

    Parameters
    ----------
    method
        Name of the fit within its comparison.
    kind
        Key of the method itself, as at the command line, such as ``"lrvb"``.
    status
        How it ended.
    message, advice
        What happened, and what to try.
    config
        The method's options.
    sites
        The reported sites, latent then deterministic.
    coords
        Dimension name -> labels.
    posterior
        What is known of the posterior; ``None`` when the fit has no result.
    timing
        Seconds and evaluation counts.
    trace
        Name -> series over iterations, such as ``"elbo"`` beside ``"elbo_step"``.
    diagnostics
        Name -> number, convergence measures of the method.
    log_evidence, log_likelihood
        log p(y) and the maximised log-likelihood, where the method gives them.
    sample_stats
        Sampler statistics, shaped (chain, draw), named as ArviZ names them.
    latents
        What EM and the marginal likelihood know of the latent variables at the estimate, theta held
        there: ``u_mean`` and ``u_sd`` on the unconstrained scale, or ``z_probability``, members by
        states.
    other_optimum
        What another start found apart from the fit, in another part of the posterior.
    assessment
        What its own draws say of how far it can be trusted; ``None`` if they were not asked.
    provenance
        Seed, versions, device, dtype, data fingerprint.
    """

    def __getitem__(self, site: str) -> np.ndarray:
        """Return draws of one site, shape ``(num_draws, *site shape)``, constrained scale.

        All that a sampler has, its chains end to end; 2,000 of an approximation, always the same;
        four copies of a point.

        Raises
        ------
        ValueError
            For a site that the fit does not have.
        """
        (name,) = self._names([site])
        values = plain_draws(self).samples[name]
        return values.reshape(-1, *values.shape[2:])

    @override
    @check_arguments("sites", "members")
    def summary(
        self, sites: Sequence[str] | None = None, *, members: bool | None = None
    ) -> pd.DataFrame:
        """Return mean, sd, interval, Monte Carlo error, and for a sampler ESS and R-hat, by scalar.

        The interval is of the kind and level that ArviZ is set to, as are its columns' names:
        ``arviz.rcParams["stats.ci_kind"]`` and ``["stats.ci_prob"]``. Where by a sampler's draws
        there is no mean or sd, these are NaN. There, and where the weights that correct an
        approximation say it of the posterior, are columns ``q5``, ``median`` and ``q95``.

        Parameters
        ----------
        sites
            Which; by default all, or those of the population where there are more than 200 scalars.
        members
            Whether the members of groups are there too, where no sites are named.
        """
        if sites is None and (
            members is False
            or (members is None and sum(site.size for site in self.sites) > MAX_STORED_COV)
        ):
            sites = population(self.sites)
        table = super().summary(sites)
        for place, (column, values) in enumerate(
            zip(interval_setting().columns, intervals(self, list(self._names(sites))), strict=True)
        ):
            table.insert(2 + place, column, values)
        lost = unsettled(self)
        named = lost | doubted(self)
        if rows := [label for label in table.index if label in named]:
            labels = self.labels()
            found = quantiles(self, np.array([labels.index(label) for label in rows]))
            table.loc[table.index.isin(list(lost)), ["mean", "sd", "mcse_mean"]] = np.nan
            for column, values in (
                ("q5", found.low),
                ("median", found.median),
                ("q95", found.high),
            ):
                table.loc[rows, column] = values
        return table

    @check_arguments("log_likelihood", "posterior_predictive")
    def to_arviz(
        self,
        target: Target | None = None,
        *,
        log_likelihood: bool = False,
        posterior_predictive: bool = False,
        num_draws: int | None = None,
    ) -> xr.DataTree:
        """Return an ArviZ ``DataTree``.

        The group ``posterior`` has dimensions chain and draw: the chains of a sampler, or one
        chain of independent draws. ``sample_stats`` is there for samplers. Attributes carry
        method, status, seed and versions. A point is four equal draws, of which ArviZ rightly says,
        where it would draw a density, that they are a single value.

        Parameters
        ----------
        target
            The model with its data. With it there is a group ``observed_data``, and the
            ``sample_stats`` of an approximation with a density are ``log_p`` and ``log_q``, over
            the unconstrained scale, as :func:`arviz.loo_approximate_posterior` takes them.
        log_likelihood, posterior_predictive
            Whether to have these groups, at the draws of ``posterior`` (see
            :func:`vi_recipes.log_likelihood` and :func:`vi_recipes.posterior_predictive`).
        num_draws
            Draws, at most, in all groups; of those that a fit holds every k-th is taken. By
            default all of a sampler's and 2,000 of others, or with ``target`` as many as take
            256 MiB.

        Raises
        ------
        ValueError
            For groups that need a target without one, a target that is not the fit's, or what it
            does not have.
        FitError
            For a fit without a result.
        """
        return to_tree(
            self,
            target,
            log_likelihood=log_likelihood,
            posterior_predictive=posterior_predictive,
            num_draws=num_draws,
        )

    @check_arguments("path")
    def save(self, path: str | Path) -> Path:
        """Write a netCDF file that ArviZ reads and :meth:`load` restores; return its path.

        Its folder is made if need be.
        Draws, moments, traces and everything else are kept. The joint covariance is kept up to
        200 scalars; beyond that a loaded fit computes covariances from its draws. Up to 262 scalars
        an approximation's file has draws with their density too, by which a loaded fit can be
        assessed again.
        """
        return stored.save(self, Path(path))

    @classmethod
    @check_arguments("path")
    def load(cls, path: str | Path) -> Fit:
        """Read a fit written by :meth:`save`.

        Raises
        ------
        ValueError
            If the file is not such a fit.
        """
        return cls(**stored.read(path))
