"""The answer first: which method is named, why, what else is said, and where it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli.commands import app
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.json import dumps, schema
from vi_recipes.fit import Assessment, provenance
from vi_recipes.posterior.draws import DrawsPosterior, MomentsPosterior
from vi_recipes.report import html_page


def pair() -> None:
    numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))


@cache
def target() -> vr.Target:
    return vr.Target(pair)


def fit(
    name: str, seconds: float, *, mean: float = 0.0, sd: float = 1.0, at: int = 0, **changes: Any
) -> vr.Fit:
    """A fit of standard normals, but for the mean and the sd of ``b[at]``; a point without sd."""
    means, sds = np.zeros(2), np.ones(2)
    means[at], sds[at] = mean, sd
    if np.isnan(sd):
        sds[:] = sd
    posterior = MomentsPosterior(
        {"a": np.zeros(()), "b": means}, {"a": np.asarray(sds[1 - at]), "b": sds}
    )
    return vr.Fit(
        method=name,
        kind=name,
        status=changes.pop("status", vr.Status.OK),
        message=changes.pop("message", ""),
        sites=target().quantities,
        coords=target().coords,
        config={},
        timing=vr.Timing(compile_seconds=seconds / 2, run_seconds=seconds / 2),
        provenance=provenance(target(), seed=0, dtype="float64"),
        posterior=changes.pop("posterior", posterior),
        **changes,
    )


@cache
def chains() -> vr.Fit:
    """Independent draws of the right posterior, as a sampler that has met its criteria."""
    rng = np.random.default_rng(0)
    draws = {"a": rng.standard_normal((4, 2_000)), "b": rng.standard_normal((4, 2_000, 2))}
    return fit(
        "nuts",
        12.0,
        message="R-hat at most 1.001",
        posterior=DrawsPosterior(draws),
        sample_stats={"diverging": np.zeros((4, 2_000), bool)},
        diagnostics={"r_hat_max": 1.001, "ess_bulk_min": 8e3, "ess_tail_min": 8e3},
    )


def compared(*fits: vr.Fit, reference: vr.Fit | None = None) -> Comparison:
    name = reference.method if reference is not None else None
    return Comparison({f.method: f for f in fits}, reference=reference, reference_name=name)


RIGHT = {"mean": 0.05, "sd": 1.02}
MEANS_ONLY = {"mean": 0.05, "sd": 0.7}
SDS_ONLY = {"mean": 0.3, "sd": 1.02}
WRONG = {"mean": 0.9, "sd": 0.4}
POINT = {"mean": 0.05, "sd": np.nan}


@pytest.mark.parametrize(
    ("made", "best", "others"),
    [
        # the cheapest trustworthy one, wherever it stands; the sampler is one of them
        ({"slow": (5, RIGHT), "quick": (2, RIGHT)}, "quick", ["slow", "nuts"]),
        ({"slow": (20, RIGHT), "bad": (1, WRONG)}, "nuts", ["slow", "bad"]),
        ({"care": (1, MEANS_ONLY), "right": (30, RIGHT)}, "nuts", ["right", "care"]),
        ({"sds": (1, SDS_ONLY), "means": (2, MEANS_ONLY)}, "nuts", ["sds", "means"]),
    ],
)
def test_the_cheapest_trustworthy_method_is_named_and_the_rest_in_order(
    made: Mapping[str, Any], best: str, others: list[str]
) -> None:
    fits = [fit(name, seconds, **errors) for name, (seconds, errors) in made.items()]
    found = compared(*fits, chains(), reference=chains()).recommend()
    assert found.method == best
    assert [one.method for one in found.others] == others
    assert str(found).startswith(f"Use {best}: trustworthy by ")
    assert "\n" not in str(found)


@pytest.mark.parametrize(
    ("made", "best", "what"),
    [
        # without the sampler among them: the best of those to be used with care, before seconds
        ({"sds": SDS_ONLY, "means": MEANS_ONLY}, "means", "for means, not for sds"),
        ({"point": POINT, "means": MEANS_ONLY}, "means", "for means, not for sds"),
        ({"sds": SDS_ONLY, "point": POINT}, "point", "for means, having no sds"),
        ({"bad": WRONG, "sds": SDS_ONLY}, "sds", "for sds, not for means"),
        ({"bad": WRONG, "rough": {"mean": 0.3, "sd": 0.7}}, "rough", "for rough figures"),
    ],
)
def test_else_the_best_to_be_used_with_care_and_for_what(
    made: Mapping[str, Any], best: str, what: str
) -> None:
    fits = [fit(name, k + 1.0, **errors) for k, (name, errors) in enumerate(made.items())]
    found = compared(*fits, reference=chains()).recommend()
    assert found.method == best
    assert str(found).startswith(f"No method here is trustworthy: the best is {best}, usable with")
    assert f"care by the reference {what}, " in str(found)


def test_the_line_says_what_is_wrong_by_how_much_and_where() -> None:
    found = compared(fit("lrvb", 2.0, mean=0.08, sd=1.06, at=1), reference=chains()).recommend()
    assert found.best is not None
    assert found.best.errors is not None
    mean, sd = chains().mean()["b"][1], chains().sd()["b"][1]
    assert found.best.errors.mean == pytest.approx((0.08 - mean) / sd)
    assert found.best.errors.sd_ratio == pytest.approx(1.06 / sd)
    assert found.best.errors.mean_at == found.best.errors.sd_at == "b[1]"
    assert re.fullmatch(
        r"Use lrvb: trustworthy by the reference, 2\.0 s; at worst its mean of b\[1\] is 0\.\d+ "
        r"reference sds off and its sd of b\[1\] 1\.\d+ times the reference's\.",
        str(found),
    )


def test_what_a_sampler_does_not_know() -> None:
    found = compared(chains(), reference=chains()).recommend()
    largest = max(float(np.max(chains().mcse()[n] / chains().sd()[n])) for n in ("a", "b"))
    assert f"its means are known to {largest:.2g} of its sds (Monte Carlo error, at " in str(found)


def test_a_fit_that_states_its_errors_is_named_with_them() -> None:
    stated = fit("nested", 3.0, message="met", diagnostics={"largest_error": 0.0064})
    assert str(compared(stated, reference=stated).recommend()) == (
        "Use nested: trustworthy by its own errors, 3.0 s; its means and sds are known to 0.0064 "
        "of its sds."
    )


def test_seconds_are_those_of_the_method_alone() -> None:
    """What an earlier method compiled is no gift to the one that is recommended."""
    free = replace(fit("free", 1.0, **RIGHT), timing=vr.Timing(run_seconds=1, shared_seconds=9))
    found = compared(free, fit("other", 5.0, **RIGHT), reference=chains()).recommend()
    assert found.method == "other"
    assert found.others[0].seconds == 10.0


def unknown(name: str) -> vr.Fit:
    return fit(name, 1.0, assessment=Assessment(unknown={"weights": "it has no density"}))


def test_where_nothing_can_be_told_it_says_what_would_tell() -> None:
    found = compared(unknown("lrvb"), fit("map", 1.0, status=vr.Status.COLLAPSED)).recommend()
    assert found.method is None
    assert str(found) == (
        "Which method to use cannot be told: nothing here judges lrvb, and map is not to be "
        "trusted. Nested quadrature, where it applies, or a sampler would tell: add nested or nuts "
        "to the methods, or give a reference."
    )
    assert found.rest == (
        "All of them, by verdict and seconds: of lrvb (1.0 s) it cannot be told; map (1.0 s) is "
        "not to be trusted."
    )


def test_a_sampler_that_failed_to_tell_is_said_to_have() -> None:
    apart = replace(
        chains(),
        status=vr.Status.UNCONVERGED,
        message="R-hat up to 1.5",
        advice="run longer chains",
        diagnostics={"r_hat_max": 1.5},
    )
    found = compared(unknown("lrvb"), apart, reference=apart).recommend()
    assert found.method is None
    assert "and nuts is not to be trusted. nuts would tell, and does not (" in str(found)
    assert str(found).endswith("). Run longer chains.")


def test_all_wrong_beside_answers_from_elsewhere() -> None:
    found = compared(fit("meanfield", 1.0, **WRONG), reference=chains()).recommend()
    assert str(found) == (
        "Use none of these: meanfield is not to be trusted. What nuts says of the parameters "
        "stands."
    )


def failed(name: str, advice: str) -> vr.Fit:
    return fit(name, 1.0, status=vr.Status.FAILED, advice=advice, posterior=None)


def test_failures_only() -> None:
    same = compared(failed("map", "use NUTS."), failed("laplace", "use NUTS."))
    lead = "There is no method to use: laplace and map have no result. "
    assert set(str(same.recommend()).split(". ")[1:]) == {"Use NUTS."}
    assert same.recommend().rest == ""
    several = compared(failed("laplace", "use NUTS"), failed("map", "raise num_steps"))
    assert str(several.recommend()) == f"{lead}The verdicts say why, and what to try."


def test_it_is_the_first_line_everywhere(tmp_path: Path) -> None:
    c = compared(fit("lrvb", 2.0, **RIGHT), chains(), reference=chains())
    c.save(tmp_path)
    line = str(c.recommend())
    shown = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert shown.output.splitlines()[0] == line
    head, *_ = (tmp_path / "report.md").read_text().split("\n\n")[1:]
    assert head.replace("\\", "") == f"**{line}**"
    page = (tmp_path / "report.html").read_text()
    assert page.index('<p class="answer">') == page.index("</h1>") + len("</h1>\n")
    assert "Use lrvb: trustworthy by the reference" in page.split('class="answer">')[1][:100]
    result = json.loads((tmp_path / "result.json").read_text())
    jsonschema.validate(result, schema(), cls=jsonschema.Draft202012Validator)
    assert result["recommendation"]["text"] == line
    assert result["recommendation"]["best"]["method"] == "lrvb"
    assert result["recommendation"]["best"]["mean_at"] == "b[0]"
    assert [one["method"] for one in result["recommendation"]["others"]] == ["nuts"]
    assert json.loads(dumps(c))["recommendation"] == result["recommendation"]


def test_an_error_costs_the_line_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from vi_recipes.comparison import page

    def broken(_: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(page, "recommend", broken)
    document = page.compose(compared(fit("lrvb", 2.0), reference=chains()))
    assert document.answer.startswith("No method is recommended: RuntimeError: out of order")
    assert "out of order" in html_page(document)
