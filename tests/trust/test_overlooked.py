"""Parts of the posterior that a sampler has not seen and another fit has."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.comparison.found import Found
from vi_recipes.posterior.base import WeighedDraws
from vi_recipes.posterior.draws import DrawsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior
from vi_recipes.trust.measured import Trust
from vi_recipes.trust.overlooked import overlooked


def square(y: Any, scale: float = 0.4) -> None:
    """A sign that the data do not see: two modes, one the other's mirror image."""
    numpyro.sample("mu", dist.Normal(0.0, 1.0))
    theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
    numpyro.sample("y", dist.Normal(theta**2, scale), obs=y)


def started(at: float, scale: float = 0.4) -> vr.Target:
    def init(key: Any, y: Any, scale: float) -> dict[str, float]:
        return {"theta": at, "mu": 0.0}

    model = vr.Model(function=square, name="square", init=init)
    return vr.Target(model, y=np.ones(8), scale=scale)


@cache
def one_side() -> vr.Fit:
    """Chains that all stay on the right, which their R-hat does not see."""
    target = started(1.0)
    fit = vr.NUTS(num_warmup=300, num_samples=500, num_chains=2, scatter=0.01).fit(target, key=1)
    assert (fit.posterior.samples["theta"] > 0).all()
    fit = replace(fit, status=vr.Status.OK, message="R-hat at most 1.0010")
    return replace(fit, assessment=vr.assess(fit, target))


@pytest.mark.slow
def test_a_mode_on_the_other_side_is_found_and_both_say_so(tmp_path: Path) -> None:
    alone = vr.Comparison({"nuts": one_side()}, reference=one_side(), reference_name="nuts")
    assert alone.verdict_of["nuts"].trust is Trust.TRUSTWORTHY
    assert "no chain has been" in alone.verdict_of["nuts"].text
    c = vr.compare(started(-1.0), [vr.Laplace(), vr.MAP()], reference=one_side(), path=tmp_path)
    assert c["laplace"].mean()["theta"] < 0
    found = c.overlooked["laplace"]
    assert found.label == "theta"
    assert found.value == pytest.approx(-1, abs=0.1)
    assert found.missed == pytest.approx(0.5, abs=0.05)  # by symmetry
    assert found.lost == pytest.approx(0.5, abs=0.05)
    assert not c.measures
    said = c.verdict_of
    assert said["laplace"].trust is Trust.UNTRUSTED
    assert "where nuts has draws, and it has hardly any mass there" in said["laplace"].text
    assert "laplace has found mass where none of its draws are" in c.warnings[0]
    back = vr.Comparison.load(tmp_path)
    assert back.overlooked == c.overlooked
    assert back.verdict_of == said


@pytest.mark.slow
def test_a_mode_that_nested_quadrature_has_no_point_near_is_found() -> None:
    """It is the reference where there is no sampler; its errors do not see the other side."""
    target = started(1.0)
    assert "has another mode, at theta = -0.999" in vr.NestedQuadrature().fit(target).message
    far = 0.02  # the modes are 560 sds apart, where it looks as far as 50
    target = started(1.0, far)
    nested = vr.NestedQuadrature().fit(target)
    assert nested.status is vr.Status.OK
    found = overlooked(vr.Laplace().fit(started(-1.0, far)), nested, target)
    assert found is not None
    assert (found.label, np.sign(found.value)) == ("theta", -1)
    assert found.missed == pytest.approx(0.5, abs=0.05)  # by symmetry
    assert overlooked(vr.Laplace().fit(target), nested, target) is None

    free = vr.Target(vr.Model(function=square, name="square"), y=np.ones(8), scale=far)
    both = vr.MeanField().fit(free)
    assert both.other_optimum is not None
    there = replace(both, other_optimum=replace(both.other_optimum, value=-1.0))
    fits = {"meanfield": there, "nested": nested}
    seen = {"meanfield": overlooked(there, nested, target)}
    c = vr.Comparison(fits, reference=nested, reference_name="nested", found=Found(seen))
    said = c.verdict_of
    assert said["nested"].trust is Trust.UNTRUSTED
    assert "meanfield has found mass where none of its draws are: 50%" in said["nested"].text
    assert said["meanfield"].trust is Trust.UNTRUSTED
    assert c.recommend().method is None


def test_what_a_reference_says_of_it_and_what_follows_for_others() -> None:
    found = {"laplace": overlooked(vr.Laplace().fit(started(-1.0)), one_side(), started(1.0))}
    same = vr.Laplace().fit(started(1.0))
    same = replace(same, assessment=vr.assess(same, started(1.0)), method="same")
    fits = {"same": same, "nuts": one_side()}
    c = vr.Comparison(fits, reference=one_side(), reference_name="nuts", found=Found(found))
    said = c.verdict_of
    assert said["nuts"].trust is Trust.UNTRUSTED
    assert (
        "Not to be trusted: laplace has found mass where none of its draws are" in said["nuts"].text
    )
    assert said["same"].trust is Trust.UNKNOWN
    assert "laplace has found mass where nuts has no draws" in said["same"].text


