"""What every method is: a frozen configuration with one ``fit``."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, ClassVar

import jax
import numpy as np

from vi_recipes.core import (
    CheckpointError,
    FitError,
    MethodFailure,
    ModelError,
    Progress,
    Status,
    Timing,
    as_key,
    check_fields,
    check_key,
    on_one_core,
    one_at_a_time,
    one_seed,
    precision,
    silent,
    together,
    told,
)
from vi_recipes.fit import Fit, OtherOptimum, provenance
from vi_recipes.importance import LogEvidence
from vi_recipes.methods.reach import (
    ADVICE,
    ADVICE_AT_ENDS,
    end_beside,
    end_within,
    met_jumps,
    sites_ending,
)
from vi_recipes.methods.single import why_not_single
from vi_recipes.model import Model, Target, as_target
from vi_recipes.posterior import PointPosterior, Posterior


@dataclass
class Result:
    """What a method hands back; :meth:`Method.fit` makes the :class:`Fit` from it."""

    posterior: Posterior | None = None
    status: Status = Status.OK
    message: str = ""
    advice: str = ""
    trace: Mapping[str, np.ndarray] = field(default_factory=dict)
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    log_evidence: LogEvidence | None = None
    log_likelihood: float | None = None
    sample_stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    latents: Mapping[str, np.ndarray] = field(default_factory=dict)
    other_optimum: OtherOptimum | None = None


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A way to fit a :class:`Target`: a frozen configuration, without state between fits."""

    key: ClassVar[str]
    """Its name at the command line and in files; the class's own in lower case if it gives none."""

    summary: ClassVar[str]
    """One line: what it computes and what it gets wrong."""

    rules: ClassVar[Mapping[str, str]] = {}
    """When it applies, case by case, in the order in which they are tried."""

    choices: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    """What is to choose from: a heading -> the choices, each explained in a sentence or two."""

    integrates: ClassVar[bool] = False
    """Whether it integrates latent variables out, and so weighs rows and not densities."""

    over_hosts: ClassVar[bool] = False
    """Whether it fits rows that are divided over several hosts: all that it does with them is sums
    that JAX takes."""

    has_elbo: ClassVar[bool] = False
    """Whether a law is fitted by an ELBO that may miss places where the density is 0."""
    by_default: ClassVar[bool] = True
    """Whether a comparison that names no methods runs it, where it applies."""

    def __post_init__(self) -> None:
        """Raise a :class:`ValueError` for an option of another type than its annotation."""
        check_fields(self)

    def __init_subclass__(cls) -> None:
        if not hasattr(cls, "key"):
            cls.key = cls.__name__.lower()

    @property
    def name(self) -> str:
        """Default name within a comparison: the key, where options make no difference to it."""
        return self.key

    def stream(self, name: str) -> str:
        """Return what seeds a fit of this name in a comparison, with the seed that all fits have.

        It is the name itself, but for a method that corrects another one's fit.
        """
        return name

    @property
    def dtype_used(self) -> str:
        """The floating-point type the method runs in."""
        return "float64"

    @property
    def is_point(self) -> bool:
        """Whether its result is a point, without any spread, whatever the model."""
        return False

    @property
    def where_it_jumps(self) -> Status | None:
        """The status of a fit that has jumps of the density within its reach, which slopes miss.

        ``None`` for methods that do not follow slopes.
        """
        return None

    def applies(self, target: Target) -> str | None:
        """Return ``None`` if the method applies to ``target``, else why not."""
        if self.dtype_used == "float32" and target.closes_over_arrays:
            return (
                f"model '{target.name}' closes over arrays instead of taking them as arguments, "
                "and JAX ties such arrays to one precision: pass them as arguments, or use "
                "dtype='float64'"
            )
        return why_not_single(target) if self.dtype_used == "float32" else None

    def check(self, target: Target) -> None:
        """Raise a :class:`ValueError` for options that do not go with ``target``.

        A comparison asks every method before it fits the first: sites that the model does not
        have, more rows in a batch than there are, a checkpoint that cannot be written.
        """
        self.applies(target)

    def refusal(self, target: Target) -> str | None:
        """Return ``None`` if the method fits ``target`` and means what its weights mean.

        See :meth:`applies` and :attr:`vi_recipes.Target.weighted_latents`.
        """
        if target.num_hosts > 1 and not _fits_over_hosts(type(self)):
            return (
                f"{self.key} does not fit rows that lie on {target.num_hosts} hosts: it reads some "
                f"outside compiled code, or has not been tried. Use one that does "
                f"({', '.join(sorted(_those_over_hosts()))}), or shard over the devices of one host"
            )
        return self.applies(target) or (target.weighted_latents if not self.integrates else None)

    @abstractmethod
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        """Fit, in the method's precision; raise :class:`MethodFailure` to give up."""

    @one_at_a_time
    def fit(
        self,
        target: Target | Model,
        *,
        key: jax.Array | int | None = None,
        seed: int | None = None,
        throw: bool = False,
        progress: Progress = silent,
        name: str | None = None,
    ) -> Fit:
        """Fit the method to ``target``.

        Parameters
        ----------
        target
            A model conditioned on data, or one with data of its own, as :func:`glmm` returns.
        key, seed
            A JAX key or an integer seed, by either name; the same key gives the same numbers.
        throw
            Raise :class:`FitError` when there is no result, instead of returning a fit that says
            why.
        progress
            Told how far the method has got, between its timed parts.
        name
            Name of the fit; the method's own by default.

        Returns
        -------
        Fit
            How it ended is its ``status``.

        Raises
        ------
        ValueError
            For a target without a finite density, indices out of bounds, options that name sites
            the model does not have, a checkpoint of another fit, or a key that is none.
        """
        target = as_target(target)
        key = one_seed(key, seed)
        check_key(key)
        timing = Timing()
        with timing.running():
            reason = self.refusal(target)
        try:
            if reason:
                raise MethodFailure(Status.NOT_APPLICABLE, reason)
            with (
                together(f"a fit by {self.key}") if target.num_hosts > 1 else nullcontext(),
                precision(self.dtype_used),
                on_one_core(target.dense_rows),
                target.compiled_once.shared(timing),
            ):
                result = self._given_up_or_done(target, as_key(key), timing, progress)
            result = _without_infinities(result, target, self.key)
        except MethodFailure as failure:
            result = Result(None, failure.status, failure.message, failure.advice)
        except (KeyboardInterrupt, ModelError, CheckpointError):
            raise
        except (Exception, SystemExit) as error:
            if throw:
                raise
            advice = "fit this method alone with throw=True for the whole traceback"
            result = Result(None, Status.FAILED, told(error), advice)
        fit = Fit(
            method=name or self.name,
            kind=self.key,
            config=self.options(),
            sites=target.quantities,
            coords=target.coords,
            timing=timing,
            provenance=provenance(
                target,
                seed=int(key) if isinstance(key, int | np.integer) else None,
                dtype=self.dtype_used,
            ),
            **{f.name: getattr(result, f.name) for f in dataclasses.fields(Result)},
        )
        if throw and not fit.has_result:
            raise FitError(fit.status, fit.explanation)
        return fit

    def _given_up_or_done(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> Result:
        """Fit, and look for jumps of the density, where the method gives up too."""
        try:
            result = self._mind_jumps(self._fit(target, key, timing, progress), target, timing)
        except MethodFailure as failure:
            result = Result(None, failure.status, failure.message, failure.advice)
            with suppress(ModelError):  # without a start there is nothing to look around
                result = self._mind_jumps(result, target, timing)
        with timing.running():
            return self._mind_ends(result, target)

    def _mind_jumps(self, result: Result, target: Target, timing: Timing) -> Result:
        """Return a result as it is, or :attr:`where_it_jumps` if its density does within reach."""
        status = self.where_it_jumps
        if status is None:
            return result
        with timing.running_compiled():
            met = met_jumps(result.posterior, target, timing)
            if not met and result.status is Status.COLLAPSED:  # what has no spread reaches nothing
                met = met_jumps(None, target, timing)
        if not met:
            return result
        message = f"{met}: the slopes that {self.key} follows do not see it"
        if result.status.has_result and status.has_result:
            if isinstance(result.posterior, PointPosterior):
                message += ", so this is the mode of one piece, and others may be higher"
            message += f"; {result.message}"
            return dataclasses.replace(result, status=status, message=message, advice=ADVICE)
        if not result.status.has_result:  # there are no numbers, for a reason of its own
            status = result.status if status.has_result else status
            message += f"; {result.message}"
        return Result(None, status, message, ADVICE, trace=result.trace)

    def _mind_ends(self, result: Result, target: Target) -> Result:
        """Return a result as it is, unless the density ends, is 0 beyond, where its law has mass.

        A search that ends beside such a place, or comes to nothing, is told of it.
        """
        if result.posterior is None or not result.status.has_result:
            lost = {Status.SINGULAR}
            if self.has_elbo:
                lost |= {Status.DIVERGED, Status.DEGENERATE}
            elif self.where_it_jumps is Status.UNCONVERGED:  # it follows slopes at draws
                lost |= {Status.DIVERGED}
            if result.status not in lost or not target.flows.ending:
                return result
            why = f"{sites_ending(target)}: no slope is 0 at such an end, no ELBO finite beyond"
            message = f"{result.message}; {why}"
            return dataclasses.replace(result, message=message, advice=ADVICE_AT_ENDS)
        if self.has_elbo:
            end = end_within(result.posterior, target)
        elif result.status is Status.UNCONVERGED:
            end = end_beside(result.posterior, target)
        else:
            return result
        if end is None:
            return result
        if end.is_met:
            return Result(None, Status.DIVERGED, end.text, ADVICE_AT_ENDS, trace=result.trace)
        return dataclasses.replace(
            result,
            status=Status.UNCONVERGED,
            message=f"{end.text}; {result.message}",
            advice=ADVICE_AT_ENDS,
        )

    def options(self) -> dict[str, Any]:
        """Return the options by name; functions and objects by their own name."""
        return {f.name: _describe(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @property
    def objects(self) -> list[str]:
        """The options of which :meth:`options` has a name alone, as of a guide of the user's own.

        Those of a method that it corrects have its option in front, as in ``"base.factors"``.
        """
        found = []
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            if isinstance(value, Method):
                found += [f"{one.name}.{name}" for name in value.objects]
            elif not _is_plain(value):
                found.append(one.name)
        return found

    def in_words(self) -> str:
        """Return the class and its options in words, those of a method that it corrects too."""
        base = getattr(self, "base", None)
        after = f" of {base.in_words()}" if isinstance(base, Method) else ""
        return f"{type(self).__name__} {self.options()}{after}"


def _fits_over_hosts(kind: type[Method]) -> bool:
    """Whether a class itself says so: one that is made of it may do more with rows."""
    return bool(vars(kind).get("over_hosts", False))


def _those_over_hosts(kind: type[Method] = Method) -> set[str]:
    """Return the keys of the classes made of ``kind`` that say so, at any remove."""
    keys = {made.key for made in kind.__subclasses__() if _fits_over_hosts(made)}
    return keys.union(*map(_those_over_hosts, kind.__subclasses__()))


def _without_infinities(result: Result, target: Target, kind: str) -> Result:
    """Return a result without numbers where a latent site's mean or sd is not finite.

    An sd that is NaN is one that the method does not have. What the model derives from its latent
    sites may be infinite by its nature (a ratio, say): the message then names it. Points are left
    alone: where the maximum likelihood of a probability is 0 its logit is infinite, and what it is
    conditional on has no value; their methods say so.
    """
    if result.posterior is None or not result.status.has_result:
        return result
    if isinstance(result.posterior, PointPosterior):
        return result
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = result.posterior.mean(), result.posterior.sd()
    lost = [
        site.name
        for site in target.quantities
        if not np.isfinite(mean[site.name]).all() or np.isinf(sd[site.name]).any()
    ]
    latent = [site.name for site in target.latents if site.name in lost]
    if latent:
        return Result(
            None,
            Status.DIVERGED,
            f"the mean or sd of {', '.join(latent)} is not finite in double precision: the "
            f"approximation is far too wide there, or has run away ({result.message})",
            f"{'' if kind == 'nuts' else 'use NUTS, or '}a tighter prior that keeps the site from "
            "where it runs to",
            trace=result.trace,
        )
    if lost:
        note = f"the mean or sd of {', '.join(lost)}, derived from latent sites, is not finite"
        return dataclasses.replace(result, message=f"{result.message}; {note}".lstrip("; "))
    return result


def _is_plain(value: Any) -> bool:
    """Whether :func:`_describe` says all of a value that there is to it."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str | np.generic | PurePath)


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple | list):
        return [_describe(v) for v in value]
    if isinstance(value, Mapping):
        return {str(k): _describe(v) for k, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Method):
        default = type(value)().options()
        changed = {n: v for n, v in value.options().items() if v != default[n]}
        listed = ", ".join(f"{n}={v!r}" for n, v in changed.items())
        return f"{type(value).__name__}({listed})" if listed else type(value).__name__
    return getattr(value, "__name__", type(value).__name__)
