"""The families of guides, and which of them a guide is of."""

from __future__ import annotations

from typing import Any

from numpyro.infer import autoguide

from vi_recipes.methods.guides.amortised import Amortised, AutoAmortised, place_amortised
from vi_recipes.methods.guides.conditional import (
    AutoConditionalNormal,
    conditional_scales,
    place_conditional,
)
from vi_recipes.methods.guides.coordinates import Coordinates, FittedGuide
from vi_recipes.methods.guides.drawn import read_draws, read_flow, read_function
from vi_recipes.methods.guides.factors import (
    AutoBeta,
    AutoDirichlet,
    AutoGamma,
    factor_scales,
    place_factors,
)
from vi_recipes.methods.guides.family import FALLING, GuideFamily, Scales
from vi_recipes.methods.guides.normals import (
    diagonal_scales,
    lowrank_scales,
    multivariate_parents,
    multivariate_scales,
    normal_parents,
    normal_scales,
    place_diagonal,
    place_lowrank,
    place_multivariate,
    place_normal,
    reader,
)
from vi_recipes.methods.guides.optimal import AutoOptimalNormal, place_optimal
from vi_recipes.methods.guides.points import place_points, read_curvature, read_point
from vi_recipes.posterior import Posterior


def _read_list(guide: autoguide.AutoGuideList, fitted: FittedGuide) -> Posterior:
    """Return the law of the blocks of a list, drawn from where that of a block has no form."""
    families = [family_of(part) for part in guide]
    with fitted.timing.running():
        coordinates = Coordinates(guide, fitted)
        for part, family in zip(guide, families, strict=True):
            if family.place is None:
                break
            family.place(part, coordinates)
        else:
            if not coordinates.missing:
                return coordinates.blocks()
    return read_function(guide, fitted)


def _list_scales(guide: autoguide.AutoGuideList) -> Scales | None:
    """Return the locations of all blocks; ``None`` where one has none."""
    parts = [location_scales(part) for part in guide]
    known = [part for part in parts if part is not None]
    return {k: v for part in known for k, v in part.items()} if known == parts else None


FAMILIES: dict[str, GuideFamily] = {
    "normal": GuideFamily(
        make=autoguide.AutoNormal,
        about="independent normals on the unconstrained scale (mean field). Cheapest: two "
        "parameters a coordinate. Understates the variance of anything correlated",
        about_block="independent normals, unconstrained scale",
        read=reader(place_normal),
        place=place_normal,
        scales=normal_scales,
        parents=normal_parents,
        step_size=FALLING,
    ),
    "multivariate_normal": GuideFamily(
        make=autoguide.AutoMultivariateNormal,
        about="one normal with full covariance. Keeps linear correlation; dim^2 parameters. Misses "
        "skewness and funnels",
        about_block="one normal over all that the pattern matches",
        read=reader(place_multivariate),
        place=place_multivariate,
        scales=multivariate_scales,
        parents=multivariate_parents,
        step_size=FALLING,
        joint=True,
    ),
    "lowrank_normal": GuideFamily(
        make=autoguide.AutoLowRankMultivariateNormal,
        about="a normal with diagonal plus rank-sqrt(dim) covariance. Between the two in cost, "
        "dim^1.5 parameters. Loses the weaker correlations",
        about_block="the same with low-rank covariance",
        read=reader(place_lowrank),
        place=place_lowrank,
        scales=lowrank_scales,
        step_size=FALLING,
        joint=True,
        no_score="NumPyro's low-rank normal starts without its low-rank part, where the score in "
        "it is zero, and so would stay there: use multivariate_normal or objective='elbo'",
    ),
    "conditional_normal": GuideFamily(
        make=AutoConditionalNormal,
        about_block="for the members of a plate: normals whose means are linear in the global "
        "variables that are normal in the guide, and so correlate with them and with each other "
        "(structured mean field). Members by global coordinates parameters. Misses how their sds "
        "depend on the global variables",
        place=place_conditional,
        scales=conditional_scales,
        step_size=FALLING,
        conditional=True,
    ),
    "optimal_normal": GuideFamily(
        make=AutoOptimalNormal,
        about_block="for the members of a plate, one coordinate each: the normals nearest to their "
        "laws given the global variables, found by Newton steps at every draw of these (structured "
        "stochastic VI). No parameters, so minibatches of members do. Misses skewness",
        place=place_optimal,
        scales=lambda _: {},
        step_size=FALLING,
        averages=True,
    ),
    "gamma": GuideFamily(
        make=AutoGamma,
        about_block="independent gamma laws of positive sites",
        place=place_factors,
        scales=factor_scales,
        step_size=FALLING,
    ),
    "beta": GuideFamily(
        make=AutoBeta,
        about_block="independent beta laws of sites in an interval",
        place=place_factors,
        scales=factor_scales,
        step_size=FALLING,
    ),
    "dirichlet": GuideFamily(
        make=AutoDirichlet,
        about_block="Dirichlet laws of sites on a simplex",
        place=place_factors,
        scales=factor_scales,
        step_size=FALLING,
    ),
    "delta": GuideFamily(
        make=autoguide.AutoDelta,
        about="a point mass on the constrained scale: MAP by stochastic gradient. As cheap as can "
        "be. No spread, and no mode where the density has none",
        about_block="a point on the constrained scale: a parameter of variational EM",
        read=read_point,
        place=place_points,
        point=True,
        fits_point=True,
    ),
    "amortised": GuideFamily(
        make=AutoAmortised,
        about_block="normals whose means and sds are a network's function of the row's data: local "
        "latent variables, for rows in minibatches too. Amortised(hidden=..., inputs=...) in its "
        "place chooses the network",
        place=place_amortised,
        encodes=True,
    ),
    "laplace": GuideFamily(
        make=autoguide.AutoLaplaceApproximation,
        about="a point found by SVI on the unconstrained scale, then the normal of the curvature "
        "there. One Hessian more than a point. Absent where that is singular; misses skewness",
        read=read_curvature,
        fits_point=True,
        joint=True,
        rows_in_memory="the curvature takes all rows in memory: use guide='multivariate_normal'",
    ),
    "iaf": GuideFamily(
        make=autoguide.AutoIAFNormal,
        about="an inverse autoregressive flow: skewness and funnels too. Three networks of dim^2 "
        "weights, slow to train. Its optimum depends on the start",
        read=read_flow,
        step_size=0.002,
        joint=True,
        flow=True,
    ),
    "bnaf": GuideFamily(
        make=autoguide.AutoBNAFNormal,
        about="a block neural autoregressive flow: bends further than iaf. 64 dim^2 weights, slow "
        "to compile and to train. Its optimum depends on the start, and its tails may be too light",
        read=read_flow,
        joint=True,
        flow=True,
    ),
    "dais": GuideFamily(
        make=autoguide.AutoDAIS,
        about="independent normals moved towards the posterior by four annealed steps of "
        "Hamiltonian dynamics: correlation and skewness. Four gradients of the model a draw, "
        "differentiated. Its ELBO is looser than its draws deserve, and it still falls short on "
        "strong correlation",
        read=read_draws,
        joint=True,
        keeps_density=True,
        no_density="the draws of DAIS have no density, so no score: use objective='elbo'",
        all_rows="DAIS moves its draws by the density of all rows: use guide='normal'",
    ),
}
"""Name -> family."""

