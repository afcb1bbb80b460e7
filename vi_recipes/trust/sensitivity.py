"""How the means of a fit answer to the data and the prior: from one factorisation, no refits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import as_names, check_arguments, one_at_a_time
from vi_recipes.elbo import KL
from vi_recipes.fit import Fit
from vi_recipes.posterior import ResponsePosterior

if TYPE_CHECKING:
    import pandas as pd


@check_arguments("fit", "sites", "observed")
@one_at_a_time
def case_sensitivity(
    fit: Fit,
    sites: Sequence[str] | None = None,
    *,
    observed: str | None = None,
    by: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return the derivative of every mean in the weight of every case, constrained scale.

    Leaving a case out changes a mean by about minus its derivative.

    Parameters
    ----------
    fit
        A fit by :class:`LinearResponse`, made in this process.
    sites
        Whose means; default all parameters that are not in the local plate.
    observed
        The observed site whose elements are the cases; may be left out where there is one.
    by
        Group of every case; derivatives are then added up by group, for leaving groups out.

    Returns
    -------
    DataFrame
        One row per case (C order) or group, one column per scalar.

    Raises
    ------
    ValueError
        For a fit without linear response, or a site it does not have.

    References
    ----------
    Giordano, R., Broderick, T. and Jordan, M. I. (2018). Covariances, robustness, and variational
    Bayes. JMLR 19(51), section 2. https://jmlr.org/papers/v19/17-670.html
    """
    import pandas as pd

    posterior, kl = _response(fit)
    target = posterior.target
    names = [site.name for site in target.observed]
    if observed is None and len(names) == 1:
        observed = names[0]
    if observed not in names:
        raise ValueError(f"observed: got {observed!r}, expected one of {', '.join(names)}")
    labels, directions = _directions(posterior, sites)
    name = observed

    def along(flat: jax.Array, directions: jax.Array) -> jax.Array:
        held = kl.held

        def elements(flat: jax.Array) -> jax.Array:
            return jnp.ravel(kl.expectation.elements(name, flat.reshape(-1, 2), held))

        return jax.lax.map(lambda d: jax.jvp(elements, (flat,), (d,))[1], directions)

    with jax.enable_x64(True):
        flat = jnp.asarray(posterior.eta.ravel())
        slopes = np.asarray(jax.jit(along)(flat, jnp.asarray(directions)))
    table = pd.DataFrame(slopes.T, columns=labels)
    table.index.name = observed
    if by is None:
        return table
    groups = np.ravel(by)
    if groups.size != len(table):
        raise ValueError(f"by: got {groups.size} groups, expected one for each of {len(table)}")
    return table.groupby(groups).sum().rename_axis("group")


@check_arguments("fit", "argument", "sites")
@one_at_a_time
def data_sensitivity(fit: Fit, argument: str, sites: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the derivative of every mean in the entries of an argument of the model.

    A prior's hyperparameter is such an argument when the model takes it as one.

    Parameters
    ----------
    fit
        A fit by :class:`LinearResponse`, made in this process.
    argument
        An argument of the model function that holds floating-point numbers, as an array (a number
        given as ``np.asarray(3.0)``).
    sites
        Whose means; default all parameters that are not in the local plate.

    Returns
    -------
    DataFrame
        One row per entry of the argument (C order), one column per scalar.

    Raises
    ------
    ValueError
        For a fit without linear response, or an argument that is not such an array.
    """
    import pandas as pd

    posterior, kl = _response(fit)
    target = posterior.target
    labels, directions = _directions(posterior, sites)
    place = target.place_of(argument)
    arrays = target.arrays()

    def along(flat: jax.Array, direction: jax.Array, value: jax.Array) -> jax.Array:
        def slope(value: jax.Array) -> jax.Array:
            changed = (*arrays[:place], value, *arrays[place + 1 :])
            held = kl.held._replace(arrays=changed)
            return jax.jvp(lambda f: kl.value(f, held, live=True), (flat,), (direction,))[1]

        # minus the ELBO is minimised, so the optimum moves against its mixed derivative
        return -jnp.ravel(jax.grad(slope)(value))

    with jax.enable_x64(True):
        flat = jnp.asarray(posterior.eta.ravel())
        compiled = jax.jit(along)
        rows = [np.asarray(compiled(flat, jnp.asarray(d), arrays[place])) for d in directions]
    table = pd.DataFrame(np.stack(rows, axis=1), columns=labels)
    table.index.name = argument
    return table


def _response(fit: Fit) -> tuple[ResponsePosterior, KL]:
    posterior = fit.posterior
    kl = posterior.objective if isinstance(posterior, ResponsePosterior) else None
    if not isinstance(posterior, ResponsePosterior) or kl is None:
        raise ValueError(
            f"fit: got {fit.method}, expected a fit by LinearResponse made in this process (one "
            "that was saved and loaded, or that a worker made, has its numbers only)"
        )
    posterior.target.check_undivided()
    return posterior, kl


def _directions(
    posterior: ResponsePosterior, sites: Sequence[str] | None
) -> tuple[list[str], np.ndarray]:
    """Return labels, and H^-1 grad m of every scalar: how the optimum answers for it."""
    target = posterior.target
    local = posterior.hessian.structure.sites
    known = [site.name for site in target.quantities]
    chosen = [n for n in known if n not in local] if sites is None else as_names("sites", sites)
    if not chosen:
        raise ValueError(f"sites: got none, expected some of {', '.join(known)}")
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"sites: got {', '.join(unknown)}, expected some of {', '.join(known)}")
    rows = []
    for columns, values in posterior.slopes(chosen):
        full = np.zeros(2 * target.dim)
        full[columns] = values
        rows.append(posterior.hessian.solve(full))
    return target.labels(chosen), np.stack(rows)
