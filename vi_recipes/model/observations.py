"""How many observations a model has, each as often as its weight says."""

from __future__ import annotations

import jax
import numpy as np
from numpyro import handlers
from numpyro.infer import init_to_uniform

from vi_recipes.core import COMPILED_QUICKLY
from vi_recipes.model.bound import Arrays
from vi_recipes.model.density import FlatDensity
from vi_recipes.model.weights import SiteWeights, weights_of


def weights_of_observations(target: FlatDensity) -> SiteWeights:
    """Return the weight of every observation, by site; one of many numbers is one."""

    def look(arrays: Arrays) -> dict[str, jax.Array]:
        model = handlers.seed(target.complete_model.function, jax.random.key(0))
        model = handlers.substitute(model, substitute_fn=init_to_uniform())
        with jax.numpy_rank_promotion("allow"):
            weights = weights_of(handlers.trace(model).get_trace(**target.keywords(arrays)))
        return {site.name: weights[site.name] for site in target.observed}

    found = jax.jit(look, compiler_options=COMPILED_QUICKLY)(target.arrays())
    return {name: np.asarray(weight) for name, weight in found.items()}
