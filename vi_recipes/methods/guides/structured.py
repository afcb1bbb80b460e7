"""Structured guides: a family for every block of sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, override

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.distributions.transforms import AffineTransform
from numpyro.infer import autoguide, init_to_value

from vi_recipes.core import unknown
from vi_recipes.elbo import SUPPORTS, check_support
from vi_recipes.methods.guides.amortised import Amortised, AutoAmortised
from vi_recipes.methods.guides.conditional import AutoConditionalNormal, AutoStructured
from vi_recipes.model import Site, Target

INIT_SD = 0.1
"""Standard deviation of a block's coordinates at first, unconstrained, as in NumPyro's guides."""


FALLING, STEADY = 0.04, 0.01
"""Adam's first step size where it can fall of itself, and where it stays as it is.

Prior medians may be tens of units away, and Adam goes no further than its step size in a step: 0.01
has not crossed a vague prior after thousands of steps.
"""


class AutoFactors(autoguide.AutoGuide):  # type: ignore[misc]
    """Independent gamma, beta or Dirichlet laws on the constrained scale.

    Every law has a mean and a concentration: the shape of a gamma law, the sum of the two
    parameters of a beta law and of all those of a Dirichlet law. The two are orthogonal, or nearly
    so, in the Fisher metric, which is what step sizes by coordinate ask for.

    Parameters
    ----------
    model
        The model with all but the block's sites hidden.
    family
        ``"gamma"``, ``"beta"`` or ``"dirichlet"``.
    """

    def __init__(self, model: Callable[..., Any], family: str, **options: Any) -> None:
        self.family = family
        super().__init__(model, **options)

    @override
    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        with handlers.block():
            self._init_values = self._postprocess_fn(self._init_locs)

    @property
    def sites(self) -> list[str]:
        """The block's sites."""
        return block_sites(self)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw the block's sites."""
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        plates = self._create_plates(*args, **kwargs)
        drawn = {}
        for name in self.sites:
            with ExitStack() as stack:
                for frame in self.prototype_trace[name]["cond_indep_stack"]:
                    stack.enter_context(plates[frame.name])
                drawn[name] = numpyro.sample(name, self._law(name))
        return drawn

    def _law(self, name: str) -> dist.Distribution:
        fn = self.prototype_trace[name]["fn"]
        event_dim = fn.event_dim

        def parameters(kind: Any, mean: Any, size: Any, size_dim: int) -> tuple[Any, Any]:
            # only called where nothing is substituted: what the set-up knew is gone afterwards
            return (
                numpyro.param(
                    f"{name}_{self.prefix}_mean",
                    lambda _: mean(self._init_values[name]),
                    constraint=kind,
                    event_dim=event_dim,
                ),
                numpyro.param(
                    f"{name}_{self.prefix}_concentration",
                    lambda _: INIT_SD**-2 * size(self._init_values[name]),
                    constraint=dist.constraints.positive,
                    event_dim=size_dim,
                ),
            )

        # concentrations at first give the coordinates, logs or logits, about INIT_SD
        if self.family == "gamma":
            mean, size = parameters(
                dist.constraints.positive, lambda x: x, jnp.ones_like, event_dim
            )
            return dist.Gamma(size, size / mean).to_event(event_dim)
        if self.family == "dirichlet":
            mean, size = parameters(
                dist.constraints.simplex,
                lambda x: x,
                lambda x: jnp.full_like(x[..., 0], x.shape[-1]),
                event_dim - 1,
            )
            return dist.Dirichlet(mean * size[..., None]).to_event(event_dim - 1)
        base = fn.support
        while isinstance(base, dist.constraints.independent):
            base = base.base_constraint
        low, width = base.lower_bound, base.upper_bound - base.lower_bound
        mean, size = parameters(
            dist.constraints.unit_interval,
            lambda x: (x - low) / width,
            lambda x: width**2 / ((x - low) * (low + width - x)),
            event_dim,
        )
        law = dist.Beta(mean * size, (1 - mean) * size)
        if base is not dist.constraints.unit_interval:
            to_support = AffineTransform(low, width, domain=dist.constraints.unit_interval)
            law = dist.TransformedDistribution(law, to_support)
        return law.to_event(event_dim)

    @override
    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: Mapping[str, Any],
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return draws of the block's sites."""
        laws = handlers.substitute(lambda: {n: self._law(n) for n in self.sites}, data=params)()
        keys = jax.random.split(rng_key, len(laws))
        return {
            name: law.sample(key, sample_shape)
            for key, (name, law) in zip(keys, laws.items(), strict=True)
        }


