"""Fit several methods to one target."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import jax

from vi_recipes.comparison.comparison import Comparison, assemble, choose_reference
from vi_recipes.comparison.folder import drop_header, save_fit, write_header
from vi_recipes.comparison.kept import KeptFit
from vi_recipes.comparison.labels import label_notes, relabellings
from vi_recipes.core import MethodFailure, Progress, ProgressFactory, Status, silent
from vi_recipes.fit import Fit
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.methods import Method
from vi_recipes.model import Target
from vi_recipes.trust import assess
from vi_recipes.trust import quadrature as integrate

NO_SPREAD = (
    "is a point, and differences are measured in the sds of the reference: give a fit that has "
    "sds, such as NUTS's, or leave the reference out"
)


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
        the NUTS fit if there is one with a result. One that is not to be trusted by its own
        evidence measures nobody: every fit is then judged by its own, beside the differences.
    key
        Integer seed. Each method's stream depends on it and on the method's name alone, so adding
        a method changes no other.
    path
        Folder; each fit is saved to ``path/fits/<name>.nc`` as soon as it is done, once, as it was
        fitted. The order of exchangeable components is found out when all are done, and is in
        ``path/comparison.json``: :meth:`Comparison.load` returns the fits with it.
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
        For no methods, two of one name, a reference that is not among them, or a point, a fit
        without numbers, or one of another model as reference.
    """
    named = _named(methods)
    reference = _checked_reference(reference, named, target)
    target.start(jax.random.key(key))  # a target without a finite density fails here, once
    if assessed and isinstance(reference, Fit):
        reference = _assessed_reference(reference, target)
    folder = None if path is None else Path(path)
    fits: dict[str, Fit] = {}
    kept: dict[str, KeptFit] = {}
    interrupted = False
    for name, method in named.items():
        with progress(name) if progress else nullcontext(silent) as report:
            fit = _fit(name, method, target, key, report, assessed)
        fits[name] = replace(fit, provenance=replace(fit.provenance, seed=key))
        if folder is not None:
            if not kept:
                drop_header(folder)
                if isinstance(reference, Fit):
                    kept[reference.method] = save_fit(reference, folder, reference.method)
            kept[name] = save_fit(fits[name], folder, name)
            # what is on disk can be reported even if this process is killed
            so_far = assemble(
                target, fits, reference, kept=kept, interrupted=True, description=description
            )
            write_header(so_far, folder)
        if fit.status is Status.INTERRUPTED:
            interrupted = True
            break
    notes = _scale_notes({n: m for n, m in named.items() if n in fits and fits[n].has_result})
    notes += _relabel(fits, kept, reference, target)
    if isinstance(reference, str) and reference in fits and not fits[reference].has_result:
        notes.append(f"{reference} was to be the reference, and has no result.")
    evidence = None
    if quadrature and not interrupted:
        with progress("quadrature") if progress else nullcontext():
            evidence = _by_quadrature(target)
    comparison = assemble(
        target,
        fits,
        reference,
        kept=kept,
        interrupted=interrupted,
        description=description,
        notes=notes,
        quadrature=evidence,
    )
    if folder is not None:
        write_header(comparison, folder)
    return comparison


def _fit(
    name: str, method: Method, target: Target, seed: int, report: Progress, assessed: bool
) -> Fit:
    """Return the fit of one method, or what says that it was interrupted without a result."""
    stream = (seed + zlib.crc32(name.encode())) % 2**31
    try:
        fit = method.fit(target, key=stream, progress=report, name=name)
        if assessed and fit.has_result:
            report(1, 1, "assessing it")
            fit = replace(fit, assessment=assess(fit, target, key=stream))
    except KeyboardInterrupt:
        return Fit(
            method=name,
            status=Status.INTERRUPTED,
            message="interrupted before there was a result",
            sites=target.quantities,
            coords=target.coords,
            config=method.options(),
        )
    return fit


def _relabel(
    fits: dict[str, Fit],
    kept: dict[str, KeptFit],
    reference: str | Fit | None,
    target: Target,
) -> list[str]:
    """Put exchangeable components of every fit in the order of the reference; say so in notes."""
    chosen, _ = choose_reference(fits, reference)
    pivot = chosen or next((fit for fit in fits.values() if fit.has_result), None)
    moved = relabellings(fits, pivot, target.exchangeable)
    for name, labels in moved.items():
        fits[name] = labels.apply(fits[name])
        if name in kept:
            kept[name] = replace(kept[name], fit=fits[name], labels=labels)
    return label_notes(moved, pivot, target.exchangeable)


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
    if isinstance(reference, str) and named[reference].is_point:
        raise ValueError(f"reference: '{reference}' {NO_SPREAD}")
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
    if reference.is_point:
        raise ValueError(f"reference: '{reference.method}' {NO_SPREAD}")
    taken = reference.method in named
    return reference.renamed(f"{reference.method}_reference") if taken else reference


def _assessed_reference(reference: Fit, target: Target) -> Fit:
    """Return a fit from elsewhere with its own evidence; answers without a method have none."""
    if not reference.kind or reference.assessment is not None:
        return reference
    made_for = (reference.provenance.model, reference.provenance.data_fingerprint)
    if made_for != (target.name, target.fingerprint):
        return reference
    return replace(reference, assessment=assess(reference, target))


def _by_quadrature(target: Target) -> LogEvidence:
    try:
        return integrate(target)
    except MethodFailure as failure:
        return LogEvidence(float("nan"), float("nan"), Bound.MISSING, failure.message)


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
