"""The record of a fit and its moments: what lower parts take for a fit."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from vi_recipes.core import (
    FitError,
    MadeOnce,
    Status,
    Timing,
    as_key,
    as_names,
    check_arguments,
    one_at_a_time,
    require_by_site,
    require_count,
    visible,
)
from vi_recipes.fit.records import MAX_STORED_COV, Assessment, OtherOptimum, Provenance
from vi_recipes.importance import LogEvidence
from vi_recipes.model import Site, Sites, labels_by_site
from vi_recipes.posterior import Posterior, held_draws, per_scalar

if TYPE_CHECKING:
    import pandas as pd


MOST_ROWS = 12
"""Parameters that a notebook shows of a fit."""


@dataclass(frozen=True)
class Fitted:
    """The result of one method on one target: the record, and the moments in it.

    Its fields are explained where users meet them, in :class:`~vi_recipes.fit.fit.Fit`, which adds
    what is made of a whole fit: an ArviZ tree and a file.
    """

    method: str
    status: Status
    message: str = ""
    advice: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    sites: tuple[Site, ...] = ()
    coords: Mapping[str, np.ndarray] = field(default_factory=dict)
    posterior: Posterior | None = None
    timing: Timing = field(default_factory=Timing)
    trace: Mapping[str, np.ndarray] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    log_evidence: LogEvidence | None = None
    log_likelihood: float | None = None
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    latents: Mapping[str, np.ndarray] = field(default_factory=dict)
    other_optimum: OtherOptimum | None = None
    assessment: Assessment | None = None
    provenance: Provenance = field(default_factory=Provenance)
    kind: str = ""

    # -- moments -------------------------------------------------------------------------------

    def known_posterior(self) -> Posterior:
        """Return what is known of the posterior; raise :class:`FitError` if nothing is."""
        if self.posterior is None or not self.status.has_result:
            raise FitError(self.status, f"fit '{self.method}' has no numbers: {self.explanation}")
        return self.posterior

    @property
    def has_result(self) -> bool:
        """Whether the fit has numbers to show."""
        return self.posterior is not None and self.status.has_result

    @property
    def explanation(self) -> str:
        """The status, what happened and what to try, as sentences."""
        reason = f": {self.message.rstrip('.')}" if self.message else ""
        cure = f". {self.advice[0].upper()}{self.advice[1:].rstrip('.')}" if self.advice else ""
        return f"{self.status.value}{reason}{cure}"

    def once[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` makes of the fit, made when ``key`` is first asked for."""
        return self._made(key, make)

    @cached_property
    def _made(self) -> MadeOnce:
        """Moments and labels, which tables, figures and files ask for again and again."""
        return MadeOnce()

    @one_at_a_time
    def _moment(self, what: str) -> Sites:
        values: Sites = self._made(what, getattr(self.known_posterior(), what))
        return {name: value.copy() for name, value in values.items()}  # a caller may write to it

    def mean(self) -> Sites:
        """Return the means by site, constrained scale (the mode or maximiser, for a point)."""
        return self._moment("mean")

    def sd(self) -> Sites:
        """Return the standard deviations by site, constrained scale; NaN for a point."""
        return self._moment("sd")

    def mcse(self) -> Sites:
        """Return the Monte Carlo standard errors of :meth:`mean` by site."""
        return self._moment("mcse_mean")

    def mcse_sd(self) -> Sites:
        """Return the Monte Carlo standard errors of :meth:`sd` by site."""
        return self._moment("mcse_sd")

    def cov(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the joint covariance of the scalars of ``sites``, constrained scale.

        Parameters
        ----------
        sites
            Site names, in the order wanted; all reported sites by default.

        Returns
        -------
        pandas.DataFrame
            Square, labelled on both axes as ArviZ labels scalars.
        """
        import pandas as pd

        names = self._names(sites)
        labels = self.labels(names)
        return pd.DataFrame(self._cov(names), index=labels, columns=labels)

    @one_at_a_time
    def _cov(self, names: Sequence[str]) -> np.ndarray:
        """Return the joint covariance of the scalars of sites, of which a small one is kept."""
        posterior = self.known_posterior()
        sizes = {site.name: site.size for site in self.sites}
        if sum(sizes.values()) <= MAX_STORED_COV:  # that of some sites is part of that of all
            whole = self._made("cov", lambda: posterior.cov(list(sizes)))
            starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]), strict=False))
            rows = [starts[name] + np.arange(sizes[name]) for name in names]
            taken = np.concatenate(rows) if rows else np.zeros(0, int)
            return np.array(whole[np.ix_(taken, taken)])
        if sum(sizes[name] for name in names) > MAX_STORED_COV:
            return posterior.cov(names)
        return np.array(self._made(("cov", *names), lambda: posterior.cov(names)))

    @check_arguments("num_draws")
    @one_at_a_time
    def draws(self, num_draws: int, key: jax.Array | int = 0) -> Sites:
        """Return draws by site, shape ``(num_draws, *site shape)``, constrained scale.

        An approximation draws afresh; a sampler's draws are picked at random from its own.
        """
        require_count("num_draws", num_draws)
        return self.known_posterior().draws(num_draws, as_key(key))

    def labels(self, sites: Sequence[str] | None = None, *, coords: bool = True) -> list[str]:
        """Return the labels of the scalars of ``sites``, by coordinate or by zero-based index."""
        names = self._names(sites)

        def make() -> dict[str, list[str]]:
            return labels_by_site(self.sites, self.coords if coords else None)

        table = self._made(("labels", coords), make)
        return [label for name in names for label in table[name]]

    def flat(self, values: Mapping[str, np.ndarray], sites: Sequence[str] | None = None) -> Any:
        """Return site values as one vector, in the order of :meth:`labels`."""
        names = self._names(sites)
        require_by_site(values)
        if lost := [name for name in names if name not in values]:
            raise ValueError(f"values: none of {', '.join(lost)}, expected one of every site")
        return np.concatenate([np.ravel(values[n]) for n in names]) if names else np.empty(0)

    def _names(self, sites: Sequence[str] | None) -> list[str]:
        known = [s.name for s in self.sites]
        if sites is None:
            return known
        names = as_names("sites", sites)
        if unknown := [n for n in names if n not in known]:
            raise ValueError(
                f"unknown site(s) {', '.join(unknown)}; fit '{self.method}' has {', '.join(known)}"
            )
        return names

    def summary(self, sites: Sequence[str] | None = None) -> pd.DataFrame:
        """Return mean, sd, Monte Carlo error, and for a sampler ESS and R-hat, by scalar."""
        import pandas as pd

        names = self._names(sites)
        columns = {
            "mean": self.mean(),
            "sd": self.sd(),
            "mcse_mean": self.mcse(),
            **self.convergence(),
        }
        return pd.DataFrame(
            {key: self.flat(values, names) for key, values in columns.items()},
            index=self.labels(names),
        )

    def convergence(self) -> dict[str, Sites]:
        """Return ``ess_bulk``, ``ess_tail`` and ``r_hat`` by site; empty unless a sampler's.

        Independent draws have no such diagnostics: they would say nothing.
        """
        if not self.is_sampler:
            return {}
        samples = held_draws(self.known_posterior()) or {}
        return {
            "ess_bulk": per_scalar("ess", samples, method="bulk"),
            "ess_tail": per_scalar("ess", samples, method="tail"),
            "r_hat": per_scalar("rhat", samples),
        }

    @property
    def is_sampler(self) -> bool:
        """Whether the draws come from Markov chains."""
        return bool(self.sample_stats) and self.has_result

    @property
    def stated_error(self) -> float | None:
        """The largest error of its means and sds, in posterior sds, that the fit states itself.

        Nested quadrature does; ``None`` of other fits.
        """
        return self.diagnostics.get("largest_error") if self.has_result else None

    @property
    def is_point(self) -> bool:
        """Whether it is a point, without any spread."""
        return self.has_result and all(np.isnan(sd).all() for sd in self.sd().values())

    @check_arguments("method")
    def renamed(self, method: str) -> Self:
        """Return the fit under another name."""
        return replace(self, method=method)

    def _repr_html_(self) -> str:
        said = escape(visible(self.explanation), quote=False)
        title = f"<p><b>{escape(visible(self.method))}</b>: {said}</p>"
        if not self.has_result:
            return title
        small = [site.name for site in self.sites if site.size <= MOST_ROWS]
        table = self.summary(small or [self.sites[0].name])[:MOST_ROWS]
        more = sum(site.size for site in self.sites) - len(table)
        rest = f"<p>{more:,} more parameters in summary()</p>" if more else ""
        return title + str(table.rename(index=visible).to_html()) + rest

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.method!r}, {self.status.name}, "
            f"{self.timing.total_seconds:.2f} s: {self.explanation})"
        )
