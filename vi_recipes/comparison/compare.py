"""Fit several methods to one target."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from vi_recipes.comparison.comparison import Comparison, _assemble
from vi_recipes.comparison.folder import (
    _save_fits,
    _write_header,
    save_fit,
)
from vi_recipes.core import MethodFailure, ProgressFactory, Status, silent
from vi_recipes.fit import Fit
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.methods import Method
from vi_recipes.model import Target
from vi_recipes.posterior import PermutedPosterior, match
from vi_recipes.trust import assess


def compare(
    target: Target,
    methods: Sequence[Method] | Mapping[str, Method],
    *,
    reference: str | Fit | None = None,
    key: int = 0,
    path: str | Path | None = None,
    progress: ProgressFactory | None = None,
    description: str = "",
    assessed: bool = True,
    quadrature: bool = False,
) -> Comparison:
    """Fit every method to one target and lay the fits side by side.

    A method that fails is a row that says why; an interrupt keeps what is done.

    Parameters
    ----------
    target
        A model conditioned on data.
    methods
        Methods, named by their own names, or a mapping name -> method.
    reference
        Name of a method, or a :class:`Fit`, that the others are measured against. ``None`` takes
        the NUTS fit if there is one with a result.
    key
        Integer seed. Each method's stream depends on it and on the method's name alone, so adding
        a method changes no other.
    path
        Folder; each fit is saved to ``path/fits/<name>.nc`` as soon as it is done.
    progress
        Makes a progress reporter from a title, such as ``vi_recipes.core.progress.progress_bar``.
    description
        Stands at the head of the report.
    assessed
        Whether approximations weigh draws of their own by the posterior's density, after each fit
        and outside its time (see :func:`assess`).
    quadrature
        Whether log p(y) is had by quadrature too, where at most five coordinates are left when
        latent variables are integrated out; it takes from seconds to minutes.

    Raises
    ------
    ValueError
        For no methods, two of one name, a reference that is not among them, or a fit without
        numbers or of another model as reference.
    """
    named = _named(methods)
    reference = _checked_reference(reference, named, target)
    target.start(jax.random.key(key))  # a target without a finite density fails here, once
    fits: dict[str, Fit] = {}
    interrupted = False
    for name, method in named.items():
        with progress(name) if progress else nullcontext(silent) as report:
            stream = (key + zlib.crc32(name.encode())) % 2**31
            try:
                fit = method.fit(target, key=stream, progress=report, name=name)
                if assessed and fit.has_result:
                    report(1, 1, "assessing it")
                    fit = replace(fit, assessment=assess(fit, target, key=stream))
            except KeyboardInterrupt:
                message = "interrupted before there was a result"
                fit = Fit(
                    method=name,
                    status=Status.INTERRUPTED,
                    message=message,
                    sites=target.quantities,
                    coords=target.coords,
                    config=method.options(),
                )
        fits[name] = replace(fit, provenance=replace(fit.provenance, seed=key))
        if path is not None:
            save_fit(fits[name], Path(path))
            # what is on disk can be reported even if this process is killed
            _write_header(_assemble(target, fits, reference, True, description), Path(path))
        if fit.status is Status.INTERRUPTED:
            interrupted = True
            break
    comparison = _assemble(target, fits, reference, interrupted, description)
    notes = _scale_notes({n: m for n, m in named.items() if n in fits and fits[n].has_result})
    comparison = _align(comparison, target)
    comparison.notes[:0] = notes
    if quadrature and not interrupted:
        with progress("quadrature") if progress else nullcontext():
            comparison.quadrature = _by_quadrature(target)
    if path is not None:
        _save_fits(comparison, Path(path))
    return comparison


def _named(methods: Sequence[Method] | Mapping[str, Method]) -> dict[str, Method]:
    pairs = (
        list(methods.items())
        if isinstance(methods, Mapping)
        else [(m.name if isinstance(m, Method) else "", m) for m in methods]
    )
    if not pairs:
        raise ValueError("methods: none given; name at least one, such as vi_recipes.MAP()")
    for name, method in pairs:
        if not isinstance(method, Method):
            raise ValueError(
                f"methods: got {method!r}, expected a method such as vi_recipes.NUTS()"
            )
        if not name or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(f"methods: the name {name!r} must be letters, digits, '-', '_', '.'")
    names = [name for name, _ in pairs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(
            f"methods: more than one is named {', '.join(twice)}; give a mapping name -> method"
        )
    return dict(pairs)


def _checked_reference(
    reference: str | Fit | None, named: Mapping[str, Method], target: Target
) -> str | Fit | None:
    """Return the reference under a name of its own, or say why it cannot be one."""
    if isinstance(reference, str) and reference not in named:
        raise ValueError(
            f"reference: got '{reference}', expected one of the methods: {', '.join(named)}"
        )
    if not isinstance(reference, Fit):
        return reference
    if not reference.has_result:
        raise ValueError(f"reference: the fit has no numbers: {reference.explanation}")
    theirs, ours = ([(s.name, s.shape) for s in q] for q in (reference.sites, target.quantities))
    if theirs != ours:
        raise ValueError(
            f"reference: it is of a model with the sites {theirs}, expected {ours}; "
            "give a fit of this target"
        )
    taken = reference.method in named
    return reference.renamed(f"{reference.method}_reference") if taken else reference


def _by_quadrature(target: Target) -> LogEvidence:
    from vi_recipes.trust import quadrature

    try:
        return quadrature(target)
    except MethodFailure as failure:
        return LogEvidence(float("nan"), float("nan"), Bound.MISSING, failure.message)


def _align(comparison: Comparison, target: Target) -> Comparison:
    """Put exchangeable components of every fit in the order of the reference, and say so."""
    groups, fits = target.exchangeable, comparison.fits
    pivot = comparison.reference or next((f for f in fits.values() if f.has_result), None)
    if not groups or pivot is None:
        return comparison
    centre = pivot.mean()
    comparison.notes += [
        f"Components of {', '.join(g.sites)} are exchangeable: their labels are matched to those "
        f"of {pivot.method} (optimal assignment) before anything is compared."
        for g in groups
    ]
    for name, fit in fits.items():
        if not fit.has_result or fit.posterior is None:
            continue
        orders = match(fit.mean(), centre, groups)
        if any((order != np.arange(order.size)).any() for order in orders):
            posterior = PermutedPosterior(fit.posterior, tuple(groups), tuple(orders))
            found = fit.assessment and fit.assessment.permuted(posterior.permute)
            fits[name] = replace(fit, posterior=posterior, assessment=found)
            listed = "; ".join(str([int(i) for i in order]) for order in orders)
            comparison.notes.append(f"{name}: components taken in the order {listed}.")
    return comparison


def _scale_notes(methods: Mapping[str, Method]) -> list[str]:
    notes = ["Means, sds and covariances are those of the parameters as the model names them."]
    for name, method in methods.items():
        space = getattr(method, "space", None)
        if space is not None:
            extra = "without" if space == "constrained" else "with"
            notes.append(
                f"{name} is the mode of the density over the {space} scale ({extra} the Jacobian), "
                "shown on the constrained scale; the other scale has another mode."
            )
    return notes
