"""A job on its way, with the versions of what it was made by."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from vi_recipes.core import version_of

MATTERS = ("jax", "jaxlib", "numpyro", "vi_recipes")
"""Packages whose versions decide what numbers come out."""


@dataclass(frozen=True)
class Packed:
    """A job on its way: versions in plain words, and all else in bytes that need them to be read.

    Parameters
    ----------
    content
        What :func:`vi_recipes.cells.sending.unpack` makes a job from.
    mark
        What tells one job from another.
    versions
        Package -> its version where the job comes from.
    sender
        The machine's name and the number of the process that it comes from.
    """

    content: bytes
    mark: str
    versions: Mapping[str, str]
    sender: tuple[str, int]


def this_process() -> tuple[str, int]:
    """Return the machine's name and the number of this process."""
    return platform.node(), os.getpid()


def known_versions() -> dict[str, str]:
    """Return the versions of what decides numbers; ``"none"`` for what is not installed."""
    return {name: version_of(name) for name in MATTERS}