GUIDES = {name: family for name, family in FAMILIES.items() if family.about}
"""The families that a guide of all latent sites may be of."""

BLOCK_FAMILIES = {name: family for name, family in FAMILIES.items() if family.about_block}
"""The families that a block of sites may be of."""

UNNAMED = (
    GuideFamily(
        make=autoguide.AutoDiagonalNormal,
        read=reader(place_diagonal),
        place=place_diagonal,
        scales=diagonal_scales,
        joint=True,
    ),
    GuideFamily(make=autoguide.AutoContinuous, read=read_flow, joint=True),
    GuideFamily(make=autoguide.AutoGuideList, read=_read_list, scales=_list_scales),
    GuideFamily(make=autoguide.AutoGuide, read=read_draws),
    GuideFamily(make=object, read=read_function),
)
"""Families of what users bring along: classes and lists of NumPyro's, and guide functions."""

_BY_CLASS = {family.make: family for family in (*FAMILIES.values(), *UNNAMED)}


def family_of(guide: Any) -> GuideFamily:
    """Return the family of a guide.

    Parameters
    ----------
    guide
        A name in :data:`FAMILIES`, the options of an encoder, an autoguide class, which has the
        family of the nearest of its bases, an autoguide, or a guide function.
    """
    if isinstance(guide, str):
        return FAMILIES[guide]
    if isinstance(guide, Amortised):
        return FAMILIES["amortised"]
    kind = guide if isinstance(guide, type) else type(guide)
    return next(_BY_CLASS[base] for base in kind.__mro__ if base in _BY_CLASS)


def location_scales(guide: Any) -> Scales | None:
    """Return the location parameters of a guide with their scales, ``None`` where it has none."""
    scales = family_of(guide).scales
    return scales(guide) if scales else None


def read_guide(guide: Any, fitted: FittedGuide) -> Posterior:
    """Return what a fitted guide says of the posterior, on the constrained scale."""
    read = family_of(guide).read
    assert read is not None, f"{type(guide).__name__} is a guide of blocks"
    return read(guide, fitted)


def is_point(guide: Any) -> bool:
    """Whether a guide has a point mass in it, which makes its ELBO no bound on the evidence."""
    parts = guide if isinstance(guide, autoguide.AutoGuideList) else (guide,)
    return any(family_of(part).point for part in parts)
