"""Fit several methods to one target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from vi_recipes.cells import Engine
from vi_recipes.comparison.beside import FOLDERS, HEADER, discard, place_for, put_in_place
from vi_recipes.comparison.comparison import Comparison, assemble, choose_reference
from vi_recipes.comparison.elsewhere import CompareArguments, Elsewhere, check_sent, fit_elsewhere
from vi_recipes.comparison.folder import fit_path, save_fit, write_header
from vi_recipes.comparison.found import Found
from vi_recipes.comparison.kept import KeptFit
from vi_recipes.comparison.labels import label_notes, relabellings
from vi_recipes.comparison.left import MethodsLeft
from vi_recipes.comparison.one_fit import fit_one, with_evidence
from vi_recipes.comparison.request import (
    Methods,
    check_checkpoints,
    check_options,
    check_start,
    checked_reference,
    chosen_progress,
    named_methods,
)
from vi_recipes.comparison.resume import Resumed, reuse
from vi_recipes.comparison.yardsticks import (
    bound_errors,
    by_quadrature,
    find_overlooked,
    lacks_yardstick,
    weigh_thetas,
)
from vi_recipes.core import (
    ProgressFactory,
    as_seed,
    attempt,
    check_arguments,
    check_folder,
    held,
    numbered,
    one_seed,
    programs_read,
    silent,
    warn,
)
from vi_recipes.fit import Fit
from vi_recipes.importance import LogEvidence
from vi_recipes.methods import Method, NestedQuadrature
from vi_recipes.model import Model, Target, as_target


@check_arguments("path", "description", "assessed", "quadrature", "exclusive", "resume")
def compare(
    target: Target | Model,
    methods: Methods | None = None,
    *,
    reference: str | Fit | None = None,
    key: int | None = None,
    seed: int | None = None,
    path: str | Path | None = None,
    resume: bool = True,
    progress: ProgressFactory | bool | None = None,
    description: str = "",
    assessed: bool = True,
    quadrature: bool = False,
    executor: Engine = None,
    exclusive: bool = True,
) -> Comparison:
    """Fit every method to one target and lay the fits side by side.

    A method that fails is a row that says why; an interrupt keeps what is done. An error in an
    assessment, or in writing a fit, costs that part only, and a note says so
    (:attr:`~vi_recipes.comparison.comparison.Comparison.losses`).

    Parameters
    ----------
    target
        A model conditioned on data, or a model that has data of its own, such as a formula's
        (:func:`glmm`).
    methods
        Names, as in ``"map,lrvb,nuts"``, with the model's own options; a method; several, named by
        their own names; or a mapping name -> method. ``None`` takes those that apply, as
        ``vi-recipes compare`` does. A :class:`Fit` among them, such as one by :func:`from_arviz`,
        is taken as it is.
    reference
        Name of a method, or a :class:`Fit`, that the others are measured against. ``None`` takes
        the NUTS fit if there is one with a result. One that is not to be trusted by its own
        evidence measures nobody: every fit is then judged by its own, beside the differences.
        Where there is no reference, and some fit cannot be judged by its own evidence, a fit by
        :class:`NestedQuadrature` is made to measure by, if that applies and is quick.
    key, seed
        Integer seed, by either name; 0 by default. Each method's stream depends on it and on the
        method's name alone, so adding a method changes no other; linear response has that of the
        mean field that it corrects.
    path
        Folder; each fit is saved to ``path/fits/<name>.nc`` as soon as it is done, once, as it was
        fitted. The order of exchangeable components is found out when all are done, and is in
        ``path/comparison.json``: :meth:`Comparison.load` returns the fits with it.
    resume
        Whether fits of an earlier comparison in that folder are taken up, and only what is new, or
        has other options, data, seed or versions, is fitted. Of an object among the options, such
        as a guide, the file that defines it is compared; one without a file, such as an optimiser,
        is the same in one process alone. Fits of the earlier one that ``methods`` does not name
        stay. Notes say what was taken up and what was not, and why.
        ``False`` fits everything, and what the folder held goes once that is done.
    progress
        ``True`` shows a bar on standard error, ``False`` none; ``None`` shows one in notebooks that
        have ``ipywidgets``. Or what makes a progress reporter from a title, such as
        ``vi_recipes.core.progress_bar``.
    description
        Stands at the head of the report.
    assessed
        Whether approximations weigh draws of their own by the posterior's density, after each fit
        and outside its time (see :func:`assess`).
    quadrature
        Whether log p(y) is had by quadrature too, where at most five coordinates are left when
        latent variables are integrated out; it takes from seconds to minutes.
    executor
        Where methods are fitted and assessed; see :func:`calibrate`. The numbers are the same.
        What a fit compiled stays with the worker, so that :func:`case_sensitivity` and
        :func:`data_sensitivity` want a fit of this process.
    exclusive
        Whether an executor is given one method at a time, so that seconds are those of a machine
        that does no other; of a number of processes, one is begun. Else methods run side by side,
        and a note says how many did at once.

    Raises
    ------
    ValueError
        For no methods, two of one name, options that do not go with the target, a reference that
        is not among them, or a point, a fit without numbers, or one of another model as reference.
        For methods that cannot be sent to an executor, and a folder that another run writes to.
        All of this is found before the first method is fitted. And for an executor that breaks
        down, after which the folder has what is done.
    """
    target = as_target(target)
    key = as_seed(one_seed(key, seed) or 0)
    progress = chosen_progress(progress)
    named, resumed = named_methods(methods, target), Resumed()
    if resume and path is not None:
        named, resumed = reuse(Path(path), named, target, key)
    reference = checked_reference(reference, named, target)
    to_fit = {name: method for name, method in named.items() if isinstance(method, Method)}
    for name, method in to_fit.items():
        check_options(name, method, target)
    check_checkpoints(to_fit)
    check_start(target, key)
    if executor is not None:
        check_sent(to_fit)
    if isinstance(reference, Fit):
        reference = with_evidence(reference, target, assessed)
    if path is not None:
        check_folder(Path(path), HEADER, FOLDERS)
    asked = _Asked(target, named, key, assessed, progress, executor, exclusive)
    with held(path, HEADER, FOLDERS):
        run = _Run(target, reference, description, None if path is None else Path(path), [*named])
        return _compare(asked, run, resumed, quadrature=quadrature)


@dataclass(frozen=True)
class _Asked:
    """What is to be fitted, and how: arguments of :func:`compare`, checked."""

    target: Target
    named: Mapping[str, Method | Fit]
    key: int
    assessed: bool
    progress: ProgressFactory | None
    executor: Engine
    exclusive: bool


def _compare(asked: _Asked, run: _Run, resumed: Resumed, *, quadrature: bool) -> Comparison:
    """Fit everything, find out what the fits say of one another, and keep it."""
    target, key, assessed, progress = asked.target, asked.key, asked.assessed, asked.progress
    reference = run.reference
    interrupted, already = False, programs_read()
    evidence, read, by_whom = None, 0, list[str]()
    try:
        if asked.executor is None:
            interrupted = run.fit_here(asked)
        else:
            elsewhere = run.fit_elsewhere(asked)
            interrupted, read = elsewhere.interrupted, elsewhere.read
            by_whom += [elsewhere.note] if elsewhere.note else []
        if quadrature and not interrupted:
            with progress("quadrature") if progress else nullcontext():
                evidence = by_quadrature(target)
    except KeyboardInterrupt:  # between two fits, or in the quadrature
        if not run.fits:
            raise
        interrupted = True
    if interrupted:
        run.take_the_rest(asked)
        if not run.fits:  # what is in the folder stays as it was
            raise KeyboardInterrupt
    fits, failed = run.fits, []
    try:
        if assessed and reference is None and not interrupted and lacks_yardstick(fits, target):
            with progress(NestedQuadrature.key) if progress else nullcontext(silent) as report:
                yardstick = NestedQuadrature().fit(target, key=key, progress=report)
            if yardstick.has_result and yardstick.status.ok:
                run.reference = reference = yardstick
                run.save(yardstick.method, yardstick)
            else:
                failed = [f"Nested quadrature was tried as a yardstick: {yardstick.explanation}."]
    except KeyboardInterrupt:
        interrupted = True
    run.sure = asked.executor is None
    notes = resumed.said(fits) + by_whom + failed + _scale_notes(fits)
    notes += attempt(run.relabel, lambda e: [f"Components are not put in one order: {e}"])
    if isinstance(reference, str) and reference in fits and not fits[reference].has_result:
        notes.append(f"{reference} was to be the reference, and has no result.")
    if read := read + programs_read() - already:
        notes.append(
            f"{numbered(read, 'program')} read from the cache of compiled code and not compiled: "
            "seconds of compilation are less than without it (--no-cache)."
        )
    found = Found(attempt(lambda: find_overlooked(fits, reference, target), lambda _: {}))
    try:
        if assessed and not interrupted:
            found = run.look_closer(found, key, progress, notes)
    except KeyboardInterrupt:
        interrupted = True
    comparison = run.comparison(
        interrupted=interrupted, notes=notes, quadrature=evidence, found=found
    )
    run.keep("what binds the fits together", lambda place: write_header(comparison, place))
    run.finish(comparison)
    comparison.losses += run.losses
    return comparison


@dataclass
class _Run:
    """A comparison under way, whose folder holds what is done even if this process is killed.

    Parameters
    ----------
    target, reference, description
        As for :func:`compare`.
    folder
        Where fits are kept; ``None`` for nowhere.
    names
        What is to be compared.
    under_way
        What was begun last here.
    sure
        Whether nothing else is: no worker has it, and no process that may be killed.
    place
        Where they are until all are done: beside what the folder holds already, if anything.
    fits
        Those that are done.
    kept
        Those of them that lie in the folder.
    losses
        What could not be kept, a sentence each.
    """

    target: Target
    reference: str | Fit | None
    description: str
    folder: Path | None
    names: Sequence[str] = ()
    under_way: str = ""
    sure: bool = False
    place: Path | None = None
    fits: dict[str, Fit] = field(default_factory=dict)
    kept: dict[str, KeptFit] = field(default_factory=dict)
    losses: list[str] = field(default_factory=list)

    def fit_here(self, asked: _Asked) -> bool:
        """Fit method after method; return whether that was interrupted."""
        for name, given in asked.named.items():
            if isinstance(given, Fit):
                self._take(name, given, asked.assessed)
                continue
            with asked.progress(name) if asked.progress else nullcontext(silent) as report:
                self.under_way = name
                fit, interrupted = fit_one(
                    name, given, self.target, asked.key, report, asked.assessed
                )
            self.add(name, fit)
            if interrupted:
                return True
        return False

    def fit_elsewhere(self, asked: _Asked) -> Elsewhere:
        """Have an executor fit the methods; what it has done stays where it breaks down."""
        for name, given in asked.named.items():
            if isinstance(given, Fit):
                self._take(name, given, asked.assessed)
        methods = {n: m for n, m in asked.named.items() if isinstance(m, Method)}
        fitting = CompareArguments(self.target, methods, asked.key, asked.assessed)
        try:
            return fit_elsewhere(
                fitting,
                asked.executor,
                exclusive=asked.exclusive,
                progress=asked.progress,
                add=self.add,
            )
        except ValueError:
            if self.fits:
                self.finish(self.comparison(interrupted=True))
            raise
        finally:  # as they were named, and not as they came
            self._in_order()

    def take_the_rest(self, asked: _Asked) -> None:
        """Take the fits that were given, and that an interrupt was ahead of: they are done."""
        for name, given in asked.named.items():
            if isinstance(given, Fit) and name not in self.fits:
                self.add(name, given.renamed(name))
        self._in_order()

    def left(self) -> MethodsLeft:
        """Return what has no fit."""
        names = tuple(name for name in self.names if name not in self.fits)
        return MethodsLeft(names, self.sure and self.under_way not in names)

    def _in_order(self) -> None:
        self.fits = {name: self.fits[name] for name in self.names if name in self.fits}

    def _take(self, name: str, given: Fit, assessed: bool) -> None:
        """Take a fit that was given."""
        self.add(name, with_evidence(given.renamed(name), self.target, assessed))

    def add(self, name: str, fit: Fit) -> None:
        """Take a fit that is done, and keep it."""
        first = not self.fits
        self.fits[name] = fit
        if first:
            self.keep("a place beside what is there", self._choose_place)
            if isinstance(self.reference, Fit):
                self.save(self.reference.method, self.reference)
        self.save(name, fit)
        self.keep("what binds the fits together", self._write_header)

    def save(self, name: str, fit: Fit) -> None:
        """Keep a fit, or a reference."""

        def write(folder: Path) -> None:
            self.kept[name] = save_fit(fit, folder, name)

        self.keep(f"the fit '{name}'", write)

    def _choose_place(self, folder: Path) -> None:
        self.place = place_for(folder)

    def _write_header(self, folder: Path) -> None:
        write_header(self.comparison(interrupted=True), folder)

    def finish(self, comparison: Comparison) -> None:
        """Put what was written beside in the place of what was there, unless nothing was done."""
        place, folder = self.place, self.folder
        if folder is None or place is None or place == folder:
            return
        if comparison.interrupted and not any(fit.has_result for fit in self.fits.values()):
            discard(place)
            comparison.kept.clear()
            return
        self.keep("the new run", lambda _: put_in_place(place, folder))
        for name, kept in self.kept.items():
            comparison.kept[name] = replace(kept, path=fit_path(folder, name))

    def keep(self, what: str, write: Callable[[Path], object]) -> None:
        """Write something to the folder, if there is one; the fits stand where that fails."""
        folder = self.place or self.folder
        if folder is None:
            return

        def lost(error: str) -> None:
            sentence = f"{what} is not in the folder {folder}: {error}"
            if sentence not in self.losses:
                self.losses.append(sentence)
                warn(sentence)

        attempt(lambda: write(folder), lost)

    def comparison(
        self,
        *,
        interrupted: bool,
        notes: Sequence[str] = (),
        quadrature: LogEvidence | None = None,
        found: Found | None = None,
    ) -> Comparison:
        """Return the comparison of what is done."""
        return assemble(
            self.target,
            self.fits,
            self.reference,
            kept=self.kept,
            interrupted=interrupted,
            left=self.left(),
            description=self.description,
            notes=notes,
            quadrature=quadrature,
            found=found,
        )

    def look_closer(
        self, found: Found, key: int, progress: ProgressFactory | None, notes: list[str]
    ) -> Found:
        """Return what was found with weights of theta, and bounds on what is still open."""
        so_far = self.comparison(interrupted=False, found=found)
        weights = weigh_thetas(self.fits, so_far.reference, key=key)
        found = replace(found, theta_weights=weights)
        if so_far.measures:
            return found

        def bounded() -> Found:
            bounds = bound_errors(self.fits, so_far.verdict_of, self.target, progress, key=key)
            return replace(found, lower_bounds=bounds)

        def unbounded(error: str) -> Found:
            notes.append(f"How far fits are off at least is not known: {error}")
            return found

        return attempt(bounded, unbounded)

    def relabel(self) -> list[str]:
        """Put exchangeable components of every fit in the order of the reference; return notes."""
        groups = self.target.exchangeable
        chosen, _ = choose_reference(self.fits, self.reference)
        pivot = chosen or next((fit for fit in self.fits.values() if fit.has_result), None)
        moved = relabellings(self.fits, pivot, groups)
        for name, labels in moved.items():
            self.fits[name] = labels.apply(self.fits[name])
            if name in self.kept:
                self.kept[name] = replace(self.kept[name], fit=self.fits[name], labels=labels)
        return label_notes(moved, pivot, self.target, self.fits)


def _scale_notes(fits: Mapping[str, Fit]) -> list[str]:
    notes = ["Means, sds and covariances are those of the parameters as the model names them."]
    for name, fit in fits.items():
        space = fit.config.get("space") if fit.has_result else None
        if space is not None:
            extra = "without" if space == "constrained" else "with"
            notes.append(
                f"{name} is the mode of the density over the {space} scale ({extra} the Jacobian), "
                "shown on the constrained scale; the other scale has another mode."
            )
    return notes
