"""The algebraic form of a site's log density in its inputs, found by probing the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vi_recipes.elbo.plan import Affine, Plan, subtract
from vi_recipes.model import Arrays, SiteTerm, Target, site_terms

NUM_SAMPLED = 16
"""Elements of a site at which its algebraic form is examined, at even distances, beside those at
which one of its inputs is smallest or largest: rows may be sorted by what makes them unlike."""


class _Form(NamedTuple):
    """How a site's log density depends on one of its inputs.

    Parameters
    ----------
    quadratic
        Whether it is a parabola in it.
    shifts
        Whether it stays the same where the site's value moves with it.
    """

    quadratic: bool
    shifts: bool


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

    def sampled(site: SiteTerm, plan: Plan) -> list[jax.Array]:
        shape = site.shape
        assert shape is not None
        whole = [jnp.broadcast_to(leaf, shape) for leaf in site.leaves]
        places = _sampled(shape, [] if target.spread else [*plan.constants.values(), plan.weight])
        few = [leaf.reshape(-1)[places] for leaf in whole]
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
            leaves = sampled(site, plan)
            affine = [s.leaf for s in plan.sources if isinstance(s, Affine)]

            def at(moves: dict[int, Any], site: SiteTerm = site, base: Any = leaves) -> Any:
                return site.rebuild([v + moves.get(j, 0.0) for j, v in enumerate(base)])

            # nearby, and far enough to see kinks and the far side of a saturated link
            wide = {j: 1 + jnp.abs(leaves[j]) for j in affine}
            cubes = {}
            for j in affine:

                def along(x: jax.Array, j: int = j, at: Any = at, width: Any = wide[j]) -> Any:
                    return jnp.stack([at({j: x}), at({j: 3 * width * x}), at({j: 30 * width * x})])

                # side by side: the density is compiled three times, and not twelve
                cubes[j] = jnp.moveaxis(jax.vmap(along)(jnp.array([-1.5, -0.5, 0.5, 1.5])), 0, 1)
            shifts = {j: jnp.stack([at({}), at({0: 0.7, j: 0.7})]) for j in affine if j != 0}
            out[plan.name] = (cubes, shifts)
        return out

    def found() -> dict[str, dict[int, _Form]]:
        z = jnp.asarray(point)
        compiled = compiler(forms, z, target.arrays(), calls=1)
        result = jax.tree.map(target.own, compiled(z, target.arrays()))
        return {n: {j: _form(j, *of_site) for j in of_site[0]} for n, of_site in result.items()}

    # the forms are the density's: whatever laws the inputs have
    asked = tuple(
        (p.name, tuple(s.leaf for s in p.sources if isinstance(s, Affine))) for p in wanted
    )
    known = target.compiled_once(("forms of sites", asked), found)
    for plan in wanted:
        for source in plan.sources:
            if isinstance(source, Affine):
                source.quadratic = known[plan.name][source.leaf].quadratic
        value = next((s for s in plan.sources if isinstance(s, Affine) and s.leaf == 0), None)
        for source in [s for s in plan.sources if isinstance(s, Affine) and s.leaf != 0]:
            same = known[plan.name][source.leaf].shifts
            if value is not None and same and value.minus is None:
                subtract(value, source)
                plan.sources.remove(source)


def _sampled(shape: tuple[int, ...], inputs: Sequence[np.ndarray]) -> Int[np.ndarray, " places"]:
    """Return elements that stand for all: some anywhere, and the extremes of every input."""
    size = int(np.prod(shape, dtype=int))
    places = np.linspace(0, size - 1, min(size, NUM_SAMPLED)).astype(int)
    ends = [
        pick(np.broadcast_to(values, shape))
        for values in inputs
        if np.size(values) > 1
        for pick in (np.argmin, np.argmax)
    ]
    # as many whatever the values are, so that one program serves other data of that shape
    return np.sort([*places, *map(int, ends)])


def _form(leaf: int, cubes: dict[int, np.ndarray], shifts: dict[int, np.ndarray]) -> _Form:
    """Return what the values of a site's density say of one of its inputs."""
    with np.errstate(invalid="ignore"):
        quadratic = all(
            bool(
                np.abs(v[3] - 3 * v[2] + 3 * v[1] - v[0]).max()
                <= 1e-10 * max(float(np.abs(v).max()), 1.0)
            )
            for v in cubes[leaf]
        )
    if leaf not in shifts:
        return _Form(quadratic, False)
    here, there = shifts[leaf]
    return _Form(
        quadratic, bool(np.abs(here - there).max() <= 1e-10 * max(np.abs(here).max(), 1.0))
    )
