"""The studies of guides: the autoencoder of digits, and eight schools from a point to a flow."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from executors_for_tests import Here
from matplotlib.figure import Figure
from scipy import stats
from studies_for_tests import made

import vi_recipes as vr
from vi_recipes.core.progress import silent
from vi_recipes.report.style import style


@pytest.mark.parametrize("name", ["vae", "guides", "advi"])
def test_they_name_models_and_methods_that_exist(name: str) -> None:
    study = vr.load_study(name)
    assert study.name == name
    assert study.methods
    assert study.reference is None or study.reference in study.methods
    assert len(study.description) > 200
    this = study.target()
    assert all(method.applies(this) is None for method in study.methods.values())


def number(text: str) -> float:
    return float(text.split()[0])


@pytest.mark.slow
def test_the_autoencoder_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("vae")
    assert study.methods
    assert study.exhibits is not None
    small = {"NUM_DRAWS": 200, "NUM_WEIGHTED": (1, 10, 200), "NUM_GRID": 41}
    for name, value in (small | {"NUM_LINEAR_STEPS": 1_500}).items():
        monkeypatch.setitem(study.exhibits.__globals__, name, value)
    this = study.target()
    guide = study.methods["vae"].guide  # type: ignore[attr-defined]
    method = vr.SVI(guide=guide, num_steps=800, step_size=0.02)
    c = vr.compare(this, {"vae": method}, executor=Here())  # as with --workers
    with style():
        bounds, page, samples, linear = study.exhibits(c, this, 0, silent)
    assert isinstance(bounds.content, pd.DataFrame)
    for kind in ("training", "held-out"):
        values = bounds.content[f"{kind} images"].map(number).to_numpy()
        below = bounds.content[f"below log p(y), {kind}"].to_numpy()
        assert (np.diff(values[1:-1]) > 0).all()  # batches within batches: exactly
        assert -0.1 < values[-1] - values[-2] < 1  # 200 draws may be above by chance
        assert values[-1] - values[0] > 1  # and independent pixels are left behind
        np.testing.assert_allclose(values[-1] - values, below, atol=0.002)
    assert isinstance(page.content, Figure)
    assert len(page.content.axes[0].texts) == 500
    assert samples.png
    assert isinstance(linear.content, pd.DataFrame)
    best, decoder, elbo = linear.content["training images"].astype(float)
    # nothing is above the closed form, and the ELBO below what it bounds but for its own noise
    assert best > decoder > best - 1
    assert decoder + 0.005 > elbo > best - 1
    # the encoder is the one that was trained
    fit = c["vae"]
    assert fit.log_evidence is None  # the weights are points
    assert "khat" not in fit.diagnostics
    trained = study.exhibits.__globals__["Autoencoder"].of(fit)
    loc, sd = trained.encode(np.asarray(this.data["y"]))
    assert np.abs((fit.mean()["z"] - loc) / sd).max() < 5 / 4_000**0.5
    np.testing.assert_allclose(fit.sd()["z"], sd, rtol=5 / 8_000**0.5)
    np.testing.assert_allclose(trained.params["W_point"], fit.mean()["W"], rtol=1e-10)


@pytest.mark.slow
def test_the_guides_exhibits_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("guides")
    this = study.target()
    methods = {
        "full": vr.SVI(guide="multivariate_normal", num_steps=2_000),
        "normal": vr.SVI(num_steps=2_000),
        "delta": vr.SVI(guide="delta", num_steps=300),
        "laplace": vr.Laplace(),  # has no result: the density has no maximum
    }
    small = {"NUM_DRAWS": 100}
    errors, lost, funnel = made(study, this, methods, small, monkeypatch)
    rows = errors.content.set_index("guide")  # type: ignore[union-attr]
    assert list(rows.index) == ["normal", "delta", "laplace"]
    assert number(rows.loc["normal", "KL(q || p)"]) > 0.5
    assert (rows.loc["delta", ["KL(q || p)", "khat"]] == "–").all()
    assert (rows.loc["laplace"].iloc[1:-1] == "–").all()
    pairs = lost.content.set_index("guide")  # type: ignore[union-attr]
    assert next(iter(pairs.index)) == "normal"
    assert len(pairs) == 2  # and the reference's own noise; points have none
    assert all(text.endswith(", 0.00") for text in pairs.loc["normal"].iloc[:3])
    assert isinstance(funnel.content, Figure)
    assert [axes.get_visible() for axes in funnel.content.axes] == [True, True, False, False]


def test_the_evidence_of_eight_schools_is_right() -> None:
    study = vr.load_study("guides")
    this = study.target()
    y, sigma = this.data["y"], this.data["sigma"]

    # by the midpoint rule in both dimensions, tau = 5 tan(u)
    mu = np.linspace(-40, 50, 601)
    tau = 5 * np.tan((np.arange(500) + 0.5) / 500 * np.pi / 2)
    spread = np.sqrt(sigma**2 + tau[:, None, None] ** 2)
    each = stats.norm.logpdf(y, mu[None, :, None], spread).sum(-1) + stats.norm.logpdf(mu, 0, 5)
    right = np.exp(each).sum(axis=1).mean() * (mu[1] - mu[0])
    assert study.exhibits is not None
    found = study.exhibits.__globals__["log_evidence"](this)
    assert found == pytest.approx(np.log(right), abs=1e-4)


def part(study: vr.Study, name: str) -> dict[str, Any]:
    """Return one of a study's files."""
    return vars(sys.modules[f"{study.exhibits.__module__}.{name}"])  # type: ignore[union-attr]


