"""A made-up posterior, fits of it and comparisons of them, without a model or a method."""

from __future__ import annotations

from typing import Any

import numpy as np

from vi_recipes.comparison.comparison import Comparison
from vi_recipes.core.status import Status
from vi_recipes.core.timing import Timing
from vi_recipes.fit.fit import Fit
from vi_recipes.fit.records import Provenance
from vi_recipes.importance.bounds import Bound, LogEvidence
from vi_recipes.model.sites import Site
from vi_recipes.posterior.base import Posterior
from vi_recipes.posterior.draws import DrawsPosterior, MomentsPosterior, PointPosterior


class World:
    """A made-up posterior over groups ``a`` and globals ``b`` and ``sigma``, and fits of it."""

    def __init__(self, groups: int = 10, labels: list[str] | None = None) -> None:
        self.sites = tuple(
            Site(name, "latent", shape, shape, plates, dims)
            for name, shape, plates, dims in (
                ("a", (groups,), (("group", groups, 0),), ("group",)),
                ("b", (2,), (), ("covariate",)),
                ("sigma", (), (), ()),
            )
        )
        self.coords = {
            "group": np.array(labels or [f"g{i}" for i in range(groups)]),
            "covariate": np.array(["x", "z"]),
        }
        self.rng = np.random.default_rng(1)
        size = groups + 3
        self.mean = self.rng.normal(1.0, 0.3, size)
        self.sd = self.rng.uniform(0.05, 0.2, size)

    def split(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return the last axis of ``values`` by site."""
        ends = np.cumsum([site.size for site in self.sites])
        return {
            site.name: np.asarray(values[..., end - site.size : end]).reshape(
                (*values.shape[:-1], *site.shape)
            )
            for site, end in zip(self.sites, ends, strict=True)
        }

    def fit(self, name: str, posterior: Posterior | None, **options: Any) -> Fit:
        defaults: dict[str, Any] = {
            "status": Status.OK,
            "sites": self.sites,
            "coords": self.coords,
            "timing": Timing(1.5, 0.25, 0, 1234, 0),
            "config": {"tolerance": 1e-4, "optimizer": None},
            "provenance": Provenance("toy", 7, "f00dfeed", "cpu:cpu", "float64", {"jax": "9.9"}),
        }
        return Fit(name, posterior=posterior, **{**defaults, **options})

    def gaussian(self, shift: float = 0.0, scale: float = 1.0) -> MomentsPosterior:
        order = tuple(site.name for site in self.sites)
        sd = scale * self.sd
        mean = self.mean + shift * self.sd
        return MomentsPosterior(self.split(mean), self.split(sd), np.diag(sd**2), order)

    def nuts(self, **options: Any) -> Fit:
        draws = self.rng.normal(self.mean, self.sd, (4, 250, self.mean.size))
        return self.fit(
            "nuts",
            DrawsPosterior(self.split(draws)),
            sample_stats={"diverging": np.zeros((4, 250), bool)},
            timing=Timing(5.0, 20.0, 0, 50_000, 0),
            diagnostics={"r_hat_max": 1.002, "ess_bulk_min": 900.0},
            **options,
        )

    def degenerate(self) -> Fit:
        return self.fit(
            "map",
            None,
            status=Status.DEGENERATE,
            message="sigma runs to 3e-11",
            advice="integrate the latent variables",
            trace={"log_density": np.arange(50.0), "log_density_step": np.arange(50)},
        )

    def svi(self, **options: Any) -> Fit:
        step = np.arange(0, 5_000, 10)
        elbo = -100 - 5_000 * np.exp(-step / 200) + self.rng.normal(size=step.size)
        return self.fit(
            "svi",
            self.gaussian(shift=0.9, scale=0.5),
            log_evidence=LogEvidence(-101.234, 0.05, Bound.LOWER, "ELBO"),
            trace={"elbo": elbo, "elbo_step": step},
            **options,
        )

    def em(self) -> Fit:
        trace = np.cumsum(self.rng.random((3, 40)) / np.arange(1, 41) ** 2, axis=1)
        trace[0, 30:] = np.nan  # that run was done earlier
        return self.fit(
            "em",
            PointPosterior(self.split(self.mean)),
            log_likelihood=-98.7654,
            trace={"log_likelihood": trace, "log_likelihood_step": np.arange(40)},
        )


def comparison(*fits: Fit, reference: str | None = "nuts", **options: Any) -> Comparison:
    named = {fit.method: fit for fit in fits}
    return Comparison(
        named,
        reference=named[reference] if reference else None,
        reference_name=reference,
        target_name="toy",
        **options,
    )
