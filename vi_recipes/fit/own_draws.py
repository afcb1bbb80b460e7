"""Draws made elsewhere as a fit of a target: named, checked, audited."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vi_recipes.core import Status, Timing, check_arguments, numbered, unknown
from vi_recipes.fit.chains import complain, healthy, heavy_tails, measure
from vi_recipes.fit.draws import check_same
from vi_recipes.fit.fit import Fit
from vi_recipes.fit.records import provenance
from vi_recipes.fit.sources import DrawsSource, read_source
from vi_recipes.fit.stationary import balances, say_tipped
from vi_recipes.fit.stored import is_fit
from vi_recipes.model import Model, Site, Sites, Target, as_target, labels_by_site
from vi_recipes.posterior import DrawsPosterior, relabel_draws

OWN = "draws"
"""Kind of a fit of draws made elsewhere."""

ROUNDED = 1e-3
"""Relative difference from what its support makes of a value that rounding in a file explains."""

MOST_NAMED = 50
"""Scalars that a complaint lists."""

DERIVED = 0.01
"""The same of what the model derives from its latent sites, in the sd of the draws too."""


@check_arguments("names", "method")
def from_arviz(
    draws: Any,
    target: Target | Model,
    *,
    names: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Fit:
    """Return draws made elsewhere, by Stan, PyMC or brms, as a :class:`Fit` of ``target``.

    It goes where any fit goes: into :func:`compare` as a row or as the reference. Its chains are
    audited as those of :class:`NUTS` are, and the model's density is looked at: of its own draws
    Metropolis steps go up as often as down. Where they do not, the draws are of another model,
    other data, another parametrisation, or under wrong names, and the fit says so.

    Parameters
    ----------
    draws
        An ArviZ tree with a group ``posterior`` (PyMC's, NumPyro's), or its netCDF file; what
        cmdstanpy returns; the CSV files of CmdStan as a list, or as a pattern (``"fit-*.csv"``); a
        CSV file of draws as the R packages posterior and brms write them, with columns ``.chain``
        and ``.iteration``; or what :func:`from_draws` takes.
    target
        The model with its data. Draws of its latent sites are needed, constrained scale; what it
        derives from them is computed.
    names
        Their name -> ours, for those that differ: ``{"b_x": "beta[0]"}``. Of a model by formula
        those that brms gives the same formula are known. A name is that of a whole
        variable or of one scalar, with zero-based indices; columns go by what they are called.
    method
        Name of the fit; by default what made the draws, such as ``"pymc"``, else ``"draws"``.

    Raises
    ------
    ValueError
        For draws without chains, names, shapes or values that do not go with the target.
    """
    target = as_target(target)
    if isinstance(draws, str | Path) and is_fit(Path(draws)):
        fit = Fit.load(draws)
        check_same(fit, target)
        return fit if method is None else fit.renamed(method)
    source = read_source(draws)
    names = dict(names or {})
    correlations = _correlations(source, target, names)
    given = _sites(source, target, _elsewhere(source, target, names) | names, correlations)
    return _fit(source, given, target, method)


def from_draws(
    draws: Any,
    target: Target | Model,
    *,
    names: Mapping[str, str] | None = None,
    method: str | None = None,
) -> Fit:
    """Return draws in arrays or in a data frame as a :class:`Fit` of ``target``.

    Parameters
    ----------
    draws
        A mapping name -> array of shape ``(chain, draw, *site shape)``; or a data frame with a row
        a draw, a column a scalar, and a column ``chain`` (``.chain``), without which it is one
        chain.
    target, names, method
        As in :func:`from_arviz`, which takes the same. A column that is called as we call a
        scalar, such as ``beta[x]``, needs no name.

    Raises
    ------
    ValueError
        As :func:`from_arviz`.
    """
    return from_arviz(draws, target, names=names, method=method)


# -- names -----------------------------------------------------------------------------------


def _elsewhere(source: DrawsSource, target: Target, names: Mapping[str, str]) -> dict[str, str]:
    """Return what other names the draws have scalars under: our labels, and those of brms.

    Sites that the draws have under their own names, or that are named, are left alone. But beside
    ``b_Intercept`` brms writes the intercept at the means of its columns, and calls that
    ``Intercept``, as our site is called.
    """
    labels, indices = (_scalars(target, coords=coords) for coords in (True, False))
    brms = getattr(target.complete_model, "names_elsewhere", {})
    other = {ours for theirs, ours in brms.items() if theirs != ours and theirs in source.known}
    known = {label: label for label in target.labels(coords=True) if label not in other} | brms
    sites = {site.name for site in target.quantities} - (set(source.variables) - other)
    named = {ours.partition("[")[0] for ours in names.values()}
    by_index = {place: label for label, place in indices.items()}
    found = {}
    for theirs, ours in known.items():
        place = labels.get(ours.replace(" ", ""))
        site = ours if place is None else place[0]
        if site in sites - named and theirs not in names and source.find(theirs) is not None:
            found[theirs] = ours if place is None else by_index[place]
    return found


def _correlations(source: DrawsSource, target: Target, names: Mapping[str, str]) -> Sites:
    """Return the matrices of which the draws have the correlations one by one.

    Sites that the draws have, or that are named, are left alone.
    """
    known = getattr(target.complete_model, "correlations_elsewhere", {})
    named = {ours.partition("[")[0] for ours in names.values()}
    made: Sites = {}
    for site, called in known.items():
        found = {place: source.find(name) for place, name in called.items()}
        columns = {place: values for place, values in found.items() if values is not None}
        if len(columns) < len(found) or site in named or site in source.variables:
            continue
        size = max(row for row, _ in called) + 1
        matrices = np.tile(np.eye(size), (*source.shape, 1, 1))
        for (row, column), values in columns.items():
            matrices[..., row, column] = _scalar(values, called[row, column], source)
            matrices[..., column, row] = matrices[..., row, column]
        try:
            np.linalg.cholesky(matrices)
        except np.linalg.LinAlgError:
            raise ValueError(
                f"{source.called}: {', '.join(called.values())} are in some draws no correlations "
                "of one law: the matrix that they make is not positive definite"
            ) from None
        made[site] = matrices
    return made


def _sites(
    source: DrawsSource, target: Target, names: Mapping[str, str], made: Mapping[str, np.ndarray]
) -> Sites:
    """Return the draws by site: all latent ones, and those derived ones that there are.

    ``made`` are those made of what the draws have.
    """
    wanted = {site.name: site for site in target.quantities}
    labels, indices = (_scalars(target, coords=coords) for coords in (True, False))
    whole: Sites = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for theirs, ours in names.items():
        values, plain = source.find(theirs), ours.replace(" ", "")
        if values is None:
            raise ValueError(f"names: {source.called}: {unknown('name', theirs, source.known)}")
        place = labels.get(plain) or indices.get(plain)
        if ours in wanted and (place is None or wanted[ours].shape == ()):
            whole[ours] = values
        elif place is not None:
            parts.setdefault(place[0], {})[plain] = _scalar(values, theirs, source)
        else:
            known = dict.fromkeys(
                [*wanted, *(target.labels() if len(labels) <= MOST_NAMED else [])]
            )
            raise ValueError(f"names: {unknown('site or scalar', ours, known)}")
    result: Sites = {}
    for name, site in wanted.items():
        if name in made:
            result[name] = _shaped(made[name], site, source)
        if name in parts:
            # members that are called by numbers: those, where all are, and else their places
            read = next((r for r in (labels, indices) if r.keys() >= parts[name].keys()), None)
            read = {**indices, **labels} if read is None else read
            result[name] = _together({read[n][1]: v for n, v in parts[name].items()}, site, source)
        elif name in whole or name in source.variables:
            values = whole.get(name, source.variables.get(name))
            result[name] = _shaped(np.asarray(values), site, source)
    if lost := [site for site in target.latents if site.name not in result]:
        first = unknown("variable", lost[0].name, source.known)
        named = ", ".join(
            f"{s.name} ({numbered(s.size, 'scalar')})" if s.shape else s.name for s in lost
        )
        ours = target.labels([lost[0].name], coords=True)[0]
        raise ValueError(
            f"{source.called}: it has no draws of the latent site(s) {named} ({first}). Say which "
            f"they are with names={{'their name': '{ours}'}} (--rename 'their name={ours}')"
        )
    return result


def _scalars(target: Target, *, coords: bool) -> dict[str, tuple[str, int]]:
    """Return label of a scalar, by coordinate or by index -> its site and place there."""
    table = labels_by_site(target.quantities, target.coords if coords else None)
    return {
        label.replace(" ", ""): (site, k)
        for site, labels in table.items()
        for k, label in enumerate(labels)
    }


def _scalar(values: np.ndarray, theirs: str, source: DrawsSource) -> np.ndarray:
    if values[0, 0].size != 1:
        raise ValueError(
            f"names: {source.called}: '{theirs}' has shape {values.shape[2:]}, expected one "
            f"scalar: name them one by one, such as '{theirs}[0]'"
        )
    return values.reshape(values.shape[:2])


def _together(parts: Mapping[int, np.ndarray], site: Site, source: DrawsSource) -> np.ndarray:
    """Return the scalars of a site as one array."""
    labels = labels_by_site([site])[site.name]
    if lost := [labels[k] for k in range(site.size) if k not in parts]:
        raise ValueError(
            f"names: {source.called}: {', '.join(lost[:5])} of site '{site.name}' "
            f"{'is' if len(lost) == 1 else 'are'} not named; name all of its {site.size} scalars"
        )
    stacked = np.stack([parts[k] for k in range(site.size)], axis=-1)
    return stacked.reshape(*stacked.shape[:2], *site.shape)


def _shaped(values: np.ndarray, site: Site, source: DrawsSource) -> np.ndarray:
    shape = values.shape[2:]
    if shape != site.shape and not (values[0, 0].size == site.size == 1):
        together = values.shape[1:] == site.shape
        hint = (
            ". Its chains are one after another: keep them apart; of cmdstanpy give the fit itself"
        )
        raise ValueError(
            f"{source.called}: site '{site.name}' has draws of shape {shape}, expected "
            f"{site.shape}, after chain and draw{hint if together else ''}"
        )
    values = values.reshape(*values.shape[:2], *site.shape)
    try:
        if values.dtype.kind == "c":
            raise TypeError
        values = np.asarray(values, float)
    except (TypeError, ValueError):
        raise ValueError(
            f"{source.called}: site '{site.name}' has draws that are no numbers, such as "
            f"{values.ravel()[0]}"
        ) from None
    if not np.isfinite(values).all():
        chain, draw, *_ = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"{source.called}: site '{site.name}' is not finite in chain {chain + 1}, "
            f"draw {draw + 1}"
        )
    return values


# -- the fit ---------------------------------------------------------------------------------


def _fit(source: DrawsSource, given: Sites, target: Target, method: str | None) -> Fit:
    chains, draws = source.shape
    if draws < 4:
        raise ValueError(f"{source.called}: got {draws} draws a chain, expected at least 4")
    latents = {site.name: given[site.name] for site in target.latents}
    flat = {n: v.reshape(-1, *v.shape[2:]) for n, v in latents.items()}
    z = target.unconstrain_rows(flat)
    _check_support(z, flat, target, source, draws)
    known = target.constrain(z)
    for site in target.latents:
        _check_round_trip(flat[site.name], known[site.name], site, source, draws)
    samples = {
        s.name: latents.get(s.name, known[s.name].reshape(chains, draws, *s.shape))
        for s in target.quantities
    }
    log_p = target.log_densities(z).reshape(chains, draws)
    found = balances(target, z.reshape(chains, draws, -1), log_p)
    derived = _other_derived(given, samples, latents)
    aside = ""
    if target.exchangeable:
        pivot = np.unravel_index(log_p.argmax(), log_p.shape)
        pivots = {name: value[pivot] for name, value in samples.items()}
        samples, share = relabel_draws(samples, target.exchangeable, pivots)
        aside = f"; {share:.0%} of draws relabelled"
    stats = {**{k: v for k, v in source.stats.items() if v.dtype.kind in "fiub"}, "lp": log_p}
    diagnostics = measure(samples, stats, source.max_tree_depth)
    complaints, advice = complain(diagnostics, chains, chains * draws)
    if found:
        worst = max(found.values(), key=lambda b: (b.tips, abs(b.surplus)))
        diagnostics["density_surplus"] = worst.surplus
    foreign = [part for part in (say_tipped(found), derived) if part]
    if foreign:
        diagnostics["of_another_density"] = 1.0
        advice = "look at the names, the scale (a precision or an sd), the priors and the data"
    complaints = foreign + complaints
    if chains > draws:
        complaints.append(
            f"{chains} chains of {draws} draws: the first dimension is expected to be of chains"
        )
    khat, tails = heavy_tails(samples)
    if tails:
        diagnostics["khat_draws"] = khat
    by = f"draws of {source.library}" if source.library else "draws made elsewhere"
    origin = "" if source.called in ("tree", "draws", "frame", "dataset") else f", {source.called}"
    return Fit(
        method=method or _name(source.library),
        kind=OWN,
        status=Status.UNCONVERGED if complaints else Status.OK,
        message=("; ".join(complaints) or healthy(diagnostics)) + tails + aside,
        advice=advice,
        config={"source": f"{by}{origin}"},
        sites=target.quantities,
        coords=target.coords,
        posterior=DrawsPosterior(samples),
        timing=Timing(run_seconds=source.seconds),
        diagnostics=diagnostics,
        sample_stats=stats,
        provenance=provenance(target, seed=None, dtype="float64"),
    )


def _name(library: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in library.lower()) or OWN


def _check_support(
    z: np.ndarray, flat: Sites, target: Target, source: DrawsSource, draws: int
) -> None:
    """Raise a :class:`ValueError` that names the first value outside its support."""
    for site in target.latents:
        bad = np.flatnonzero(~np.isfinite(z[:, target.slices[site.name]]).all(axis=1))
        if bad.size:
            raise ValueError(_outside(site, flat[site.name], bad, source, draws))


def _check_round_trip(
    given: np.ndarray, back: np.ndarray, site: Site, source: DrawsSource, draws: int
) -> None:
    off = np.abs(back - given) > ROUNDED * (np.abs(given) + ROUNDED)
    bad = np.flatnonzero(off.reshape(len(off), -1).any(axis=1))
    if bad.size:
        raise ValueError(_outside(site, given, bad, source, draws))


def _outside(
    site: Site, values: np.ndarray, bad: np.ndarray, source: DrawsSource, draws: int
) -> str:
    first = np.ravel(values[bad[0]])
    shown = ", ".join(f"{v:.4g}" for v in first[:4]) + (", ..." if first.size > 4 else "")
    chain, draw = divmod(int(bad[0]), draws)
    return (
        f"{source.called}: {bad.size} of {len(values)} draws of site '{site.name}' are outside "
        f"its support ({site.support}) or at its edge, the first {shown} in chain {chain + 1}, "
        f"draw {draw + 1}. "
        "Draws are expected on the constrained scale; look at the names too"
    )


def _other_derived(given: Sites, computed: Sites, latents: Sites) -> str:
    """Return a part of a sentence on sites that come with other values than the model makes."""
    other = []
    for name, theirs in given.items():
        if name not in latents:
            ours = computed[name]
            far = np.abs(theirs - ours) > DERIVED * (np.abs(ours) + ours.std())
            if far.mean() > DERIVED:
                other.append(name)
    if not other:
        return ""
    return f"its {', '.join(other)} is not what this model derives from its latent sites"
