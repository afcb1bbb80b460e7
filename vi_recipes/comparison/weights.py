"""What the fits' own draws say of them, weighed by the posterior's density."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from vi_recipes.comparison.fits import Fits
from vi_recipes.fit import Assessment, Fit, differences
from vi_recipes.importance import khat_limit
from vi_recipes.report import DASH, Cell, Table, format_number
from vi_recipes.trust import POOR_MEAN, POOR_SD, LowerBounds, num_block_draws

NO_TAIL = "no tail"
"""Stands for the khat of weights that hardly vary."""

MARKED = "Marked * or red: above the limit."


def weights(comparison: Fits) -> Table:
    """Return khat, by site too, and what the corrected moments say, a column an approximation."""
    thetas, bounds = comparison.found.theta_weights, comparison.found.lower_bounds
    assessed = {
        name: (fit, fit.assessment)
        for name, fit in comparison.fits.items()
        if fit.has_result and fit.assessment is not None
        if fit.assessment.num_draws or name in thetas or name in bounds
    }
    sites = list(dict.fromkeys(site for _, a in assessed.values() for site in a.block_khat))
    khats = {name: _khat(w.khat, w.num_draws) for name, w in thetas.items()}
    shares = {name: Cell(f"{w.share:.2f}") for name, w in thetas.items()}
    rows = [_row("khat, all coordinates", assessed, lambda _, a: _khat(a.khat, a.num_draws))]
    rows += [_row(f"khat, {site} alone", assessed, partial(_block_khat, site)) for site in sites]
    rows += [
        _named("khat, parameters, members integrated out", assessed, khats),
        _named("effective share of their draws", assessed, shares),
        _row("half the variance of log p - log q, nats", assessed, lambda _, a: Cell(_kl(a))),
        _row("corrected by", assessed, lambda _, a: Cell(_source(a))),
        _row("khat of that", assessed, lambda _, a: Cell(_number(a, "khat"))),
        _row("effective draws", assessed, lambda _, a: Cell(_number(a, "ess"))),
        _row("largest change of a mean, sds", assessed, _mean_change),
        _row("sds over the corrected", assessed, _sd_change),
        _row("bound on the error of a mean, sds", assessed, lambda _, a: Cell(_bound(a))),
        _named("short chains move a mean by, sds", assessed, _named_bounds(bounds, "mean")),
        _named("short chains change an sd by a factor", assessed, _named_bounds(bounds, "sd")),
        _row("kernel Stein test, p-value", assessed, lambda _, a: Cell(_stein(a))),
        _row("seconds", assessed, lambda _, a: Cell(format_number(a.seconds, 2))),
    ]
    note = (
        "Weights are p(y, z) / q(z) at draws of each approximation q; above the limit (0.7 of many "
        "draws) khat says that they cannot be relied on. No tail: they hardly vary, or are the "
        "largest at many draws alike, and there is nothing to look out for. The khat of all "
        "coordinates rises with their number for any q, and in hundreds of them says little of a "
        "single one; that of a site alone, the others at q's means, says whether its shape and "
        "scale are right, and does not see correlations between sites. Half the variance of "
        "log p - log q is KL(q || p) to second order, of a q near p. Corrected moments are the "
        "posterior's own as far as the weights say, and blind to modes where q has no draws. The "
        "Stein test has little power beyond ten coordinates."
    )
    if thetas:
        note += (
            " The khat of the parameters is of their draws, weighed with all members integrated "
            "out by nested quadrature; below a share of a half, moments reweighted so would keep "
            "much of q's error."
        )
    if bounds:
        note += (
            " What short chains from a fit's draws move, beyond Monte Carlo error, was off by as "
            "much or more, unless it overshoots for long."
        )
    told = [row for row in rows if any(cell.text != DASH for cell in row[1:])]
    return Table(
        "What their own draws say",
        ["", *assessed],
        told if assessed else [],
        f"{note} {MARKED}",
        mixed=True,
    )


Assessed = dict[str, tuple[Fit, Assessment]]


def _row(title: str, assessed: Assessed, cell: Callable[[Fit, Assessment], Cell]) -> list[Cell]:
    return [Cell(title), *(cell(fit, assessment) for fit, assessment in assessed.values())]


def _named(title: str, assessed: Assessed, cells: Mapping[str, Cell]) -> list[Cell]:
    return [Cell(title), *(cells.get(name, Cell(DASH)) for name in assessed)]


def _named_bounds(bounds: Mapping[str, LowerBounds], what: str) -> dict[str, Cell]:
    """Return by how much a mean, or an sd, is off at least, and of which scalar."""
    said = {}
    for name, one in bounds.items():
        size, least, poor, at = (
            (one.mean, 0.0, POOR_MEAN, one.mean_at)
            if what == "mean"
            else (one.factor, 1.0, POOR_SD, one.sd_at)
        )
        where = f" ({at})" if size > least else ""
        said[name] = Cell(f"{size:.2g}{where}", "off" if size > poor else "")
    return said


def _kl(assessment: Assessment) -> str:
    return format_number(assessment.kl_surrogate, 2)


def _khat(value: float, num_draws: int) -> Cell:
    if value != value:
        return Cell(DASH)
    text = f"{value:.2f}" if value > -np.inf else NO_TAIL
    return Cell(text, "off" if value >= khat_limit(num_draws) else "")


def _block_khat(site: str, _: Fit, assessment: Assessment) -> Cell:
    if site not in assessment.block_khat:
        return Cell(DASH)
    return _khat(assessment.block_khat[site], num_block_draws(assessment.num_draws))


def _source(assessment: Assessment) -> str:
    if assessment.correction is None:
        return DASH
    rounds = assessment.correction.num_rounds
    return f"{rounds} rounds from it" if rounds else "its own draws"


def _number(assessment: Assessment, name: str) -> str:
    if assessment.correction is None:
        return DASH
    if name == "ess":
        return f"{assessment.correction.ess:.0f}"
    return _khat(assessment.correction.khat, assessment.correction.num_draws).text


def _mean_change(fit: Fit, assessment: Assessment) -> Cell:
    if assessment.correction is None:
        return Cell(DASH)
    rows = differences(fit, assessment.correction.moments)
    size = rows["difference"].abs().to_numpy()
    if np.isnan(size).all():
        return Cell(DASH)
    worst = int(np.nanargmax(size))
    error = rows["difference_mcse"].to_numpy()[worst]
    return Cell(f"{size[worst]:.2f} ± {error:.2f} ({rows.index[worst]})")


def _sd_change(fit: Fit, assessment: Assessment) -> Cell:
    if assessment.correction is None:
        return Cell(DASH)
    ratio = differences(fit, assessment.correction.moments)["sd_ratio"].dropna()
    if ratio.empty:
        return Cell(DASH)
    low, high = ratio.idxmin(), ratio.idxmax()
    return Cell(f"{ratio.min():.2f} ({low}) to {ratio.max():.2f} ({high})")


def _bound(assessment: Assessment) -> str:
    return DASH if assessment.bounds is None else format_number(assessment.bounds.mean_error, 2)


def _stein(assessment: Assessment) -> str:
    return DASH if assessment.stein is None else f"{assessment.stein.p_value:.3f}"