def test_a_fit_of_both_sides_is_judged_by_its_own_evidence() -> None:
    """Draws of both modes, with their density: of two normals, halves."""
    target = started(1.0)
    laplace = vr.Laplace().fit(target)
    sd = float(laplace.sd()["theta"])
    rng = np.random.default_rng(0)
    z = np.column_stack([np.zeros(2_000), np.zeros(2_000)])
    place = {n: s.start for n, s in target.slices.items()}
    z[:, place["mu"]] = rng.standard_normal(2_000)
    z[:, place["theta"]] = np.where(rng.random(2_000) < 0.5, 1, -1) + sd * rng.standard_normal(
        2_000
    )
    x = z[:, place["theta"]]
    halves = np.logaddexp(-((x - 1) ** 2) / 2 / sd**2, -((x + 1) ** 2) / 2 / sd**2)
    log_q = halves - np.log(2 * sd) - np.log(2 * np.pi) - z[:, place["mu"]] ** 2 / 2
    values = target.constrain(z)
    posterior = DrawsPosterior(
        {n: v[None] for n, v in values.items()},
        independent=True,
        weighed=WeighedDraws(z, log_q, values),
    )
    both = replace(laplace, posterior=posterior, method="both")
    found = overlooked(both, one_side(), target)
    assert found is not None
    assert found.missed == pytest.approx(0.5, abs=0.05)
    assert found.lost < 0.05


def test_what_is_wide_or_wrong_has_found_nothing() -> None:
    """Mass is the posterior's: draws of a fit that is too wide, or astray, have no weight."""
    target = started(1.0)
    place = {n: s.start for n, s in target.slices.items()}
    for at, spread in ((1.0, 0.3), (3.0, 0.05), (1.0, 0.05)):
        loc, sd = np.zeros(2), np.ones(2)
        loc[place["theta"]], sd[place["theta"]] = at, spread
        fit = replace(vr.Laplace().fit(target), posterior=GaussianPosterior(target, loc, None, sd))
        assert overlooked(fit, one_side(), target) is None
    assert overlooked(vr.MAP().fit(started(-1.0)), one_side(), target) is None
    untold = replace(one_side(), assessment=None)
    assert overlooked(vr.Laplace().fit(started(-1.0)), untold, target) is None


@pytest.mark.slow
def test_another_optimum_of_mean_field_is_said_of_all_that_have_not_seen_it(
    tmp_path: Path,
) -> None:
    """Its starts find both sides, and it is one of them; so is all that is measured."""
    target = vr.Target(vr.Model(function=square, name="square"), y=np.ones(8))
    fit = vr.MeanField().fit(target)
    side = np.sign(float(fit.mean()["theta"]))
    other = fit.other_optimum
    assert other is not None
    assert (other.label, np.sign(other.value)) == ("theta", -side)
    assert other.share == pytest.approx(0.5, abs=1e-3)  # by symmetry
    assert vr.Fit.load(fit.save(tmp_path / "fit.nc")).other_optimum == other

    found = overlooked(fit, one_side(), target)
    assert (found is None) == (other.value > 0)
    laplace = mode(side, "laplace")
    said = vr.Comparison({"meanfield": fit, "laplace": laplace}).verdict_of
    for verdict in said.values():
        assert verdict.trust is Trust.UNTRUSTED
        assert "50% of what the two hold, about theta" in verdict.text
    there = replace(fit, other_optimum=replace(other, value=-abs(other.value)))
    found = {"meanfield": overlooked(there, one_side(), target)}
    c = vr.Comparison(
        {"meanfield": there, "nuts": one_side()},
        reference=one_side(),
        reference_name="nuts",
        found=Found(found),
    )
    text = "meanfield has found mass where none of its draws are: 50% of the posterior"
    assert text in c.verdict_of["nuts"].text

    from_one_start = vr.MeanField(num_starts=1).fit(target)
    assert from_one_start.other_optimum is None


def mode(at: float, name: str) -> vr.Fit:
    fit = vr.Laplace().fit(started(at), name=name)
    return replace(fit, assessment=vr.assess(fit, started(at)))


def test_fits_of_two_sides_without_a_reference() -> None:
    """Each is right by its own evidence, and has half of the posterior."""
    sides = {"left": mode(-1.0, "left"), "right": mode(1.0, "right")}
    alone = vr.Comparison({"left": sides["left"]}).verdict_of["left"]
    assert alone.trust is Trust.TRUSTWORTHY
    said = vr.Comparison(sides).verdict_of
    for name, other, value in (("left", "right", "1"), ("right", "left", "-1")):
        assert said[name].trust is Trust.UNTRUSTED
        assert said[name].text.startswith(
            f"Not to be trusted: {other} has found another part of the posterior, 50% of what"
        )
        assert f"about theta = {value}" in said[name].text.replace("0.99", "1")
    # a part that hardly matters is no reason to distrust the other
    small = sides["left"].assessment
    assert small is not None
    less = tuple(replace(e, value=e.value - 5) for e in small.evidence)
    sides["left"] = replace(sides["left"], assessment=replace(small, evidence=less))
    said = vr.Comparison(sides).verdict_of
    assert said["right"].trust is Trust.TRUSTWORTHY
    assert said["left"].trust is Trust.UNTRUSTED
