"""What simulations say of a method, in numbers and in plain words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.calibration.ranks import Outcome
from vi_recipes.calibration.uniformity import (
    LEVEL,
    EcdfBand,
    ecdf_band,
    holm,
    shift,
    spread,
    spread_about_mean,
    symmetry_p_value,
)
from vi_recipes.fit import Provenance
from vi_recipes.report import strict

if TYPE_CHECKING:
    import pandas as pd

NOTABLE = 2.0
"""z-score from which a spread is named as what makes ranks uneven."""

FEW_FAILURES = 0.05
"""Share of fits without a result beyond which the rest may be a selection."""

FEW_SIMULATIONS = 100
"""Below so many only gross errors show."""


class Fault(Enum):
    """What is wrong with a method's draws of a quantity. The value is how it is put."""

    TOO_NARROW = "too narrow"
    TOO_WIDE = "too wide"
    TOO_LOW = "too low"
    TOO_HIGH = "too high"
    UNEVEN = "not uniform"
    """Nothing of the above, and still the ranks are not uniform."""


@dataclass(frozen=True)
class RankJudgement:
    """How even the ranks of one quantity are.

    Parameters
    ----------
    label
        The scalar.
    p_value
        Of the ECDF's largest excursion; its band is left where it is below 0.05.
    holm
        The same, accounting for the number of quantities (Holm's rule).
    shift
        z-score of the mean rank: positive where the draws lie below the truth.
    spread
        z-score of the mean squared distance from the middle: positive where draws are too narrow.
    symmetry
        p-value of the test that the draws' bias is zero, whatever their spread.
    faults
        What makes the ranks uneven; none where they are uniform, up to chance.
    """

    label: str
    p_value: float
    holm: float
    shift: float
    spread: float
    symmetry: float
    faults: tuple[Fault, ...]

    @property
    def verdict(self) -> str:
        """The faults in words, or ``"uniform"``."""
        return ", ".join(fault.value for fault in self.faults) or "uniform"

    @property
    def outside(self) -> bool:
        """Whether the ECDF leaves its 95 % band."""
        return self.p_value < 1 - LEVEL


