"""The reference answers' data as arguments of the shipped models, and their labels as ours."""

from __future__ import annotations

from typing import Any

import numpy as np


def arguments(name: str, raw: dict[str, Any]) -> dict[str, Any]:
    """Return the model's arguments from the reference's data, whose labels count from one."""
    if name == "radon":
        return {
            "log_radon": np.array(raw["y"]),
            "floor": np.array(raw["x"]),
            "log_uranium": np.array(raw["u"]),
            "county": np.array(raw["county"]) - 1,
            "num_counties": raw["J"],
        }
    if name == "cbpp":  # its herds count from zero
        period = np.array(raw["period"])
        return {
            "incidence": np.array(raw["incidence"]),
            "size": np.array(raw["size"]),
            "X": (period[:, None] == [2, 3, 4]).astype(float),
            "herd": np.array(raw["herd"]),
            "num_herds": 15,
        }
    if name == "seeds":
        return {
            "germinated": np.array(raw["n"]),
            "size": np.array(raw["N"]),
            "x1": np.array(raw["x1"], float),
            "x2": np.array(raw["x2"], float),
        }
    if name == "penicillin":  # its plates and samples count from zero
        return {
            "diameter": np.array(raw["diameter"], float),
            "plate": np.array(raw["plate"]),
            "sample": np.array(raw["sample"]),
            "num_plates": 24,
            "num_samples": 6,
        }
    names = {"eight_schools": ("y", "sigma"), "gaussian_mixture_1d": ("y",)}[name]
    return {key: np.array(raw[key], float) for key in names}


def label(name: str, text: str) -> str:
    """Return the zero-based label of one that counts from one, or names a period or a letter."""
    site, bracket, index = text.rstrip("]").partition("[")
    if name == "penicillin":
        site = {"plate": "u", "sample": "v", "mu-23": "mu"}.get(site, site)
    if not bracket:
        return site
    if index.isalpha():
        return f"{site}[{ord(index.lower()) - ord('a')}]"
    first = 2 if index.startswith("period") else 1
    return f"{site}[{int(index.removeprefix('period')) - first}]"