@dataclass(frozen=True)
class BlockFamily:
    """A family of laws for a block of sites.

    Parameters
    ----------
    make
        ``make(model, prefix=..., init_loc_fn=...) -> guide``, of the model with all but the
        block's sites hidden.
    about
        What it is.
    step_size
        Of Adam at first, where the user says nothing.
    """

    make: Callable[..., Any]
    about: str
    step_size: float = FALLING


def _factors(family: str) -> Callable[..., Any]:
    return lambda model, **options: AutoFactors(model, family, **options)


CONDITIONAL = "conditional_normal"
NORMALS = ("normal", "multivariate_normal")
"""Families of blocks that conditional ones may depend on."""

BLOCK_FAMILIES: dict[str, BlockFamily] = {
    "normal": BlockFamily(autoguide.AutoNormal, "independent normals, unconstrained scale"),
    "multivariate_normal": BlockFamily(
        autoguide.AutoMultivariateNormal, "one normal over all that the pattern matches"
    ),
    "lowrank_normal": BlockFamily(
        autoguide.AutoLowRankMultivariateNormal, "the same with low-rank covariance"
    ),
    CONDITIONAL: BlockFamily(
        AutoConditionalNormal,
        "for the members of a plate: normals whose means are linear in the global variables that "
        "are normal in the guide, and so correlate with them and with each other (structured mean "
        "field). Members by global coordinates parameters. Misses how their sds depend on the "
        "global variables",
    ),
    "gamma": BlockFamily(_factors("gamma"), "independent gamma laws of positive sites"),
    "beta": BlockFamily(_factors("beta"), "independent beta laws of sites in an interval"),
    "dirichlet": BlockFamily(_factors("dirichlet"), "Dirichlet laws of sites on a simplex"),
    "delta": BlockFamily(
        autoguide.AutoDelta,
        "a point on the constrained scale: a parameter of variational EM",
        step_size=STEADY,
    ),
    "amortised": BlockFamily(
        AutoAmortised,
        "normals whose means and sds are a network's function of the row's data: local latent "
        "variables, for rows in minibatches too. Amortised(hidden=..., inputs=...) in its place "
        "chooses the network",
        step_size=STEADY,
    ),
}

Families = Mapping[str, str | Amortised]
"""Pattern of sites -> family of a block."""


def family_name(family: str | Amortised) -> str:
    """Return the name of a family, however it is given."""
    return "amortised" if isinstance(family, Amortised) else family


def encoded_sites(guide: Families, target: Target) -> list[str]:
    """Return the sites of a target that have an encoder."""
    blocks = split_sites(guide, target)
    return [n for family, names in blocks if family_name(family) == "amortised" for n in names]


def check_families(guide: Families) -> None:
    """Raise a :class:`ValueError` unless ``guide`` maps patterns of sites to known families."""
    if not guide:
        raise ValueError(
            "guide: got an empty mapping, expected pairs of a site pattern and a family, such as "
            '{"beta": "multivariate_normal"}'
        )
    for pattern, family in guide.items():
        if family_name(family) not in BLOCK_FAMILIES:
            wrong = unknown("family", str(family), BLOCK_FAMILIES)
            raise ValueError(f"guide: {wrong} (for '{pattern}')")


