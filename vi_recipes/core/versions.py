"""Versions of the packages that numbers come from."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache  # what is loaded does not change, and a look at the disk takes a millisecond
def version_of(package: str) -> str:
    """Return the version of a package, ``"none"`` of one that is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
