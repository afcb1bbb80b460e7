"""A job on its way, with the versions of what it was made by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

MATTERS = ("jax", "jaxlib", "numpyro", "vi_recipes")
"""Packages whose versions decide what numbers come out."""


@dataclass(frozen=True)
class Packed:
    """A job on its way: versions in plain words, and all else in bytes that need them to be read.

    Parameters
    ----------
    content
        What :func:`vi_recipes.cells.sending.unpack` makes a job from.
    versions
        Package -> its version where the job comes from.
    """

    content: bytes
    versions: Mapping[str, str]

    @property
    def mark(self) -> str:
        """What tells one job from another."""
        return hashlib.sha256(self.content).hexdigest()


def known_versions() -> dict[str, str]:
    """Return the versions of what decides numbers; ``"none"`` for what is not installed."""
    return {name: _version(name) for name in MATTERS}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"
