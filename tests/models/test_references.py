"""Shipped models against answers nobody here computed, with the data those answers are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from references_for_tests import arguments, label

import vi_recipes as vr
from vi_recipes.core.content import find, import_file

pytestmark = pytest.mark.slow

MARGIN = 4.0
"""Combined Monte Carlo standard errors that a mean or an sd may be off. There are 185 means and 185
sds, 370 comparisons: a right sampler fails one of them in 370 x 6e-5 = 2.3 % of all seeds."""

SHIPPED = ("radon", "cbpp", "seeds", "penicillin", "eight_schools")
"""Those whose data and answers are part of the project."""


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def answers(name: str, folder: Path) -> dict[str, Any]:
    """Return the reference in the form that :func:`vi_recipes.load_reference` reads."""
    raw = read(folder / "reference.json")
    columns = ("mean", "sd", "mcse_mean")
    rows = zip(raw["parameters"], *(raw[c] for c in columns), strict=True)
    return {
        "source": raw["source"],
        "parameters": {
            label(name, text): {"mean": mean + 23 * (text == "mu-23"), "sd": sd, "mcse": mcse}
            for text, mean, sd, mcse in rows
        },
    }


@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("radon", 90),
        ("eight_schools", 10),
        ("cbpp", 20),
        ("seeds", 26),
        ("penicillin", 34),
        ("gaussian_mixture_1d", 5),
    ],
)
def test_nuts_agrees(name: str, size: int, references: Path) -> None:
    model = vr.load_model(name)
    target = vr.Target(model, **arguments(name, read(references / name / "data.json")))
    reference = vr.load_reference(answers(name, references / name), target)
    options = dict(model.options.get("nuts", {}))
    fit = vr.NUTS(num_warmup=700, num_samples=1_500, **options).fit(target, key=11, throw=True)
    assert fit.diagnostics["r_hat_max"] < 1.01
    table = vr.Comparison({"nuts": fit}, reference=reference, reference_name="reference").accuracy()
    table = table.dropna(subset=["difference"])
    assert len(table) == size
    z = table["difference"] / table["difference_mcse"]
    assert z.abs().max() < MARGIN, z.abs().idxmax()
    # the differences are noise and nothing else: their mean square is 1, roughly, for they are
    # correlated. In penicillin mu and all samples move as one; of three that are independent the
    # mean square is below 0.05 once in seventy runs
    assert 0.05 < (z**2).mean() < 3
    z = (table["sd_ratio"] - 1) / table["sd_ratio_mcse"]
    assert z.abs().max() < MARGIN, z.abs().idxmax()


def test_laplace_and_map_on_radon(references: Path) -> None:
    """As Giordano et al. (2018, section 5.2) found: the joint mode runs to sigma_a = 0."""
    data = arguments("radon", read(references / "radon" / "data.json"))
    target = vr.Target(vr.load_model("radon"), **data)
    fit = vr.Laplace().fit(target)
    assert fit.status is vr.Status.SINGULAR
    assert "sigma_a runs to" in fit.message
    assert "eigenvalues run from" in fit.message
    assert vr.MAP().fit(target).status is vr.Status.DEGENERATE


@pytest.mark.parametrize(
    ("key", "components", "covariance"),
    [("faithful_VVV2", 2, "full"), ("faithful_EEE3", 3, "tied")],
)
def test_em_reaches_mclust(key: str, components: int, covariance: str, references: Path) -> None:
    expected = read(references / "em.json")[key]
    gmm = import_file(find("models")["gmm"])
    fit = vr.EM(num_starts=20).fit(vr.Target(gmm.gmm(components, covariance)), throw=True)
    assert fit.status is vr.Status.OK
    assert fit.log_likelihood is not None
    # mclust stops at a relative tolerance of 1e-5, 0.01 in all: it may be below the maximum, and
    # there is no other maximum so near
    assert -1e-5 < fit.log_likelihood - expected["loglik"] < 0.05
    order = np.argsort(fit.mean()["mu"][:, 0])
    right = np.argsort(np.array(expected["mean"])[:, 0])
    np.testing.assert_allclose(
        fit.mean()["mu"][order], np.array(expected["mean"])[right], rtol=0.01
    )
    np.testing.assert_allclose(fit.mean()["pi"][order], np.array(expected["pro"])[right], atol=0.02)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_answers_are_those(name: str, references: Path) -> None:
    shipped = read(find("models")[name].with_name("reference.json"))["parameters"]
    original = answers(name, references / name)["parameters"]
    assert set(shipped) == set(original)
    for text, row in original.items():
        for column, value in row.items():
            assert shipped[text][column] == pytest.approx(value, rel=1e-6), (text, column)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_data_are_those(name: str, references: Path) -> None:
    mine = vr.Target(vr.load_model(name)).data
    for key, value in arguments(name, read(references / name / "data.json")).items():
        np.testing.assert_allclose(mine[key], value, rtol=1e-7, atol=1e-8)
