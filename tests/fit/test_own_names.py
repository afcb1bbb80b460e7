"""Draws made elsewhere under the names that people's tools give them, in any container."""

from __future__ import annotations

from pathlib import Path

import arviz as az
import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr

RNG = np.random.default_rng(8)
ROWS = 30
FRAME = pd.DataFrame(
    {
        "y": RNG.normal(size=ROWS),
        "x": RNG.normal(size=ROWS),
        "z": RNG.normal(size=ROWS),
        "herd": np.resize([1, 2, 3, 15], ROWS),
        "level": pd.Categorical.from_codes(np.resize([0, 2, 1], ROWS), list("lmh"), ordered=True),
        "kind": np.resize(["b", "a", "c"], ROWS),
    }
)
SHAPE = (2, 40)


def by_label(target: vr.Target) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return a frame of draws with a column a scalar, called as we call it, and them by site."""
    drawn = {s.name: RNG.uniform(0.1, 0.9, (*SHAPE, *s.shape)) for s in target.latents}
    drawn = {n: np.sort(v, axis=-1) if n == "cut" else v for n, v in drawn.items()}
    flat = np.concatenate([v.reshape(SHAPE[0] * SHAPE[1], -1) for v in drawn.values()], axis=1)
    frame = pd.DataFrame(flat, columns=target.labels(list(drawn), coords=True))
    return frame.assign(chain=np.repeat([1, 2], SHAPE[1])), drawn


def same(fit: vr.Fit, drawn: dict[str, np.ndarray]) -> None:
    for name, values in drawn.items():
        np.testing.assert_allclose(fit.posterior.samples[name], values, rtol=1e-12)


@pytest.fixture(scope="module")
def herds() -> vr.Target:
    return vr.Target(vr.glmm("y ~ x + z + (1 | herd)", FRAME))


def test_columns_that_are_called_as_here_need_no_names(herds: vr.Target, tmp_path: Path) -> None:
    frame, drawn = by_label(herds)
    assert "u_herd[15]" in frame
    assert "beta[z]" in frame
    same(vr.from_draws(frame.sample(frac=1, axis=1, random_state=0), herds), drawn)
    frame.to_parquet(tmp_path / "draws.parquet")
    same(vr.from_arviz(tmp_path / "draws.parquet", herds), drawn)
    frame.to_csv(tmp_path / "draws.csv")
    same(vr.from_arviz(tmp_path / "draws.csv", herds), drawn)


def test_members_that_are_called_by_numbers(herds: vr.Target) -> None:
    """A number in brackets is the member called so, unless all are places that count from zero."""
    frame, drawn = by_label(herds)
    theirs = frame.rename(columns={f"u_herd[{k}]": f"r_herd[{k},Intercept]" for k in (1, 2, 3, 15)})
    theirs = theirs.rename(
        columns={
            "Intercept": "b_Intercept", "beta[x]": "b_x", "beta[z]": "b_z",
            "sd_herd": "sd_herd__Intercept",
        }
    )  # fmt: skip
    same(vr.from_draws(theirs, herds), drawn)
    effects = {f"r_herd[{label},Intercept]": k for k, label in enumerate((1, 2, 3, 15))}
    places = {name: f"u_herd[{k}]" for name, k in effects.items()}
    same(vr.from_draws(theirs, herds, names=places), drawn)
    labels = {name: f"u_herd[{(1, 2, 3, 15)[k]}]" for name, k in effects.items()}
    same(vr.from_draws(theirs, herds, names=labels), drawn)


def test_the_intercept_at_the_means_is_not_ours(tmp_path: Path) -> None:
    """Since 2.21 brms writes it as ``Intercept``, and the intercept as ``b_Intercept``."""
    target = vr.Target(vr.glmm(["y ~ x + z", "sigma ~ z"], FRAME))
    frame, drawn = by_label(target)
    ours = ["Intercept", "beta[x]", "beta[z]", "Intercept_sigma", "beta_sigma[z]"]
    theirs = ["b_Intercept", "b_x", "b_z", "b_sigma_Intercept", "b_sigma_z"]
    written = frame.rename(columns=dict(zip(ours, theirs, strict=True)))
    written = written.assign(Intercept=frame["Intercept"] + 5.0, Intercept_sigma=7.0, lprior=-3.0)
    same(vr.from_draws(written, target), drawn)
    path = tmp_path / "d.csv"
    written.rename(columns={"chain": ".chain"}).to_csv(path)
    same(vr.from_arviz(path, target), drawn)
    named = {"Intercept": "Intercept"}  # who says so has it
    same(vr.from_draws(written, target, names=named), drawn | {"Intercept": drawn["Intercept"] + 5})


def test_names_of_brms_for_levels_and_polynomials() -> None:
    target = vr.Target(vr.glmm("level ~ poly(x, 2)", FRAME, "cumulative"))
    frame, drawn = by_label(target)
    theirs = {
        "cut[0]": "b_Intercept[1]", "cut[1]": "b_Intercept[2]",
        "beta[poly(x, 2)[0]]": "b_polyx21", "beta[poly(x, 2)[1]]": "b_polyx22",
    }  # fmt: skip
    assert set(theirs) == set(frame) - {"chain"}
    same(vr.from_draws(frame.rename(columns=theirs), target), drawn)

    target = vr.Target(vr.glmm("kind ~ x + (1 | herd)", FRAME, "categorical"))
    frame, drawn = by_label(target)
    theirs = {}
    for level in "bc":
        theirs |= {
            f"Intercept_{level}": f"b_mu{level}_Intercept", f"beta_{level}[x]": f"b_mu{level}_x",
            f"sd_herd_{level}": f"sd_herd__mu{level}_Intercept",
        }  # fmt: skip
        for k in (1, 2, 3, 15):
            theirs[f"u_herd_{level}[{k}]"] = f"r_herd__mu{level}[{k},Intercept]"
    assert set(theirs) == set(frame) - {"chain"}
    same(vr.from_draws(frame.rename(columns=theirs), target), drawn)


def test_correlations_of_three_effects_are_one_matrix() -> None:
    """brms writes correlations one by one; the model has their matrix."""
    target = vr.Target(vr.glmm("y ~ x + z + (x + z | herd)", FRAME))
    frame, drawn = by_label(target)
    rows = RNG.normal(size=(*SHAPE, 3, 3))
    factor = np.tril(rows) / np.linalg.norm(np.tril(rows), axis=-1, keepdims=True)
    factor *= np.sign(np.diagonal(factor, axis1=-2, axis2=-1))[..., None]
    matrix = factor @ np.swapaxes(factor, -1, -2)
    drawn["cor_herd"], whole = matrix, matrix.reshape(-1, 3, 3)
    names = ["Intercept", "x", "z"]
    theirs = {"Intercept": "b_Intercept", "beta[x]": "b_x", "beta[z]": "b_z"}
    for name in names:
        theirs[f"sd_herd[{name}]"] = f"sd_herd__{name}"
        theirs |= {f"u_herd_{name}[{k}]": f"r_herd[{k},{name}]" for k in (1, 2, 3, 15)}
    frame = frame.drop(columns=[c for c in frame if c.startswith("cor_")]).rename(columns=theirs)
    pairs = [(0, 1), (0, 2), (1, 2)]
    cors = {f"cor_herd__{names[i]}__{names[j]}": whole[:, i, j] for i, j in pairs}
    fit = vr.from_draws(frame.assign(**cors), target)
    np.testing.assert_allclose(fit.posterior.samples["cor_herd"], matrix, atol=1e-9)
    same(fit, {name: values for name, values in drawn.items() if name != "cor_herd"})
    with pytest.raises(ValueError, match=r"no draws of the latent site.* cor_herd"):
        vr.from_draws(frame.assign(**dict(list(cors.items())[:2])), target)
    impossible = dict(zip(cors, (0.9, 0.9, -0.9), strict=True))
    with pytest.raises(ValueError, match="cor_herd__x__z are in some draws no correlations of one"):
        vr.from_draws(frame.assign(**impossible), target)


def test_columns_of_true_and_false_are_called_by_their_level() -> None:
    """R's model.matrix calls a logical column's coefficient kTRUE, and brms does."""
    data = FRAME.assign(k=FRAME["x"] > 0)
    target = vr.Target(vr.glmm("y ~ k * z + (1 + k | herd)", data))
    frame, drawn = by_label(target)
    theirs = {
        "Intercept": "b_Intercept", "beta[k]": "b_kTRUE", "beta[z]": "b_z",
        "beta[k:z]": "b_kTRUE:z", "sd_herd[Intercept]": "sd_herd__Intercept",
        "sd_herd[k]": "sd_herd__kTRUE", "cor_herd": "cor_herd__Intercept__kTRUE",
    }  # fmt: skip
    for ours, name in (("Intercept", "Intercept"), ("k", "kTRUE")):
        theirs |= {f"u_herd_{ours}[{k}]": f"r_herd[{k},{name}]" for k in (1, 2, 3, 15)}
    same(vr.from_draws(frame.rename(columns=theirs), target), drawn)


def test_members_of_combined_groups_are_joined_by_an_underscore() -> None:
    target = vr.Target(vr.glmm("y ~ 1 + (1 | kind/herd)", FRAME))
    frame, drawn = by_label(target)
    theirs = {
        "Intercept": "b_Intercept", "sd_kind": "sd_kind__Intercept",
        "sd_kind_herd": "sd_kind:herd__Intercept",
    }  # fmt: skip
    theirs |= {f"u_kind[{k}]": f"r_kind[{k},Intercept]" for k in "abc"}
    for kind in "abc":
        for herd in (1, 2, 3, 15):
            there = f"r_kind:herd[{kind}_{herd},Intercept]"
            theirs[f"u_kind_herd[{kind}:{herd}]"] = there
    assert set(theirs) | {"sigma", "chain"} == set(frame)
    same(vr.from_draws(frame.rename(columns=theirs), target), drawn)


def test_draws_in_every_container(herds: vr.Target) -> None:
    frame, drawn = by_label(herds)
    tree = az.from_dict({"posterior": drawn})
    for given in (tree, tree["posterior"], tree["posterior"].to_dataset(), tree.posterior):
        same(vr.from_arviz(given, herds), drawn)
    same(vr.from_draws({name: values.tolist() for name, values in drawn.items()}, herds), drawn)
    polars = pytest.importorskip("polars")
    same(vr.from_draws(polars.from_pandas(frame), herds), drawn)


def test_powers_are_called_as_in_r() -> None:
    target = vr.Target(vr.glmm("y ~ I(x**2)", FRAME))
    frame, drawn = by_label(target)
    theirs = {"Intercept": "b_Intercept", "beta[I(x ** 2)]": "b_IxE2"}  # of y ~ I(x^2)
    same(vr.from_draws(frame.rename(columns=theirs), target), drawn)


@pytest.mark.parametrize(
    ("sigma", "says"),
    [
        ([[0.5] * 40, [0.5] * 39], "the chains of 'sigma' are not all of one length"),
        (np.full(SHAPE, "one"), "site 'sigma' has draws that are no numbers, such as one"),
        (np.full(SHAPE, 1 + 2j), "site 'sigma' has draws that are no numbers"),
    ],
)
def test_what_are_no_draws_is_told(herds: vr.Target, sigma: object, says: str) -> None:
    _, drawn = by_label(herds)
    with pytest.raises(ValueError, match=says):
        vr.from_draws(drawn | {"sigma": sigma}, herds)


def test_containers_the_wrong_way_round_are_told(herds: vr.Target) -> None:
    frame, drawn = by_label(herds)
    turned = {name: np.moveaxis(values, 0, 1) for name, values in drawn.items()}
    with pytest.raises(ValueError, match="got 2 draws a chain, expected at least 4"):
        vr.from_draws(turned, herds)
    four = {name: np.concatenate([v, v], axis=1) for name, v in turned.items()}
    assert "40 chains of 4 draws: the first dimension" in vr.from_draws(four, herds).message
    long = frame.assign(draw=np.tile(np.arange(SHAPE[1]), 2)).melt(id_vars=["chain", "draw"])
    with pytest.raises(ValueError, match="a row a draw and parameter, expected a column a param"):
        vr.from_draws(long, herds)
    wide = long.pivot_table(index=["chain", "draw"], columns="variable", values="value")
    same(vr.from_draws(wide, herds), drawn)
    with pytest.raises(ValueError, match=r"beta \(2 scalars\) .*--rename 'their name=beta\[x\]'"):
        vr.from_draws(frame.drop(columns=["beta[x]", "beta[z]"]), herds)
