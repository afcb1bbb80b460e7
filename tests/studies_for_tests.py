"""Exhibits of studies at small sizes."""

from __future__ import annotations

from typing import Any

import pytest

import vi_recipes as vr
from vi_recipes.core.progress import silent
from vi_recipes.report.style import style


def made(
    study: vr.Study,
    this: vr.Target,
    methods: dict[str, vr.Method],
    constants: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> list[vr.Exhibit]:
    """Return a study's exhibits for other methods and other constants than its own."""
    assert study.exhibits is not None
    for name, value in constants.items():
        monkeypatch.setitem(study.exhibits.__globals__, name, value)
    reference = next(iter(methods), None)
    c = vr.Comparison({})
    if methods:  # no exhibit reads an assessment
        c = vr.compare(this, methods, reference=reference, assessed=False)
    with style():
        return list(study.exhibits(c, this, 0, silent))
