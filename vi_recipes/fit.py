"""One result type for every method."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vi_recipes.posterior import DrawsPosterior, MomentsPosterior, Posterior, Sites, per_scalar
from vi_recipes.sites import Site, site_labels
from vi_recipes.status import FitError, Status
from vi_recipes.target import Target
from vi_recipes.timing import Timing

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

MAX_STORED_COV = 200
"""Up to this many scalars a fit's joint covariance is written out in full."""

NUM_STORED_DRAWS = 2_000
"""Draws written for approximations that can give any number."""

NUM_POINT_DRAWS = 4
"""Copies of a point that stand for its draws: as few as ArviZ summarises."""


@dataclass(frozen=True)
class LogEvidence:
    """An estimate of, or bound on, log p(y).

    Parameters
    ----------
    value
        In nats.
    se
        Monte Carlo standard error, or the numerical error of a quadrature; 0 when there is none.
    kind
        What it is, in words: ``"Laplace approximation"``, ``"lower bound (ELBO)"``.
    """

    value: float
    se: float
    kind: str


@dataclass(frozen=True)
class Provenance:
    """Where a fit came from; recorded in every report."""

    model: str = ""
    seed: int | None = None
    data_fingerprint: str = ""
    device: str = ""
    dtype: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """The result of one method on one target.

    Every mean, sd and covariance is on the constrained scale, as the model names its sites; where
    a method returns a point, ``mean()`` is that point and ``sd()`` is NaN. A fit whose status says
    it has no result raises :class:`FitError` when its numbers are asked for.

    Parameters
    ----------
    method
        Name of the fit within its comparison.
    kind
        Name of the method itself, such as ``"svi"``.
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
    provenance
        Seed, versions, device, dtype, data fingerprint.
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
    provenance: Provenance = field(default_factory=Provenance)
    kind: str = ""

    # -- moments -------------------------------------------------------------------------------

    def _known(self) -> Posterior:
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

    def mean(self) -> Sites:
        """Return the means by site, constrained scale (the mode or maximiser, for a point)."""
        return self._known().mean()

    def sd(self) -> Sites:
        """Return the standard deviations by site, constrained scale; NaN for a point."""
        return self._known().sd()

    def mcse(self) -> Sites:
        """Return the Monte Carlo standard errors of :meth:`mean` by site."""
        return self._known().mcse_mean()

    def mcse_sd(self) -> Sites:
        """Return the Monte Carlo standard errors of :meth:`sd` by site."""
        return self._known().mcse_sd()

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
        return pd.DataFrame(self._known().cov(names), index=labels, columns=labels)

    def draws(self, num_draws: int, key: jax.Array | int = 0) -> Sites:
        """Return draws by site, shape (num_draws, *site shape), constrained scale.

        An approximation draws afresh; a sampler's draws are picked at random from its own.
        """
        return self._known().draws(num_draws, as_key(key))

    def labels(self, sites: Sequence[str] | None = None, *, coords: bool = True) -> list[str]:
        """Return the labels of the scalars of ``sites``, by coordinate or by zero-based index."""
        by_name = {s.name: s for s in self.sites}
        table = self.coords if coords else None
        return [label for n in self._names(sites) for label in site_labels(by_name[n], table)]

    def flat(self, values: Mapping[str, np.ndarray], sites: Sequence[str] | None = None) -> Any:
        """Return site values as one vector, in the order of :meth:`labels`."""
        names = self._names(sites)
        return np.concatenate([np.ravel(values[n]) for n in names]) if names else np.empty(0)

    def _names(self, sites: Sequence[str] | None) -> list[str]:
        known = [s.name for s in self.sites]
        if sites is None:
            return known
        names = [sites] if isinstance(sites, str) else list(sites)
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
        samples = self._samples()
        return {
            "ess_bulk": per_scalar("ess", samples, method="bulk"),
            "ess_tail": per_scalar("ess", samples, method="tail"),
            "r_hat": per_scalar("rhat", samples),
        }

    @property
    def is_sampler(self) -> bool:
        """Whether the draws come from Markov chains."""
        return bool(self.sample_stats) and self.has_result

    def _samples(self, key: int = 0) -> Sites:
        """Return draws shaped (chain, draw, *site shape)."""
        posterior = self._known()
        kept = getattr(posterior, "samples", None)
        if kept is not None:
            return dict(kept)
        is_point = all(np.isnan(sd).all() for sd in posterior.sd().values())
        num_draws = NUM_POINT_DRAWS if is_point else NUM_STORED_DRAWS
        return {n: v[None] for n, v in self.draws(num_draws, key).items()}

    # -- exchange ------------------------------------------------------------------------------

    def to_arviz(self) -> xr.DataTree:
        """Return an ArviZ ``DataTree``.

        The group ``posterior`` has dimensions chain and draw: the chains of a sampler, or one
        chain of independent draws. ``sample_stats`` is there for samplers. Attributes carry
        method, status, seed and versions.
        """
        import arviz_base as az

        try:
            samples = self._samples()
        except ValueError:  # moments without draws
            samples = {n: v[None, None] for n, v in self.mean().items()}
        groups: dict[str, Any] = {"posterior": samples}
        if self.sample_stats:
            groups["sample_stats"] = dict(self.sample_stats)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one chain is what an approximation has
            tree = az.from_dict(
                groups,
                dims={s.name: list(s.dims) for s in self.sites},
                coords=dict(self.coords),
            )
        attributes = {
            "inference_library": "vi_recipes",
            "method": self.method,
            "status": self.status.name,
            "model": self.provenance.model,
            "seed": -1 if self.provenance.seed is None else self.provenance.seed,
            "versions": json.dumps(dict(self.provenance.versions)),
        }
        tree.attrs.update(attributes)
        tree["posterior"].attrs.update(attributes)
        return tree

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file that ArviZ reads and :meth:`load` restores; return its path.

        Draws, moments, traces and everything else are kept. The joint covariance is kept up to
        200 scalars; beyond that a loaded fit computes covariances from its draws.
        """
        import xarray as xr

        tree = self.to_arviz() if self.has_result else xr.DataTree()
        if self.has_result:
            moments = {
                "mean": self.mean(),
                "sd": self.sd(),
                "mcse_mean": self.mcse(),
                "mcse_sd": self.mcse_sd(),
            }
            dims = {s.name: s.dims for s in self.sites}
            for group, values in moments.items():
                data = {n: (dims[n], np.asarray(v)) for n, v in values.items()}
                tree[group] = xr.DataTree(xr.Dataset(data))
            size = sum(s.size for s in self.sites)
            if size <= MAX_STORED_COV:
                frame = self.cov()
                axes = ("parameter", "parameter_bis")
                tree["covariance"] = xr.DataTree(
                    xr.Dataset({"covariance": (axes, frame.to_numpy())})
                )
        for group, arrays in (("trace", self.trace), ("latents", self.latents)):
            if arrays:
                tree[group] = xr.DataTree(
                    xr.Dataset(
                        {
                            n: (tuple(f"{n}_{i or 'index'}" for i in range(np.ndim(v))), v)
                            for n, v in arrays.items()
                        }
                    )
                )
        tree.attrs["vi_recipes_fit"] = json.dumps(self._header(), default=_plain)
        path = Path(path)
        # whole or not at all: an interrupt leaves no half a file, and readers keep the old one
        partial = path.with_name(f".{path.name}.partial")
        tree.to_netcdf(partial, engine="h5netcdf")
        partial.replace(path)
        return path

    def _header(self) -> dict[str, Any]:
        return {
            "method": self.method,
            "kind": self.kind,
            "status": self.status.name,
            "message": self.message,
            "advice": self.advice,
            "config": dict(self.config),
            "sites": [asdict(s) for s in self.sites],
            "coords": {name: np.asarray(v).tolist() for name, v in self.coords.items()},
            "timing": self.timing.to_dict(),
            "diagnostics": dict(self.diagnostics),
            "log_evidence": asdict(self.log_evidence) if self.log_evidence else None,
            "log_likelihood": self.log_likelihood,
            "provenance": asdict(self.provenance),
        }

    @classmethod
    def load(cls, path: str | Path) -> Fit:
        """Read a fit written by :meth:`save`.

        Raises
        ------
        ValueError
            If the file is not such a fit.
        """
        import xarray as xr

        try:
            tree = xr.load_datatree(path, engine="h5netcdf")
            header = json.loads(tree.attrs["vi_recipes_fit"])
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: not a fit saved by vi_recipes ({error})") from None
        sites = tuple(
            Site(
                **{
                    **s,
                    **{
                        k: _tuples(s[k]) for k in ("shape", "unconstrained_shape", "plates", "dims")
                    },
                }
            )
            for s in header["sites"]
        )
        evidence = header["log_evidence"]
        return cls(
            method=header["method"],
            status=Status[header["status"]],
            message=header["message"],
            advice=header["advice"],
            config=header["config"],
            sites=sites,
            coords={name: np.asarray(v) for name, v in header["coords"].items()},
            posterior=_load_posterior(tree, sites),
            timing=Timing(**header["timing"]),
            trace=_load_group(tree, "trace"),
            diagnostics={
                k: float("nan") if v is None else v for k, v in header["diagnostics"].items()
            },
            log_evidence=LogEvidence(**evidence) if evidence else None,
            log_likelihood=header["log_likelihood"],
            sample_stats=_load_group(tree, "sample_stats"),
            latents=_load_group(tree, "latents"),
            provenance=Provenance(**header["provenance"]),
            kind=header["kind"],
        )

    def renamed(self, method: str) -> Fit:
        """Return the fit under another name."""
        return replace(self, method=method)

    def _repr_html_(self) -> str:
        title = f"<b>{self.method}</b>: {self.explanation}"
        return title + (str(self.summary().to_html()) if self.has_result else "")

    def __repr__(self) -> str:
        return (
            f"Fit({self.method!r}, {self.status.name}, "
            f"{self.timing.total_seconds:.2f} s: {self.explanation})"
        )


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return a JAX random key from a key, an integer seed or ``None`` (seed 0)."""
    if key is None or isinstance(key, int | np.integer):
        return jax.random.key(0 if key is None else int(key))
    return key


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Run a block in ``"float32"`` or ``"float64"``, leaving the caller's setting as it was."""
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: got {dtype!r}, expected 'float32' or 'float64'")
    with jax.enable_x64(dtype == "float64"):
        yield


