"""EM as variational inference: one free energy, its two coordinates, and other ways up."""

from __future__ import annotations

from collections.abc import Iterator

import vi_recipes as vr
from vi_recipes.core import Progress

from .e_steps import families, given_away
from .em_and_vi import table as em_and_vi
from .identities import identity, rises
from .linkage import Linkage
from .passes import FREEZE_BELOW, NEAR, NUM_BLOCKS, NUM_SPARSE, picture, told
from .paths import against_the_reference, paths, steps_taken


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Draw the free energy, check its identity, and lay the methods' paths side by side."""
    linkage = Linkage()
    yield vr.Exhibit(
        name="two_coordinates",
        title="The free energy and its two coordinates",
        caption=(
            "Model linkage, where q and theta are one number each: q is the share of the 125 "
            "animals AB that are said to be of the second kind. Left: contours of F(q, theta), in "
            "nats below its top. EM moves along one axis at a time: an E-step to the best q for "
            "this theta (blue line), an M-step to the best theta for this q (orange line); a "
            "quasi-Newton ascent in both at once ends at the same point. Right: the top of F over "
            "q is log p(y | theta), and F for a q held fixed touches it where that q is "
            "p(z | y, theta)."
        ),
        content=linkage.picture(progress),
    )
    yield vr.Exhibit(
        name="identity",
        title="log p = F + KL",
        caption=(
            "Model times_deaths, at random points: F(q, theta) and KL(q || p(z | y, theta)) are "
            "computed from q by two different formulas, and add up to log p(y | theta), computed "
            "without q, to rounding."
        ),
        content=identity(target, seed),
    )
    table, share = rises(target, seed)
    yield vr.Exhibit(
        name="rises",
        title="Why EM does not go down",
        caption=(
            "Model times_deaths. With q the posterior at theta, log p(y | theta') - "
            "log p(y | theta) is the rise of Q plus KL(q || p(z | y, theta')), whatever theta' is. "
            "Along EM the M-step makes the rise of Q positive and KL cannot be negative, so log p "
            "rises by at least as much as Q; the KL is what the next E-step closes. In the end "
            f"KL is {share:.4f} of the rise of Q: that share of the complete data's information is "
            "missing in the direction that EM moves in, and EM's steps shrink by it. To a theta at "
            "random Q falls, and log p by less than Q. Every column is computed by itself, KL from "
            "the two laws; the last is the difference between the two sides, rounding."
        ),
        content=table,
    )
    yield vr.Exhibit(
        name="paths",
        title="Three ways up to one maximum",
        caption=(
            "How far each method is below the maximum, by iteration, on the model times_deaths; "
            "plain EM slows down to the rate at which information is missing. Seconds are those of "
            "the run without compilation. em and em_squarem climb log p(y | theta), marginal_mle "
            "does it by Newton's method, and joint climbs F(q, theta) in the 1,096 numbers of q "
            "and the three of theta together."
            + steps_taken(comparison)
            + against_the_reference(comparison)
        ),
        content=paths(comparison),
    )
    figure, several = picture(seed, progress)
    yield vr.Exhibit(
        name="passes",
        title="Partial E-steps",
        caption=(
            "The free energy after every M-step against passes over the data (probabilities of "
            "states renewed, as a multiple of all), from one start a model. Full: every E-step "
            f"renews all. Incremental: {NUM_BLOCKS} blocks of members take turns, after one pass "
            f"for all. Sparse: {NUM_SPARSE} E-steps out of {NUM_SPARSE + 1} freeze states below "
            f"{FREEZE_BELOW:g} at the last full one. All rise at every step, to rounding. Passes "
            f"to within {NEAR:g} nats of the maximum: {told(several)}. What an M-step costs is not "
            "in the count."
        ),
        content=figure,
    )
    yield vr.Exhibit(
        name="families",
        title="When is a finite-dimensional q enough?",
        caption=(
            "An E-step needs a family that holds p(z | y, theta) for every theta on the path, with "
            "as many numbers a member whatever theta is: tables of states where z is discrete, "
            "normals where the log joint is quadratic in z, conjugate families. Here 7 counts with "
            "gamma rates, along a path of theta: gamma laws leave no KL but rounding (a search "
            "over them that does not know the answer), normals on the log scale leave some at "
            "every theta, most where a + y is small. With them EM climbs a lower bound."
        ),
        content=families(),
    )
    yield vr.Exhibit(
        name="given_away",
        title="An easy E-step gives log p(y | theta) away",
        caption=(
            "It is said that EM is for likelihoods that cannot be had. But where p(z, y | theta) "
            "and p(z | theta, y) are easy, so is log p(y | theta) = log p(z, y | theta) - "
            "log p(z | theta, y), at any z: the second column is at one, the third the spread over "
            "three values of z, or both states. In an exponential family it is the log partition "
            "function after y less that before. Last, the largest difference of all of them from a "
            "closed form of SciPy's or by hand."
        ),
        content=given_away(),
    )
    yield vr.Exhibit(
        name="em_and_vi",
        title="EM and variational inference, row by row",
        caption="What each is, and the numbers of this run, exhibits or studies that show it.",
        content=em_and_vi(comparison, share),
    )


STUDY = vr.Study(
    name="em_is_vi",
    model="times_deaths",
    methods={
        "em": vr.EM(num_starts=1, tolerance=1e-13, max_steps=3_000),
        "em_squarem": vr.EM(num_starts=1, tolerance=1e-13, accelerate=True),
        "marginal_mle": vr.MarginalMLE(),
        "joint": vr.MarginalMLE(ascent="joint"),
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        "map": vr.MAP(),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference="nuts",
    description=(
        "Death notices of 1,096 days as a mixture of two Poisson distributions. EM raises the free "
        "energy F(q, theta) = E_q[log p(y, z | theta)] + H(q), which is log p(y | theta) less "
        "KL(q || p(z | y, theta)): over q in the E-step, over theta in the M-step. Variational "
        "inference is the same with q restricted. Nothing says that one must take turns: Newton's "
        "method on log p(y | theta), the top of F over q, and an ascent in q and theta together "
        "end at the same point with the same standard errors. Plain EM is slow, as most of the "
        "information is missing; exhibits have the counts."
    ),
    exhibits=exhibits,
)
