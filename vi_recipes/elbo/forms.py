"""The algebraic form of a site's log density in its inputs, found by probing the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.elbo.plan import Affine, Plan, subtract
from vi_recipes.model import Arrays, SiteTerm, Target, site_terms

NUM_SAMPLED = 16
"""Elements of a site at which its algebraic form is examined."""


def note_forms(
    target: Target,
    plans: list[Plan],
    point: Float[np.ndarray, " dim"],
    compiler: Callable[..., Callable[..., Any]],
) -> None:
    """Find the sites that are quadratic in a source, and those that only know a difference."""
    wanted = [p for p in plans if any(isinstance(s, Affine) for s in p.sources)]
    if not wanted:
        return

    def sampled(site: SiteTerm) -> list[jax.Array]:
        shape = site.shape
        assert shape is not None
        whole = [jnp.broadcast_to(leaf, shape) for leaf in site.leaves]
        few = [leaf.reshape(-1)[:NUM_SAMPLED] for leaf in whole]
        try:
            made = jax.eval_shape(site.rebuild, few).shape
        except (TypeError, ValueError):
            return whole  # a distribution that holds on to the shape it was made with
        return few if made == few[0].shape else whole

    def forms(z: jax.Array, arrays: Arrays) -> dict[str, Any]:
        traced = site_terms(target, z, arrays)
        out = {}
        for plan in wanted:
            site = traced[plan.name]
            leaves = sampled(site)  # a subset of the elements, where the distribution allows one
            affine = [s.leaf for s in plan.sources if isinstance(s, Affine)]

            def at(moves: dict[int, Any], site: SiteTerm = site, base: Any = leaves) -> Any:
                return site.rebuild([v + moves.get(j, 0.0) for j, v in enumerate(base)])

            # nearby, and far enough to see kinks and the far side of a saturated link
            wide = {j: 1 + jnp.abs(leaves[j]) for j in affine}
            cubes = {
                j: jnp.stack(
                    [
                        jnp.stack([at({j: x * width}) for x in (-1.5, -0.5, 0.5, 1.5)])
                        for width in (1.0, 3 * wide[j], 30 * wide[j])
                    ]
                )
                for j in affine
            }
            shifts = {j: jnp.stack([at({}), at({0: 0.7, j: 0.7})]) for j in affine if j != 0}
            out[plan.name] = (cubes, shifts)
        return out

    z = jnp.asarray(point)
    compiled = compiler(forms, z, target.arrays(), calls=1)
    result = jax.tree.map(target.own, compiled(z, target.arrays()))
    for plan in wanted:
        cubes, shifts = result[plan.name]
        for source in plan.sources:
            if isinstance(source, Affine):
                with np.errstate(invalid="ignore"):
                    source.quadratic = all(
                        bool(
                            np.abs(v[3] - 3 * v[2] + 3 * v[1] - v[0]).max()
                            <= 1e-10 * max(float(np.abs(v).max()), 1.0)
                        )
                        for v in cubes[source.leaf]
                    )
        value = next((s for s in plan.sources if isinstance(s, Affine) and s.leaf == 0), None)
        for source in [s for s in plan.sources if isinstance(s, Affine) and s.leaf != 0]:
            here, there = shifts[source.leaf]
            same = np.abs(here - there).max() <= 1e-10 * max(np.abs(here).max(), 1.0)
            if value is not None and same and value.minus is None:
                subtract(value, source)
                plan.sources.remove(source)
