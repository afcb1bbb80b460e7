"""What a family of guides is: all that is to be known of it, in one record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vi_recipes.methods.guides.coordinates import Coordinates, FittedGuide
from vi_recipes.posterior import Posterior

FALLING, STEADY = 0.04, 0.01
"""Adam's first step size where it can fall of itself, and where it stays as it is.

Prior medians may be tens of units away, and Adam goes no further than its step size in a step: 0.01
has not crossed a vague prior after thousands of steps.
"""

Params = Mapping[str, Any]
"""Parameters of a guide by name, constrained."""

Scales = Mapping[str, Callable[[Params], Any]]
"""Location parameter -> the guide's sds on the parameter's scale, from constrained parameters."""

type Parent = tuple[Any, str]
"""A block that others depend on, and the site of it; no name stands for all its sites together."""


@dataclass(frozen=True, kw_only=True)
class GuideFamily:
    """A family of guides, of all latent sites or of a block of them.

    Parameters
    ----------
    make
        NumPyro's class, ``make(model, init_loc_fn=...) -> guide``. Guides of its subclasses that
        have no entry of their own are of this family too.
    about
        What it can represent as a guide of all sites, what it costs and what it gets wrong; without
        a full stop. Empty where it has no name to be chosen by.
    about_block
        The same, of a block of sites.
    read
        ``read(guide, fitted) -> posterior`` of a guide of all sites; ``None`` for families of
        blocks alone.
    place
        ``place(block, coordinates)`` has the coordinates take in what a block says of its sites;
        ``None`` where its law has no closed form, and lists that hold it must be drawn from.
    scales
        ``scales(guide) -> location parameters with the sds that go with them``; ``None`` where it
        has none, so that no rule watches it.
    parents
        ``parents(block, sites) -> what conditional normals may depend on``, of those sites of the
        block that share no plate with them; ``None`` where there is nothing.
    step_size
        Of Adam at first, where the user says nothing.
    point
        Whether its draws are a point, so that the ELBO is no bound on the evidence.
    fits_point
        Whether it is fitted as a point, so that the objective needs no fresh draws.
    joint
        Whether it is one law over all its coordinates, which is no product over the members of a
        plate.
    flow
        Whether neural networks transform its coordinates: it needs two of them, and no scan.
    conditional
        Whether it depends on other blocks.
    averages
        Whether it takes the place of its own draw in the ELBO by an expectation, so that what is
        left is no log weight of a draw.
    encodes
        Whether it maps the data of rows to the laws of their latent variables.
    keeps_density
        Whether the guide keeps the model's density from its set-up, which then cannot be traced.
    no_density, no_score, all_rows, rows_in_memory
        Why it does not go with objectives that take its density, with those that take its score,
        with minibatches, and with those from files; empty where it does.
    """

    make: type
    about: str = ""
    about_block: str = ""
    read: Callable[[Any, FittedGuide], Posterior] | None = None
    place: Callable[[Any, Coordinates], None] | None = None
    scales: Callable[[Any], Scales | None] | None = None
    parents: Callable[[Any, Sequence[str]], list[Parent]] | None = None
    step_size: float = STEADY
    point: bool = False
    fits_point: bool = False
    joint: bool = False
    flow: bool = False
    conditional: bool = False
    averages: bool = False
    encodes: bool = False
    keeps_density: bool = False
    no_density: str = ""
    no_score: str = ""
    all_rows: str = ""
    rows_in_memory: str = ""
