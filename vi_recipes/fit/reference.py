"""Reference answers from outside: published posteriors, as a fit to compare against."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vi_recipes.core import Status, Timing, check_arguments, unknown, unreadable
from vi_recipes.fit.fit import Fit
from vi_recipes.fit.records import provenance
from vi_recipes.model import Target, labels_by_site
from vi_recipes.posterior import MomentsPosterior

LARGEST = sys.float_info.max
"""Of all floating-point numbers; NaN is not below it."""


@check_arguments("source", "target")
def load_reference(source: str | Path | Mapping[str, Any], target: Target) -> Fit:
    """Return reference answers as a :class:`Fit` of ``target``.

    Parameters
    ----------
    source
        A JSON file, or its content: ``{"source": how it was made, "parameters": {label: {"mean":
        ..., "sd": ..., "mcse": ...}}}`` with zero-based labels (``a[0]``) and values on the
        constrained scale. ``mcse`` is the Monte Carlo standard error of the mean, and may be left
        out. Optional are ``"method"``, the name to show, "reference" otherwise; ``"mcse_sd"`` of a
        parameter; ``"covariance": {"sites": [...], "values": [[...]]}``, the joint covariance of
        the scalars of some sites; ``"total_seconds"``, what the answers took, compilation included;
        and ``"data_fingerprint"``, of the data that the answers are for.
    target
        Gives the sites; scalars without an answer are NaN.

    Raises
    ------
    ValueError
        For a file that is not such JSON, labels the target does not have, or other data.
    """
    called = "reference" if isinstance(source, Mapping) else f"reference {source}"
    if isinstance(source, Mapping):
        content: Mapping[str, Any] = source
    else:
        try:
            if reason := unreadable(Path(source)):
                raise ValueError(reason)
            content = json.loads(Path(source).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{called}: cannot be read as JSON ({error})") from None
        if not isinstance(content, Mapping):
            raise ValueError(
                f"{called}: got a JSON {type(content).__name__}, expected an object with "
                '"parameters": label -> {"mean": ..., "sd": ...}'
            )
    answers = content.get("parameters")
    if not isinstance(answers, Mapping):
        raise ValueError(f'{called}: it has no "parameters" mapping of label to mean and sd')
    _check_numbers(answers, called)
    labels = labels_by_site(target.quantities)
    known = {label for several in labels.values() for label in several}
    if strangers := [label for label in answers if label not in known]:
        raise ValueError(
            f"{called}: label(s) {', '.join(strangers[:5])} are not among the target's, such as "
            f"{', '.join(target.labels()[:5])}"
        )

    made_for = content.get("data_fingerprint")
    if made_for not in (None, target.fingerprint):
        raise ValueError(
            f"{called}: its answers are for data with fingerprint {made_for}, and these data have "
            f"{target.fingerprint}; leave the reference out, or use the data it was made for"
        )

    def column(key: str, default: float) -> dict[str, np.ndarray]:
        return {
            s.name: np.array(
                [answers.get(label, {}).get(key, default) for label in labels[s.name]], float
            ).reshape(s.shape)
            for s in target.quantities
        }

    means, sds, errors = column("mean", np.nan), column("sd", np.nan), column("mcse", 0.0)
    # mcse = sd / sqrt(ESS), and the error of an sd is about sd / sqrt(2 ESS)
    given = column("mcse_sd", np.nan)
    errors_sd = {
        name: np.where(np.isnan(given[name]), error / np.sqrt(2), given[name])
        for name, error in errors.items()
    }
    order, covariance = _joint(content.get("covariance"), target, called)
    return Fit(
        method=str(content.get("method") or "reference"),
        status=Status.OK,
        message=str(content.get("source", "")),
        sites=target.quantities,
        coords=target.coords,
        posterior=MomentsPosterior(
            means, sds, covariance, order, mcse_means=errors, mcse_sds=errors_sd
        ),
        timing=_timing(content.get("total_seconds", 0.0), called),
        provenance=provenance(target, seed=None, dtype="float64"),
    )


def _check_numbers(answers: Mapping[str, Any], called: str) -> None:
    """Raise a :class:`ValueError` unless every answer is made of numbers that it can have."""
    for label, answer in answers.items():
        if not isinstance(answer, Mapping):
            raise ValueError(
                f"{called}: '{label}' is {answer!r}, expected an object with its mean and sd"
            )
        for key in ("mean", "sd", "mcse", "mcse_sd"):
            value = answer.get(key, 0.0)
            if not _is_number(value) or (key != "mean" and value < 0):
                expected = "a number" if key == "mean" else "a number that is not negative"
                raise ValueError(
                    f"{called}: the {key} of '{label}' is {value!r}, expected {expected}"
                )


def _timing(total: Any, called: str) -> Timing:
    """Return the seconds that the answers took; raise a :class:`ValueError` if they are none."""
    if not _is_number(total) or total < 0:
        raise ValueError(
            f"{called}: its total_seconds are {total!r}, expected a number that is not negative"
        )
    return Timing(run_seconds=float(total))


def _is_number(value: Any) -> bool:
    """Say whether something from a JSON file is a finite number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= LARGEST


def _joint(given: Any, target: Target, called: str) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Return the sites of a joint covariance and its numbers; none where none is given.

    Raises
    ------
    ValueError
        For sites that the target does not have, or a matrix of another size than theirs.
    """
    if not given:
        return (), None
    if not isinstance(given, Mapping) or not {"sites", "values"} <= set(given):
        raise ValueError(f'{called}: its covariance must be an object with "sites" and "values"')
    sizes = {site.name: site.size for site in target.quantities}
    order = tuple(map(str, given["sites"]))
    for name in order:
        if name not in sizes:
            raise ValueError(f"{called}: covariance: {unknown('site', name, sizes)}")
    size = sum(sizes[name] for name in order)
    try:
        values = np.asarray(given["values"], float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{called}: its covariance is no matrix of numbers ({error})") from None
    if values.shape != (size, size):
        raise ValueError(
            f"{called}: its covariance has shape {values.shape}, expected ({size}, {size}), that "
            f"of the scalars of {', '.join(order)}"
        )
    return order, values