def provenance(target: Target, *, seed: int | None, dtype: str) -> Provenance:
    """Return the record of where a fit of ``target`` comes from."""
    from importlib.metadata import version

    device = jax.devices()[0]
    packages = ("numpyro", "jax", "jaxlib", "numpy", "arviz")
    return Provenance(
        model=target.name,
        seed=seed,
        data_fingerprint=target.fingerprint,
        device=f"{device.platform}:{device.device_kind}",
        dtype=dtype,
        versions={"vi_recipes": version("vi_recipes"), **{p: version(p) for p in packages}},
    )


def _load_posterior(tree: xr.DataTree, sites: tuple[Site, ...]) -> Posterior | None:
    if "mean" not in tree.children:
        return None
    samples = _load_group(tree, "posterior")
    if "sample_stats" in tree.children:
        return DrawsPosterior(samples)
    covariance = _load_group(tree, "covariance").get("covariance")
    return MomentsPosterior(
        means=_load_group(tree, "mean"),
        sds=_load_group(tree, "sd"),
        covariance=covariance,
        order=tuple(s.name for s in sites),
        mcse_means=_load_group(tree, "mcse_mean"),
        mcse_sds=_load_group(tree, "mcse_sd"),
        samples=samples,
    )


def _load_group(tree: xr.DataTree, group: str) -> dict[str, np.ndarray]:
    if group not in tree.children:
        return {}
    return {str(n): np.asarray(v) for n, v in tree[group].to_dataset().data_vars.items()}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
