"""All hostile cases, by kind."""

from __future__ import annotations

from hostile import data_files, densities, folders, formulas, model_files, names, settings
from hostile.case import Case

KINDS: dict[str, list[Case]] = {
    "data files": data_files.CASES,
    "model files": model_files.CASES,
    "options": settings.CASES,
    "formulas": formulas.CASES,
    "densities": densities.CASES,
    "names": names.CASES,
    "folders": folders.CASES,
}
