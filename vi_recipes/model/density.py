"""The log density over one flat vector, and its transforms."""

from __future__ import annotations

BATCH = 128
"""Points that are constrained in one call of compiled code."""


MAX_AT_ONCE = 2**23
"""Coordinates of all of them together, at most."""
