"""Guides whose moments have no closed form: they are drawn from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpyro.infer import Predictive, autoguide

from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.normals import require_all
from vi_recipes.methods.guides.sites import places_of
from vi_recipes.posterior import DrawsPosterior, WeighedDraws

NUM_DRAWS = 4_000


def read_flow(guide: autoguide.AutoContinuous, fitted: FittedGuide) -> DrawsPosterior:
    """Return draws of a guide over one vector, with their log densities."""
    target = fitted.target
    with fitted.timing.running():
        # not sample_posterior, whose map to the constrained scale belongs to the guide's set-up
        q = guide.get_posterior(fitted.params)
        drawn, between = q.sample_with_intermediates(fitted.key, (NUM_DRAWS,))
        z = np.asarray(drawn, float)[:, np.argsort(places_of(guide, target))]
        draws = target.constrain(z)
        weighed = WeighedDraws(z, np.asarray(q.log_prob(drawn, between), float), draws)
        return DrawsPosterior(
            {n: v[None] for n, v in draws.items()}, independent=True, weighed=weighed
        )


def read_draws(guide: autoguide.AutoGuide, fitted: FittedGuide) -> DrawsPosterior:
    """Return draws of a guide that draws by itself."""
    with fitted.timing.running():
        drawn = guide.sample_posterior(fitted.key, dict(fitted.params), sample_shape=(NUM_DRAWS,))
        return _completed(drawn, fitted)


def read_function(guide: Any, fitted: FittedGuide) -> DrawsPosterior:
    """Return draws of a guide function, or of a list of guides.

    A list's own ``sample_posterior`` hands all its parts one key, which correlates them.
    """
    data = fitted.target.keywords(fitted.target.arrays())
    with fitted.timing.running():
        predictive = Predictive(guide, params=dict(fitted.params), num_samples=NUM_DRAWS)
        return _completed(predictive(fitted.key, **data), fitted)


def _completed(latents: Mapping[str, Any], fitted: FittedGuide) -> DrawsPosterior:
    """Return the posterior of draws of the latent sites."""
    require_all([s.name for s in fitted.target.latents if s.name not in latents])
    samples = {n: v[None] for n, v in fitted.target.complete(latents).items()}
    known = {name: np.asarray(value) for name, value in fitted.params.items()}
    return DrawsPosterior(samples, independent=True, params=known)