@dataclass(frozen=True)
class Ranked:
    """The ranks of true parameters among a method's draws, over simulated data, and what they say.

    Its fields are explained where users meet them, in
    :class:`~vi_recipes.calibration.calibration.Calibration`, which adds the report.
    """

    model: str
    method: str
    config: Mapping[str, Any]
    num_simulations: int
    num_draws: int
    labels: tuple[str, ...]
    outcomes: Mapping[int, Outcome]
    notes: Sequence[str] = ()
    provenance: Provenance = field(default_factory=Provenance)
    interrupted: bool = False

    @cached_property
    def ranks(self) -> np.ndarray:
        """Ranks, 0 to ``num_draws``, shape (simulations with a result, quantities)."""
        rows = [o.ranks for o in self.outcomes.values() if o.ranks is not None]
        return np.array(rows, int).reshape(len(rows), len(self.labels))

    @property
    def failures(self) -> dict[int, str]:
        """Number of each simulation whose fit has no result -> why."""
        return {k: o.reason for k, o in self.outcomes.items() if o.ranks is None}

    @property
    def doubts(self) -> dict[int, str]:
        """Number of each simulation whose fit says something against itself -> what."""
        return {k: o.reason for k, o in self.outcomes.items() if o.ranks is not None and o.reason}

    @property
    def band(self) -> EcdfBand:
        """The simultaneous 95 % band of every ECDF."""
        return ecdf_band(len(self.ranks), self.num_draws)

    @cached_property
    def judgements(self) -> tuple[RankJudgement, ...]:
        """One for each quantity; none where no fit has a result."""
        if not len(self.ranks):
            return ()
        p_values = np.array([self.band.p_value(r) for r in self.ranks.T])
        return tuple(
            _judge(label, ranks, self.num_draws, p, adjusted)
            for label, ranks, p, adjusted in zip(
                self.labels, self.ranks.T, p_values, holm(p_values), strict=True
            )
        )

    @property
    def calibrated(self) -> bool | None:
        """Whether no quantity's ranks are uneven, their number accounted for; ``None`` if unknown.

        ``True`` says no more than that so many simulations show nothing.
        """
        if not self.judgements:
            return None
        return all(j.holm >= 1 - LEVEL for j in self.judgements)

    @property
    def verdict(self) -> str:
        """What the simulations say, in sentences."""
        if not self.judgements:
            return f"Unknown: none of {len(self.outcomes)} fits has a result."
        outside = [j for j in self.judgements if j.outside]
        sure = [j for j in self.judgements if j.holm < 1 - LEVEL]
        total, n = len(self.judgements), len(self.ranks)
        chance = (1 - LEVEL) * total
        count = (
            f"{len(outside)} of {total} quantities leave{'s' if len(outside) == 1 else ''} the "
            f"95 % band, where {chance:.2g} would by chance"
        )
        if not sure:
            lead = f"No miscalibration seen in {n} simulations: {count}"
            if outside:
                lead += f" ({_listed(outside)}), none beyond what their number explains"
            reach = f"ECDFs of ranks may still be off by {self.band.half_width:.2f} unseen"
            return f"{lead}. {reach}."
        faults = Counter(fault for j in sure for fault in j.faults)
        what = ", ".join(f"{fault.value} ({number})" for fault, number in faults.most_common())
        return (
            f"Not calibrated: {count}, {len(sure)} of them by more than their number explains. "
            f"{what[0].upper()}{what[1:]}: {_listed(sure)}."
        )

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before the verdict."""
        sentences = []
        done, failed, n = len(self.outcomes), len(self.failures), len(self.ranks)
        if self.interrupted:
            sentences.append(
                f"Interrupted: {done} of {self.num_simulations} simulations were done."
            )
        if failed > FEW_FAILURES * max(done, 1):
            sentences.append(
                f"{failed} of {done} fits have no result. The verdict is on the others, and holds "
                "for data on which the method succeeds: they are not the data that the prior "
                "makes, so their ranks need not be uniform even where every fit is exact."
            )
        thin = sum(o.ranks is not None and o.ess < self.num_draws for o in self.outcomes.values())
        if thin:
            sentences.append(
                f"{thin} of {n} fits have fewer effective draws than the {self.num_draws} among "
                "which the truth is ranked, so that ranks at both ends are too many. Raise the "
                "sampler's num_samples, or lower the number of draws."
            )
        if 0 < n < FEW_SIMULATIONS:
            sentences.append(
                f"{n} simulations show gross errors only; 200 or more show finer ones."
            )
        return sentences

    def table(self) -> pd.DataFrame:
        """Return a row a quantity: verdict, p-values, and z-scores of shift and spread."""
        import pandas as pd

        return pd.DataFrame(
            {
                "quantity": [j.label for j in self.judgements],
                "verdict": [j.verdict for j in self.judgements],
                "p": [j.p_value for j in self.judgements],
                "p (Holm)": [j.holm for j in self.judgements],
                "shift z": [j.shift for j in self.judgements],
                "spread z": [j.spread for j in self.judgements],
                "symmetry p": [j.symmetry for j in self.judgements],
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as nested dicts, lists and numbers that strict JSON can hold."""
        content = {
            "model": self.model,
            "method": self.method,
            "options": dict(self.config),
            "verdict": self.verdict,
            "calibrated": self.calibrated,
            "warnings": self.warnings,
            "num_simulations": self.num_simulations,
            "num_draws": self.num_draws,
            "interrupted": self.interrupted,
            "quantities": [
                {
                    "label": j.label,
                    "verdict": j.verdict,
                    "p_value": j.p_value,
                    "p_value_holm": j.holm,
                    "shift_z": j.shift,
                    "spread_z": j.spread,
                    "symmetry_p_value": j.symmetry,
                    "outside_band": j.outside,
                }
                for j in self.judgements
            ],
            "ranks": {
                str(k): o.ranks.tolist() for k, o in self.outcomes.items() if o.ranks is not None
            },
            "failures": {str(k): reason for k, reason in self.failures.items()},
            "doubts": {str(k): reason for k, reason in self.doubts.items()},
            "seconds": sum(o.seconds for o in self.outcomes.values()),
            "compile_seconds": sum(o.compile_seconds for o in self.outcomes.values()),
            "notes": list(self.notes),
            "seed": self.provenance.seed,
            "data_fingerprint": self.provenance.data_fingerprint,
            "device": self.provenance.device,
            "dtype": self.provenance.dtype,
            "versions": dict(self.provenance.versions),
        }
        return {key: strict(value) for key, value in content.items()}

    def _repr_html_(self) -> str:
        return f"<b>{self.method} on {self.model}</b>: {self.verdict}" + str(self.table().to_html())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r} on {self.model!r}: {self.verdict})"


def _judge(
    label: str, ranks: np.ndarray, num_draws: int, p_value: float, adjusted: float
) -> RankJudgement:
    moved, wide = shift(ranks, num_draws), spread(ranks, num_draws)
    symmetry = symmetry_p_value(ranks, num_draws)
    faults = []
    if wide > NOTABLE and spread_about_mean(ranks, num_draws) > NOTABLE:
        faults.append(Fault.TOO_NARROW)
    if wide < -NOTABLE:
        faults.append(Fault.TOO_WIDE)
    # not by the mean rank: draws that are too narrow make one that is off by chance more so
    if symmetry < 1 - LEVEL:
        faults.append(Fault.TOO_LOW if moved > 0 else Fault.TOO_HIGH)
    uneven = tuple(faults) or (Fault.UNEVEN,)
    return RankJudgement(
        label=label,
        p_value=float(p_value),
        holm=float(adjusted),
        shift=moved,
        spread=wide,
        symmetry=symmetry,
        faults=() if p_value >= 1 - LEVEL else uneven,
    )


def _listed(judgements: Sequence[RankJudgement], most: int = 6) -> str:
    """Return labels, the worst first."""
    worst = sorted(judgements, key=lambda j: (j.p_value, -max(abs(j.shift), abs(j.spread))))
    more = f" and {len(worst) - most} more" if len(worst) > most else ""
    return ", ".join(j.label for j in worst[:most]) + more
