"""The shipped models: they load, trace as documented, and their data are what they were."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes.core.content import find, import_file, load_object

SITES: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
    "bayesian_neural_network": {
        "w": ("latent", (1, 4)),
        "a": ("latent", (4,)),
        "v": ("latent", (4,)),
        "b": ("latent", ()),
        "sigma": ("latent", ()),
        "f": ("deterministic", (7,)),
        "y": ("observed", (60,)),
    },
    "bivariate_normal": {"x": ("latent", (2,))},
    "ecology_cjs": {
        "mean_phi": ("latent", ()),
        "mean_p": ("latent", ()),
        "beta": ("latent", ()),
        "sigma": ("latent", ()),
        "epsilon": ("latent", (19,)),
        "phi": ("deterministic", (19,)),
        "y": ("observed", (285, 20)),
    },
    "election88": {
        "mu_a": ("latent", ()),
        "b": ("latent", (2,)),
        "sigma_a": ("latent", ()),
        "a": ("latent", (51,)),
        "y": ("observed", (11_566,)),
    },
    "insteval": {
        "mu": ("latent", ()),
        "beta_service": ("latent", ()),
        "tau_s": ("latent", ()),
        "tau_d": ("latent", ()),
        "sigma_s": ("deterministic", ()),
        "sigma_d": ("deterministic", ()),
        "s": ("latent", (2_972,)),
        "d": ("latent", (1_128,)),
        "y": ("observed", (73_421,)),
    },
    "sesame_street": {
        "d": ("latent", ()),
        "b": ("latent", ()),
        "mu_ag": ("latent", (2,)),
        "sigma_a": ("latent", ()),
        "sigma_g": ("latent", ()),
        "rho_ag": ("latent", ()),
        "sigma_y": ("latent", ()),
        "sigma_t": ("latent", ()),
        "rho_yt": ("latent", ()),
        "ag": ("latent", (9, 2)),
        "yt": ("observed", (240, 2)),
    },
    "cbpp": {
        "beta": ("latent", (3,)),
        "mu": ("latent", ()),
        "tau": ("latent", ()),
        "sigma": ("deterministic", ()),
        "u": ("latent", (15,)),
        "incidence": ("observed", (56,)),
    },
    "criteo": {
        "beta": ("latent", (5,)),
        "mu": ("latent", ()),
        "tau": ("latent", ()),
        "u": ("latent", (5_000,)),
        "y": ("observed", (61_895,)),
    },
    "eight_schools": {
        "mu": ("latent", ()),
        "tau": ("latent", ()),
        "theta": ("latent", (8,)),
        "y": ("observed", (8,)),
    },
    "gaussian_mixture_1d": {
        "mu": ("latent", (2,)),
        "sigma": ("latent", (2,)),
        "theta": ("latent", ()),
        "y": ("observed", (1_000,)),
    },
    "gmm": {
        "pi": ("latent", (2,)),
        "Sigma": ("latent", (2, 2, 2)),
        "mu": ("latent", (2, 2)),
        "y": ("observed", (272, 2)),
    },
    "radon": {
        "mu_a": ("latent", ()),
        "b": ("latent", (2,)),
        "sigma_a": ("latent", ()),
        "sigma_y": ("latent", ()),
        "a": ("latent", (85,)),
        "log_radon": ("observed", (919,)),
    },
    "seeds": {
        "alpha0": ("latent", ()),
        "alpha1": ("latent", ()),
        "alpha2": ("latent", ()),
        "alpha12": ("latent", ()),
        "sigma": ("latent", ()),
        "b": ("latent", (21,)),
        "germinated": ("observed", (21,)),
    },
    "penicillin": {
        "mu": ("latent", ()),
        "sigma_plate": ("latent", ()),
        "sigma_sample": ("latent", ()),
        "sigma_y": ("latent", ()),
        "u": ("latent", (24,)),
        "v": ("latent", (6,)),
        "diameter": ("observed", (144,)),
    },
    "factor_analysis": {
        "mu": ("latent", (6,)),
        "W_diag": ("latent", (2,)),
        "W_lower": ("latent", (9,)),
        "W": ("deterministic", (6, 2)),
        "psi": ("latent", (6,)),
        "Sigma": ("deterministic", (6, 6)),
        "z": ("latent", (112, 2)),
        "y": ("observed", (112, 6)),
    },
    "hmm": {
        "pi": ("latent", (3,)),
        "A": ("latent", (3, 3)),
        "mu": ("latent", (3,)),
        "sigma": ("latent", (3,)),
        "y": ("observed", (300,)),
    },
    "linear_mixed": {
        "beta": ("latent", (2,)),
        "sigma": ("latent", ()),
        "sigma_b": ("latent", (2,)),
        "Omega": ("latent", (2, 2)),
        "D": ("deterministic", (2, 2)),
        "b": ("latent", (18, 2)),
        "y": ("observed", (180,)),
    },
    "linkage": {"theta": ("latent", ()), "z": ("discrete", (197,))},
    "mixture_of_experts": {
        "V": ("latent", (2, 2)),
        "w": ("latent", (2, 2)),
        "sigma": ("latent", (2,)),
        "z": ("discrete", (88,)),
    },
    "lda": {
        "phi": ("latent", (3, 12)),
        "theta": ("latent", (60, 3)),
        "counts": ("observed", (60, 12)),
    },
    "neyman_scott": {
        "sigma": ("latent", ()),
        "z": ("latent", (100,)),
        "y": ("observed", (100, 2)),
    },
    "ppca": {
        "mu": ("latent", (4,)),
        "W_diag": ("latent", (2,)),
        "W_lower": ("latent", (5,)),
        "W": ("deterministic", (4, 2)),
        "sigma": ("latent", ()),
        "Sigma": ("deterministic", (4, 4)),
        "z": ("latent", (150, 2)),
        "y": ("observed", (150, 4)),
    },
    "times_deaths": {
        "pi": ("latent", (2,)),
        "log_lam": ("latent", (2,)),
        "lam": ("deterministic", (2,)),
        "z": ("discrete", (1_096,)),
    },
    "deep_latent_gaussian": {
        "A": ("latent", (2, 4)),
        "W": ("latent", (4, 12)),
        "b": ("latent", (12,)),
        "z2": ("latent", (200, 2)),
        "z1": ("latent", (200, 4)),
        "y": ("observed", (200, 12)),
    },
    "vae": {
        "V": ("latent", (2, 8)),
        "c": ("latent", (8,)),
        "W": ("latent", (8, 64)),
        "b": ("latent", (64,)),
        "z": ("latent", (500, 2)),
        "y": ("observed", (500, 64)),
    },
}
"""Name -> site -> kind and shape, as ``models.md`` and the READMEs have them."""

FINGERPRINTS = {
    "cbpp": "1e9fbb2a8f1135b3",
    "eight_schools": "0ea88774d0046504",
    "gmm": "9bf39c20ccef5e28",
    "insteval": "7eab35e48b736451",
    "linear_mixed": "1d863cdcb0c71c9e",
    "linkage": "6b9a6b8ffcb510e6",
    "mixture_of_experts": "fc3c76e2fbc5e846",
    "penicillin": "6485b627732d3288",
    "ppca": "e738b03b89034031",
    "radon": "67f704421e8d6934",
    "seeds": "a598c44e210ac235",
    "times_deaths": "e556cc46b126c5da",
    "vae": "6539867d1b65b53e",
}
"""Of the data that ship as files, so that an edit to one is noticed."""


@cache
def target(name: str) -> vr.Target:
    return vr.Target(vr.load_model(name))


def test_every_shipped_model_is_here() -> None:
    assert set(find("models")) == set(SITES)


@pytest.mark.slow
@pytest.mark.parametrize("name", SITES)
def test_sites_are_as_documented(name: str) -> None:
    found = {n: (s.kind, s.shape) for n, s in target(name).sites.items()}
    assert found == SITES[name]


@pytest.mark.parametrize("name", SITES)
def test_the_model_describes_itself(name: str) -> None:
    model = vr.load_model(name)
    assert model.name == name
    assert model.description
    assert model.citation
    latent = {n for n, (kind, _) in SITES[name].items() if kind in ("latent", "discrete")}
    assert {*model.parameters, *model.latents} == latent
    readme = find("models")[name].with_name("README.md").read_text(encoding="utf-8")
    for site in latent:
        assert site in readme
    # coordinates fit the data, and every dimension of the sites named has labels
    assert {d for s in target(name).latents for d in s.dims} <= set(target(name).coords)


@pytest.mark.slow
@pytest.mark.parametrize("name", SITES)
def test_the_density_and_its_gradient_are_finite_at_the_start(name: str) -> None:
    this = target(name)
    z = this.start(jax.random.key(0))
    assert np.isfinite(this.log_density(z))
    assert this.dim == z.size


@pytest.mark.parametrize("name", SITES)
def test_data_do_not_change_from_one_load_to_the_next(name: str) -> None:
    assert vr.Target(vr.load_model(name)).fingerprint == target(name).fingerprint
    assert FINGERPRINTS.get(name, target(name).fingerprint) == target(name).fingerprint


def test_the_simulated_data_are_seeded() -> None:
    for name in ("criteo", "gaussian_mixture_1d"):
        simulate = vr.load_model(name).simulate
        assert simulate is not None
        one, same, other = simulate(seed=1), simulate(seed=1), simulate(seed=2)
        np.testing.assert_array_equal(one["y"], same["y"])
        assert (one["y"] != other["y"]).any()


@pytest.mark.parametrize("name", SITES)
def test_reference_answers_fit_the_model(name: str) -> None:
    content = json.loads(find("models")[name].with_name("reference.json").read_text())
    assert content["source"]
    if "parameters" in content:
        fit = vr.load_reference(content, target(name))
        known = [s for s in fit.sites if np.isfinite(fit.mean()[s.name]).all()]
        assert known
        for site in known:
            assert (fit.sd()[site.name] > 0).all()


# -- gmm -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "tied", "diagonal", "spherical"])
def test_gmm_covariances(covariance: str) -> None:
    gmm = load_object(f"{find('models')['gmm']}:gmm")
    this = vr.Target(gmm(3, covariance))
    matrix = (2, 2) if covariance == "tied" else (3, 2, 2)
    assert this.sites["Sigma"].shape == matrix
    assert np.isfinite(this.log_density(this.start(jax.random.key(0))))
    # what is exchangeable has the components along the axis that is named
    for group in this.exchangeable:
        for site, axis in group.sites.items():
            assert this.sites[site].shape[axis] == 3


@pytest.mark.slow
def test_gmm_prior_is_conjugate() -> None:
    """The log prior of EM is that of the NumPyro model, and labels do not matter to either."""
    gmm = load_object(f"{find('models')['gmm']}:gmm")
    this = vr.Target(gmm(2, "full"))
    values = this.constrain(this.start(jax.random.key(0)))
    swapped = {name: value[::-1].copy() for name, value in values.items()}
    z, other = this.unconstrain(values), this.unconstrain(swapped)
    joint = this.log_density(z, jacobian=False)
    assert this.log_density(other, jacobian=False) == pytest.approx(joint, rel=1e-12)
    em = this.model.em
    assert em is not None
    assert em.log_prior is not None
    with jax.enable_x64(True):
        log_prior = float(em.log_prior(values, **this.data))
        log_likelihood = float(em.e_step(values, **this.data)[1])
    assert log_prior + log_likelihood == pytest.approx(joint, rel=1e-12)


def test_gmm_refuses_an_unknown_covariance() -> None:
    gmm = load_object(f"{find('models')['gmm']}:gmm")
    with pytest.raises(ValueError, match="choose one of full, tied, diagonal, spherical"):
        gmm(2, "round")


# -- seeds and penicillin ------------------------------------------------------------------------


def log_joint(name: str, values: dict[str, Any], data: dict[str, Any]) -> float:
    this = vr.Target(vr.load_model(name), **data)
    return this.log_density(this.unconstrain(values), jacobian=False)


def test_seeds_density() -> None:
    rng = np.random.default_rng(4)
    size = np.array([5, 9, 2, 30])
    x1, x2 = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])
    data = {"germinated": rng.integers(0, size + 1), "size": size, "x1": x1, "x2": x2}
    alphas, sigma, b = np.array([0.3, -0.6, 1.1, 0.4]), 0.8, rng.standard_normal(4)
    logits = np.stack([np.ones(4), x1, x2, x1 * x2], axis=1) @ alphas + b
    expected = (
        stats.norm.logpdf(alphas).sum()
        + stats.halfcauchy.logpdf(sigma)
        + stats.norm.logpdf(b, 0, sigma).sum()
        + stats.binom.logpmf(data["germinated"], size, 1 / (1 + np.exp(-logits))).sum()
    )
    names = ("alpha0", "alpha1", "alpha2", "alpha12")
    values = {**dict(zip(names, alphas, strict=True)), "sigma": sigma, "b": b}
    assert log_joint("seeds", values, data) == pytest.approx(expected, rel=1e-12)


def test_penicillin_density() -> None:
    rng = np.random.default_rng(5)
    plate, sample = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    diameter = 23 + 2 * rng.standard_normal(12)
    data = {
        "diameter": diameter,
        "plate": plate,
        "sample": sample,
        "num_plates": 4,
        "num_samples": 3,
    }
    mu, sds, u, v = 22.0, (0.9, 2.1, 0.6), rng.standard_normal(4), rng.standard_normal(3)
    expected = (
        stats.norm.logpdf(mu, 23, 5)
        + stats.halfnorm.logpdf(sds, 0, 2).sum()
        + stats.norm.logpdf(u, 0, sds[0]).sum()
        + stats.norm.logpdf(v, 0, sds[1]).sum()
        + stats.norm.logpdf(diameter, mu + u[plate] + v[sample], sds[2]).sum()
    )
    names = ("sigma_plate", "sigma_sample", "sigma_y")
    values = {"mu": mu, **dict(zip(names, sds, strict=True)), "u": u, "v": v}
    assert log_joint("penicillin", values, data) == pytest.approx(expected, rel=1e-12)


def test_the_seeds_baseline_is_the_first_row() -> None:
    data = target("seeds").data
    assert data["x1"].tolist() == [0] * 11 + [1] * 10  # O75, then O73
    assert data["x2"].tolist() == [0] * 5 + [1] * 6 + [0] * 5 + [1] * 5  # bean, then cucumber
    assert (data["germinated"].sum(), data["size"].sum()) == (424, 831)


def test_the_penicillin_design() -> None:
    this = target("penicillin")
    counts = np.zeros((24, 6))
    np.add.at(counts, (this.data["plate"], this.data["sample"]), 1)
    assert (counts == 1).all()
    assert this.coords["plate"].tolist() == list("abcdefghijklmnopqrstuvwx")
    assert this.coords["penicillin"].tolist() == list("ABCDEF")
    other = {**this.data, "plate": this.data["plate"][::-1].copy()}
    coords = vr.Target(vr.load_model("penicillin"), **other).coords
    assert coords["plate"].tolist() == list(range(24))  # not the shipped data: numbers


# -- loading a user's file -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "header", "match"),
    [
        ("radon", "county,floor\nA,1\n", r"lacks column\(s\) log_radon, log_uranium"),
        ("cbpp", "herd,period,size\n1,1,3\n", r"lacks column\(s\) incidence"),
        ("gmm", "name\nA\n", r"0 numeric column\(s\)"),
        ("seeds", "seed,root,y\na,b,3\n", r"lacks column\(s\) n"),
        ("seeds", "seed,root,n,y\na,b,4,3\na,c,4,1\n", "seed should have two labels"),
        ("seeds", "seed,root,n,y\na,b,4,3\nc,,4,1\n", "root should have two labels"),
        ("penicillin", "diameter,plate\n23,a\n", r"lacks column\(s\) sample"),
        ("penicillin", "diameter,plate,sample\n23,a,\n", "rows without a plate or a sample"),
    ],
)
def test_files_that_lack_columns(name: str, header: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(header)
    load = vr.load_model(name).load
    assert load is not None
    with pytest.raises(ValueError, match=match):
        load(path)


def criteo_log(path: Path, rows: int = 400) -> Path:
    """Write a file of the public log's format: label, 13 integers, 26 categories."""
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(rows):
        integers = [str(v) if v < 40 else "" for v in rng.integers(0, 42, 13)]
        categories = [f"{v:08x}" for v in rng.integers(0, 30, 26)]
        lines.append("\t".join([str(rng.integers(0, 2)), *integers, *categories]))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_criteo_log(tmp_path: Path) -> None:
    load = vr.load_model("criteo").load
    assert load is not None
    data: Any = load(criteo_log(tmp_path / "train.txt"))
    assert data["num_groups"] == 30
    sizes = np.bincount(data["group"], minlength=30)
    assert (sizes >= 1).all()
    assert (sizes <= 20).all()
    assert data["X"].shape == (sizes.sum(), 5)
    assert set(np.unique(data["y"])) == {0, 1}
    assert np.abs(data["X"].mean(0)).max() < 0.3  # normal scores
    assert vr.Target(vr.load_model("criteo"), **data).dim == 30 + 7


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("1,2,3\n", "line 1 is not tab-separated"),
        ("1\t2\t3\n", "line 1 has 3 tab-separated columns"),
        ("\t".join(["click", *["1"] * 13, *["a"] * 26]) + "\n", "the label is 'click'"),
    ],
)
def test_files_that_are_not_the_criteo_log(text: str, match: str, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text(text)
    load = vr.load_model("criteo").load
    assert load is not None
    with pytest.raises(ValueError, match=match):
        load(path)


def test_the_criteo_design_is_the_published_one() -> None:
    data = target("criteo").data
    sizes = np.bincount(data["group"], minlength=5_000)
    assert sizes.min() >= 1
    assert sizes.max() <= 20
    assert sizes.mean() == pytest.approx(12.379)
    first = data["X"][:, 0]
    assert len(np.unique(first)) == 7
    assert first.mean() == pytest.approx(-1.9, abs=0.01)
    assert first.std() == pytest.approx(0.15, abs=0.01)
    # 61,895 standard normals: the error of a mean is 0.004 and of an sd 0.003
    np.testing.assert_allclose(data["X"][:, 1:].mean(0), 0, atol=4.5 * 0.004)
    np.testing.assert_allclose(data["X"][:, 1:].std(0), 1, atol=4.5 * 0.003)


@pytest.mark.usefixtures("optimised")
@pytest.mark.slow
def test_criteo_at_full_size() -> None:
    """The joint mode collapses towards tau = (T/2 + 2)/3; SVI does not."""
    this = target("criteo")
    fit = vr.MAP().fit(this)
    ceiling = (5_000 / 2 + 2) / 3
    if fit.has_result:
        assert 0.9 * ceiling < fit.mean()["tau"] <= ceiling * (1 + 1e-6)
        assert np.ptp(fit.mean()["u"]) < 0.5  # all groups at one value, nearly
    else:
        assert fit.status is vr.Status.DEGENERATE
        assert "tau" in fit.message
    svi = vr.SVI(num_steps=3_000).fit(this, throw=True)
    assert svi.has_result
    assert np.isfinite(svi.flat(svi.sd())).all()
    # mean field finds the coefficients that are not collinear with mu; published sds 0.012 to 0.030
    truth = np.array([0.033, 0.110, -0.173, 0.273])
    np.testing.assert_allclose(svi.mean()["beta"][1:], truth, atol=0.1)


def test_models_do_not_import_one_another() -> None:
    for path in find("models").values():
        import_file(path)
        text = path.read_text(encoding="utf-8")
        assert "import models" not in text
        assert "vi_recipes.models" not in text
