"""The studies of guides: the autoencoder of digits, and eight schools from a point to a flow."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
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
    c = vr.compare(this, {"vae": vr.SVI(guide=guide, num_steps=800, step_size=0.02)})
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


@pytest.mark.slow
def test_stochastic_and_deterministic_mean_field_have_one_optimum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = vr.load_study("advi")
    design = {"num_rows": 200, "num_groups": 20, "collinear": False}
    small = {"MODELS": {"criteo": design}, "NUM_CHUNKS": 24, "STEP_SIZE": 0.02}
    curves, seconds = made(study, study.target(), {}, small, monkeypatch)
    assert isinstance(curves.content, Figure)
    last, average = (line.get_ydata() for line in curves.content.axes[0].lines[:2])
    assert last[0] > 2
    assert average[-1] < 0.1
    (row,) = seconds.content.to_dict("records")  # type: ignore[union-attr]
    assert row["coordinates"] == 5 + 1 + 1 + 20
    assert float(row["error at the end (sd)"]) == pytest.approx(average[-1], abs=6e-4)
    assert 0.7 < float(row["sd ratio furthest from 1"]) < 1.4
    assert float(row["SVI: within 0.5 sd (s)"]) <= float(row["SVI: within 0.1 sd (s)"])
