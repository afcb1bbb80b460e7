"""Notes of a comparison: sentences, some of a kind that is looked for later."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Self

from vi_recipes.model import Target


class NoteKind(StrEnum):
    """What a note is about, where that matters."""

    OTHER = "other"
    BY_WORKERS = "by workers"
    """Who fitted what, one at a time on each machine."""
    SIDE_BY_SIDE = "side by side"
    """Who fitted what, several at once on a machine."""
    RESUMED = "resumed"
    """What became of the fits of an earlier comparison in the folder."""
    REPLACED = "replaced"
    """That they were of another target, and are gone."""
    LOST_EXHIBITS = "lost exhibits"
    """Why a study's exhibits end before the last."""
    FLAT_PRIORS = "flat priors"
    """That priors are flat, and what log evidence is then."""
    UNDECLARED_LABELS = "undeclared labels"
    """That components may change places, which the model does not declare."""


class Note(str):
    """A sentence that knows its kind.

    Parameters
    ----------
    text
        The sentence.
    kind
        What it is about.
    """

    kind: NoteKind

    def __new__(cls, text: str, kind: NoteKind | str = NoteKind.OTHER) -> Self:
        """Return the sentence, of a kind."""
        made = super().__new__(cls, text)
        made.kind = NoteKind(kind)
        return made


def model_notes(target: Target) -> list[Note]:
    """Return what is to be said of a model: that priors are flat, or that nothing is observed."""
    notes = []
    latents = {site.name for site in target.latents}
    # factors are found by the flows alone, and these take a trace
    if target.data and not target.observed and not target.flows.densities.keys() - latents:
        said = "The model has data, and no site with obs=...: what is fitted is its prior."
        notes.append(Note(said))
    if target.flat:
        said = (
            "Priors are flat, so that log evidence is defined up to a constant alone: it compares "
            "methods, not models."
        )
        notes.append(Note(said, NoteKind.FLAT_PRIORS))
    return notes


def of_kind(notes: Sequence[str], *kinds: NoteKind) -> list[str]:
    """Return the notes of some kinds."""
    return [note for note in notes if _kind(note) in kinds]


def notes_to_json(notes: Sequence[str]) -> list[dict[str, str]]:
    """Return notes as a file holds them."""
    return [{"kind": _kind(note).value, "text": str(note)} for note in notes]


def notes_from_json(entries: Sequence[dict[str, str]]) -> list[Note]:
    """Return notes that :func:`notes_to_json` has written."""
    return [Note(entry["text"], entry["kind"]) for entry in entries]


def _kind(note: str) -> NoteKind:
    return note.kind if isinstance(note, Note) else NoteKind.OTHER