def split_sites(guide: Families, target: Target) -> list[tuple[str | Amortised, list[str]]]:
    """Return the blocks of a target: family, and the sites that it is for.

    Every pattern makes a block, and the sites that no pattern matches make one of normals.

    Raises
    ------
    ValueError
        For a pattern that matches no latent site, a site that two patterns match, a family that
        does not match the support of a site, and conditional normals without a plate or without
        anything to depend on.
    """
    by_name = {site.name: site for site in target.latents}
    owner: dict[str, str] = {}
    blocks: list[tuple[str | Amortised, list[str]]] = []
    for pattern, family in guide.items():
        names = [name for name in by_name if fnmatchcase(name, pattern)]
        if not names:
            wrong = unknown("site or pattern", pattern, by_name)
            raise ValueError(f"guide: {wrong}")
        for name in names:
            if name in owner:
                raise ValueError(
                    f"guide: site '{name}' is matched by both '{owner[name]}' and '{pattern}'; "
                    "every site has one family, so narrow one of the two"
                )
            owner[name] = pattern
            if isinstance(family, str) and family in SUPPORTS:
                check_support(by_name[name], family, "guide")
        blocks.append((family, names))
    if rest := [name for name in by_name if name not in owner]:
        blocks.append(("normal", rest))
    for family, names in blocks:
        if family == CONDITIONAL:
            _check_conditional(names, blocks, by_name)
    return blocks


def _check_conditional(
    names: list[str], blocks: list[tuple[str | Amortised, list[str]]], by_name: Mapping[str, Site]
) -> None:
    """Raise a :class:`ValueError` unless the sites are local and depend on something."""
    plates = {name: {plate for plate, _, _ in site.plates} for name, site in by_name.items()}
    if alone := [name for name in names if not plates[name]]:
        raise ValueError(
            f"guide: '{CONDITIONAL}' is for the members of a plate, and site '{alone[0]}' is in "
            "none; use 'normal' or 'multivariate_normal'"
        )
    own = set().union(*(plates[name] for name in names))
    others = [
        others
        for family, others in blocks
        if family in NORMALS and any(not own & plates[name] for name in others)
    ]
    if not others:
        raise ValueError(
            f"guide: '{CONDITIONAL}' for {', '.join(names)} has nothing to depend on: no site "
            f"outside plate {', '.join(sorted(own))} is in a block of {' or '.join(NORMALS)}; "
            "use 'normal', or give a global site one of these"
        )


def make_structured(
    guide: Families, target: Target, values: Mapping[str, Any], whole: Target | None = None
) -> autoguide.AutoGuideList:
    """Return NumPyro's guide of the blocks of ``guide``.

    Parameters
    ----------
    guide
        Site pattern -> family.
    target
        What it is for.
    values
        Where it is centred at first, constrained.
    whole
        With all the rows, where ``target`` has those of a minibatch.
    """
    model, init = target.model.function, init_to_value(values=dict(values))
    parts = AutoStructured(model, init_loc_fn=init)
    for k, (family, names) in enumerate(split_sites(guide, target)):
        # Outside the block the sites stand at the start: an improper prior has no draws.
        fixed = {name: value for name, value in values.items() if name not in names}
        rest = handlers.substitute(model, data=fixed)
        shown = handlers.block(rest, hide_fn=lambda site, names=names: _hidden(site, names))
        options = {"prefix": f"auto_{k}", "init_loc_fn": init}
        if family_name(family) == "amortised":
            encoder = family if isinstance(family, Amortised) else Amortised()
            parts.append(encoder.make(shown, whole or target, names, **options))
        else:
            parts.append(BLOCK_FAMILIES[family_name(family)].make(shown, **options))
    return parts


def _hidden(site: Mapping[str, Any], names: list[str]) -> bool:
    """Whether a block of ``names`` does not see a message: it needs its sites and the plates."""
    return site["type"] not in ("plate", "control_flow") and site.get("name") not in names


def latent_sites(guide: autoguide.AutoGuide) -> list[dict[str, Any]]:
    """Return the latent sites that a guide, or each guide of a list, has found at its set-up."""
    parts = (guide, *guide) if isinstance(guide, autoguide.AutoGuideList) else (guide,)
    return [
        site
        for part in parts
        for site in part.prototype_trace.values()
        if site["type"] == "sample" and not site["is_observed"]
    ]


def block_sites(part: autoguide.AutoGuide) -> list[str]:
    """Return the names of the latent sites of a guide that has been set up."""
    return [site["name"] for site in latent_sites(part)]


def is_point(guide: Any) -> bool:
    """Whether a guide has a point mass in it, which makes its ELBO no bound on the evidence."""
    parts = guide if isinstance(guide, autoguide.AutoGuideList) else (guide,)
    return any(isinstance(part, autoguide.AutoDelta) for part in parts)
