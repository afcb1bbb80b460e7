"""Whether the coordinates of local sites are independent given all others."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.model import Arrays, Target

COUPLED = 1e-6
"""Relative size of what is off the Hessian's diagonal beyond which it is not rounding."""


def coupled(target: Target, names: Sequence[str]) -> str | None:
    """Return why sites have no optimum coordinate by coordinate; ``None`` where they have.

    The Hessian of the log density in them is to be diagonal: its product with random signs is then
    that with ones, times the signs.

    Parameters
    ----------
    target
        The model.
    names
        The sites.
    """
    places = np.concatenate([np.arange(target.dim)[target.slices[name]] for name in names])

    def products(z: jax.Array, signs: jax.Array, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        def slope(local: jax.Array) -> jax.Array:
            def density(v: jax.Array) -> jax.Array:
                return target.log_density_fn(z.at[places].set(v), arrays)

            return jax.grad(density)(local)

        ones = jnp.ones(len(places))
        along = [jax.jvp(slope, (z[places],), (v,))[1] for v in (ones, signs)]
        return along[0], along[1]

    def look() -> str | None:
        rng = np.random.default_rng(6)
        with jax.enable_x64(True):
            z = target.start(jax.random.key(0)) + 0.1 * rng.standard_normal(target.dim)
            signs = rng.choice([-1.0, 1.0], len(places))
            diagonal, product = (
                np.asarray(v)
                for v in jax.jit(products)(jnp.asarray(z), jnp.asarray(signs), target.arrays())
            )
        with np.errstate(all="ignore"):
            off = np.abs(product - signs * diagonal).max() / np.abs(diagonal).max()
        if off <= COUPLED:
            return None
        return (
            f"guide: the coordinates of {', '.join(names)} are not independent given the other "
            f"sites (relative coupling {off:.2g}), so none has an optimum of its own: use "
            "'conditional_normal', or 'multivariate_normal' for all sites"
        )

    return target.compiled_once(("coupled", tuple(names)), look)