@pytest.mark.slow
def test_stochastic_and_deterministic_mean_field_have_one_optimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = vr.load_study("advi")
    design = {"num_rows": 200, "num_groups": 20, "collinear": False}
    races = part(study, "races")
    for name, value in {
        "NUM_CHUNKS": 24,
        "STEP_SIZE": 0.02,
        "BUDGET": 4_000,
        "NUTS_SETTINGS": {"num_warmup": 300, "num_samples": 300},
    }.items():
        monkeypatch.setitem(races, name, value)
    pictures, seconds = made(study, study.target(), {}, {"MODELS": {"criteo": design}}, monkeypatch)
    assert isinstance(pictures.content, Figure)
    panel, legend = pictures.content.axes[:2]
    named = {str(line.get_label()): np.asarray(line.get_ydata()) for line in panel.lines}
    lines = {name: y for name, y in named.items() if name[0] != "_"}
    last, average, own, nuts = list(lines.values())[:4]
    assert last[0] > 2
    assert average[-1] < 0.1
    assert own.shape == (1,)
    assert own[0] < 0.15
    assert f"its average {average[-1]:.2g} sds from it after" in pictures.caption
    assert f"SVI by its own rule {own[-1]:.2g} sds from it after" in pictures.caption
    # 1,200 draws and some 27 coordinates: 3 / sqrt(n) at 2 draws a chain, and 0.1 near the end
    assert nuts[0] > 0.5
    assert nuts[-1] < 0.3
    assert 0.02 < lines["mean-field optimum from NUTS's mean"][0] < 1
    assert len(legend.get_legend().get_texts()) == 8
    rows = seconds.content.set_index("way")  # type: ignore[union-attr]
    error = rows["error at the end (sd)"]
    assert float(error["SVI, plain"]) == pytest.approx(average[-1], abs=6e-4)
    assert float(error["SVI, own rule"]) == pytest.approx(own[-1], abs=6e-4)
    assert 0.7 < float(rows.loc["SVI, plain", "end"].split()[-1]) < 1.4
    within = rows.loc["SVI, plain", ["within 0.5 sd (s)", "within 0.1 sd (s)"]].astype(float)
    assert within.iloc[0] <= within.iloc[1] <= float(rows.loc["SVI, plain", "run (s)"])
    # open marks: a first fit, compilation included
    ends = [line.get_xdata()[0] for line in panel.lines if line.get_marker() == "o"]
    for end, way in zip(ends[1:], ("SVI, plain", "SVI, own rule", "NUTS"), strict=True):
        assert end > float(rows.loc[way, "compile (s)"]) - 0.05


def test_a_curve_is_within_reach_when_it_stays() -> None:
    curve = part(vr.load_study("advi"), "races")["Curve"](
        2.0, np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 0.4, 0.6, 0.2])
    )
    assert curve.reached(0.5) == 4.0
    assert curve.reached(1.0) == 2.0
    assert curve.reached(0.1) == np.inf
    np.testing.assert_array_equal(curve.since_start, [3.0, 4.0, 5.0, 6.0])


def test_the_error_of_draws_so_far_is_that_of_their_mean() -> None:
    """Independent draws of a standard normal, warm-up half of the leapfrog steps."""

    class Sampler:
        timing = vr.Timing(compile_seconds=1.0, run_seconds=8.0, gradient_evaluations=4 * 400)
        message = ""
        steps = np.full((4, 200), 1)

        def mean(self) -> dict[str, float]:
            return {"x": 0.0}

        def to_arviz(self) -> Any:
            return {"sample_stats": {"n_steps": self.steps}, "posterior": {"x": self.x}}

    draws_so_far = part(vr.load_study("advi"), "races")["draws_so_far"]
    rng, found = np.random.default_rng(0), []
    for _ in range(400):
        Sampler.x = rng.standard_normal((4, 200))  # type: ignore[attr-defined]
        curve = draws_so_far(Sampler(), None, lambda a, b: float(abs(a["x"] - b["x"])))
        found.append(curve.errors)
    assert curve.seconds[0] == pytest.approx(4 + 4 * 2 / 200)
    assert curve.seconds[-1] == pytest.approx(4 + 4 * 140 / 200)
    size = np.sqrt(np.mean(np.square(found), axis=0))
    # sqrt(2 / 400) of each is their own noise, 3.5 %
    assert size[0] == pytest.approx(1 / np.sqrt(4 * 2), rel=0.15)
    assert size[-1] == pytest.approx(1 / np.sqrt(4 * 140), rel=0.15)
