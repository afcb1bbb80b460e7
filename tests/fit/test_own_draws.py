"""Draws made elsewhere: named, checked, audited, and told apart from those of another density."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from models_for_tests import case, target

import vi_recipes as vr
from vi_recipes.core import Status
from vi_recipes.fit.chains import measure
from vi_recipes.fit.stationary import EVERYTHING, balances
from vi_recipes.trust import unfit

HERE = Path(__file__).parent
PYMC = HERE / "own_draws" / "pymc.nc"
SHAPE = (4, 400)


def regression_draws(seed: int = 0, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Return exact, independent draws of the coefficients, by the closed form."""
    this = case("linear_regression")
    generator = np.random.default_rng(seed)
    return generator.multivariate_normal(this.mean["beta"], this.cov, shape)


def normal_gamma_draws(seed: int = 0) -> dict[str, np.ndarray]:
    """Return exact, independent draws of a location and a precision, by the closed form."""
    y = np.random.default_rng(2).normal(1.0, 0.5, 30)
    a, b, m, k, n = 3.0, 2.0, 0.0, 0.5, 30
    kn, mn, an = k + n, (k * m + n * y.mean()) / (k + n), a + n / 2
    bn = b + 0.5 * ((y - y.mean()) ** 2).sum() + k * n * (y.mean() - m) ** 2 / (2 * kn)
    generator = np.random.default_rng(seed)
    tau = generator.gamma(an, 1 / bn, SHAPE)
    return {"tau": tau, "mu": generator.normal(mn, 1 / np.sqrt(kn * tau))}


def test_exact_draws_are_a_fit_that_stands() -> None:
    this, draws = case("linear_regression"), regression_draws()
    fit = vr.from_draws({"beta": draws}, target("linear_regression"))
    assert fit.status is Status.OK
    assert (fit.method, fit.kind) == ("draws", "draws")
    np.testing.assert_array_equal(fit.mean()["beta"], draws.mean((0, 1)))
    # what the model derives is computed
    np.testing.assert_allclose(fit.mean()["contrast"], draws.mean((0, 1)) @ [1, -2])
    error = 5 * this.sd["contrast"] / np.sqrt(draws[..., 0].size)
    assert abs(fit.mean()["contrast"] - this.mean["contrast"]) < error
    assert unfit(fit) == ""
    evidence = vr.assess(fit, target("linear_regression")).evidence
    assert evidence[0].value == pytest.approx(this.log_evidence, abs=0.1)


@pytest.mark.parametrize("name", ["linear_regression", "normal_precision"])
def test_exact_draws_balance(name: str) -> None:
    """Of draws of the density the surplus is 0 but for errors of the size that are stated."""
    this, scores = target(name), []
    for seed in range(30):
        if name == "linear_regression":
            draws = {"beta": regression_draws(seed, (2, 150))}
        else:
            draws = {n: v[:2, :150] for n, v in normal_gamma_draws(seed).items()}
        flat = {n: v.reshape(-1, *v.shape[2:]) for n, v in draws.items()}
        z = this.unconstrain_rows(flat)
        found = balances(this, z.reshape(2, 150, -1), this.log_densities(z).reshape(2, 150), seed)
        assert not any(b.tips for b in found.values())
        scores.append(found[EVERYTHING].surplus / found[EVERYTHING].error)
    assert abs(np.mean(scores)) < 4 / np.sqrt(len(scores))
    assert 0.6 < np.std(scores) < 1.5


@pytest.mark.parametrize(
    "wrong",
    [
        lambda d: {**d, "tau": d["tau"] ** -0.5},  # an sd for a precision
        lambda d: {**d, "mu": d["mu"] + 2 * d["mu"].std()},  # of other data
        lambda d: {n: v.mean() + 2 * (v - v.mean()).clip(-v.mean() / 2.1) for n, v in d.items()},
        lambda d: {n: v.mean() + (v - v.mean()) / 3 for n, v in d.items()},  # too narrow
    ],
)
def test_draws_of_another_density_are_told(wrong: Any) -> None:
    this = target("normal_precision")
    assert vr.from_draws(normal_gamma_draws(), this).status is Status.OK
    fit = vr.from_draws(wrong(normal_gamma_draws()), this)
    assert fit.status is Status.UNCONVERGED
    assert "not draws of this model's posterior" in fit.message
    assert "these are not draws" in unfit(fit)
    assert vr.judge(fit).trust is vr.Trust.UNTRUSTED


def test_coefficients_in_another_order_are_told() -> None:
    this, draws = target("linear_regression"), regression_draws()
    names = {"a": "beta[1]", "b": "beta[0]"}
    swapped = vr.from_draws({"a": draws[..., 0], "b": draws[..., 1]}, this, names=names)
    assert "not draws of this model's posterior" in swapped.message
    names = {"a": "beta[0]", "b": "beta[1]"}
    right = vr.from_draws({"a": draws[..., 0], "b": draws[..., 1]}, this, names=names)
    np.testing.assert_array_equal(right.posterior.samples["beta"], draws)


def test_what_it_derives_otherwise_is_told() -> None:
    draws = regression_draws()
    other = {"beta": draws, "contrast": draws[..., 0] + 2 * draws[..., 1]}
    fit = vr.from_draws(other, target("linear_regression"))
    assert "its contrast is not what this model derives" in fit.message


def test_chains_apart_are_told() -> None:
    draws = regression_draws()
    draws[0] += 0.5 * draws.std((0, 1))
    fit = vr.from_draws({"beta": draws}, target("linear_regression"))
    assert fit.status is Status.UNCONVERGED
    assert "R-hat up to" in fit.message


def test_a_tree_of_pymc_is_a_reference() -> None:
    eight = vr.Target(vr.load_model("eight_schools"))
    fit = vr.from_arviz(PYMC, eight)
    assert (fit.method, fit.status) == ("pymc", Status.OK)
    assert fit.diagnostics["divergences"] == 0
    assert 0 < fit.diagnostics["e_bfmi_min"] < 2
    assert fit.timing.total_seconds > 1
    answers = json.loads(Path("models/eight_schools/reference.json").read_text())["parameters"]
    known = vr.load_reference({"parameters": answers}, eight)
    for name in ("mu", "tau", "theta"):
        error = np.hypot(fit.mcse()[name], known.mcse()[name])
        assert (np.abs(fit.mean()[name] - known.mean()[name]) < 4 * error).all()
    # its z, standard normal, is no theta
    assert "not draws of" in vr.from_arviz(PYMC, eight, names={"z": "theta"}).message
    again = vr.from_arviz(fit.to_arviz(), eight)
    np.testing.assert_allclose(again.mean()["theta"], fit.mean()["theta"])


def stan_csv(path: Path, beta: np.ndarray, divergent: int = 0, warmup: int = 0) -> Path:
    """Write a chain as CmdStan does, whose manual has the format."""
    head = [
        "# stan_version_major = 2",
        "# stan_version_minor = 35",
        "# stan_version_patch = 0",
        "# model = line_model",
        "# method = sample (Default)",
        "#   sample",
        f"#     num_samples = {len(beta) - warmup}",
        f"#     num_warmup = {warmup or 1000}",
        f"#     save_warmup = {int(warmup > 0)}",
        "#     thin = 1 (Default)",
        "#     algorithm = hmc (Default)",
        "#         engine = nuts (Default)",
        "#         nuts",
        "#           max_depth = 10 (Default)",
        "#       metric = diag_e (Default)",
        "# id = 1",
        "lp__,accept_stat__,stepsize__,treedepth__,n_leapfrog__,divergent__,energy__,beta.1,beta.2",
        "# Adaptation terminated",
        "# Step size = 0.9",
        "# Diagonal elements of inverse mass matrix:",
        "# 1, 1",
    ]
    energy = np.random.default_rng(0).normal(size=len(beta))
    rows = [
        f"-7.1,0.9,0.8,{10 if k % 40 == 0 else 2},3,{int(k < divergent)},{energy[k]:.4f},"
        f"{b[0]:.6g},{b[1]:.6g}"
        for k, b in enumerate(beta)
    ]
    tail = ["# ", "#  Elapsed Time: 0.5 seconds (Warm-up)", "#                2.5 seconds (Total)"]
    path.write_text("\n".join([*head, *rows, *tail]) + "\n")
    return path


def test_csv_files_of_stan(tmp_path: Path) -> None:
    draws, this = regression_draws(), target("linear_regression")
    paths = [stan_csv(tmp_path / f"fit-{k}.csv", draws[k]) for k in range(4)]
    fit = vr.from_arviz(str(tmp_path / "fit-*.csv"), this)
    assert fit.method == "stan"
    np.testing.assert_allclose(fit.posterior.samples["beta"], draws, rtol=1e-5)
    listed = vr.from_arviz(f"{paths[0]}, {paths[1]},{tmp_path}/fit-[23].csv", this)
    np.testing.assert_array_equal(listed["beta"], fit["beta"])
    odd = stan_csv(tmp_path / "fit[1],2.csv", draws[1])
    np.testing.assert_allclose(vr.from_arviz(odd, this)["beta"], draws[1], rtol=1e-5)
    assert fit.timing.total_seconds == 2.5
    assert fit.diagnostics["max_tree_depth_share"] == pytest.approx(1 / 40)
    assert "3% of trees at the depth limit" in fit.message or "2%" in fit.message
    stan_csv(paths[0], np.concatenate([9 + draws[0, :100], draws[0]]), divergent=20, warmup=100)
    stan_csv(paths[1], draws[1], divergent=20)
    fit = vr.from_arviz(paths, this)
    np.testing.assert_allclose(fit.posterior.samples["beta"], draws, rtol=1e-5)
    assert "20 divergences in 1600 draws" in fit.message  # those of the warm-up are left out


def test_what_cmdstanpy_returns(tmp_path: Path) -> None:
    cmdstanpy = pytest.importorskip("cmdstanpy")
    draws, this = regression_draws(), target("linear_regression")
    paths = [stan_csv(tmp_path / f"fit-{k}.csv", draws[k], divergent=2) for k in range(4)]
    theirs = cmdstanpy.from_csv([str(path) for path in paths])
    fit = vr.from_draws(theirs, this)
    assert fit.method == "stan"
    assert fit.diagnostics["divergences"] == 8
    for same in (fit, *(vr.from_draws(d, this) for d in (theirs.draws_pd(), theirs.draws_xr()))):
        np.testing.assert_allclose(same.posterior.samples["beta"], draws, rtol=1e-5)
    with pytest.raises(ValueError, match=r"Its chains are one after another.* give the fit itself"):
        vr.from_draws(theirs.stan_variables(), this)


def test_a_frame_of_brms(tmp_path: Path) -> None:
    draws, this = regression_draws(), target("linear_regression")
    frame = pd.DataFrame(
        {
            "b_Intercept": draws[..., 0].ravel(),
            "b_x": draws[..., 1].ravel(),
            "lp__": 0.0,
            ".chain": np.repeat([1, 2, 3, 4], SHAPE[1]),
            ".iteration": np.tile(np.arange(SHAPE[1]), 4),
            ".draw": np.arange(draws[..., 0].size),
        }
    ).sample(frac=1, random_state=1)
    frame = frame.sort_values(".iteration", kind="stable")
    path = tmp_path / "brms.csv"
    frame.to_csv(path)
    names = {"b_Intercept": "beta[0]", "b_x": "beta[1]"}
    for given in (frame, path):
        fit = vr.from_arviz(given, this, names=names)
        np.testing.assert_allclose(fit.posterior.samples["beta"], draws)
    from_one = frame.rename(columns={"b_Intercept": "beta[1]", "b_x": "beta[2]"})
    np.testing.assert_allclose(vr.from_draws(from_one, this).posterior.samples["beta"], draws)
    one = vr.from_draws(frame.drop(columns=".chain"), this, names=names)
    assert "one chain, so R-hat cannot vouch for it" in one.message


def test_names_that_brms_gives_a_formula_are_known() -> None:
    rng = np.random.default_rng(3)
    rows = {
        "y": rng.normal(size=24),
        "age (y)": rng.normal(size=24),
        "arm": ["new-b", "a"] * 12,
        "g": np.repeat(["North St", "east", "w"], 8),
    }
    formula = "y ~ arm * `age (y)` + (1 + `age (y)` | g)"
    this = vr.Target(vr.glmm([formula, "sigma ~ arm + (1 | g)"], rows))
    theirs = {
        "b_Intercept": "Intercept", "b_armnewMb": "beta[arm[new-b]]", "b_agey": "beta[age (y)]",
        "b_armnewMb:agey": "beta[arm[new-b]:age (y)]", "b_sigma_Intercept": "Intercept_sigma",
        "b_sigma_armnewMb": "beta_sigma[arm[new-b]]", "sd_g__Intercept": "sd_g[Intercept]",
        "sd_g__agey": "sd_g[age (y)]", "cor_g__Intercept__agey": "cor_g",
        "sd_g__sigma_Intercept": "sd_g_sigma",
    }  # fmt: skip
    for theirs_of, ours in (("North.St", "North St"), ("east", "east"), ("w", "w")):
        theirs[f"r_g[{theirs_of},Intercept]"] = f"u_g_Intercept[{ours}]"
        theirs[f"r_g[{theirs_of},agey]"] = f"u_g_age_y[{ours}]"
        theirs[f"r_g__sigma[{theirs_of},Intercept]"] = f"u_g_sigma[{ours}]"
    frame = pd.DataFrame({name: rng.uniform(0.1, 0.9, 80) for name in theirs})
    frame[".chain"], frame["lp__"] = np.repeat([1, 2], 40), 0.0
    fit = vr.from_draws(frame, this)
    flat = fit.flat({n: np.moveaxis(v, (0, 1), (-2, -1)) for n, v in fit.posterior.samples.items()})
    drawn = dict(zip(fit.labels(), flat.reshape(-1, 80), strict=True))
    assert set(drawn) == set(theirs.values())
    for name, ours in theirs.items():
        np.testing.assert_allclose(drawn[ours], frame[name], rtol=1e-12)
    # a name that is given goes before one that is known
    other = frame.rename(columns={"cor_g__Intercept__agey": "rho"})
    again = vr.from_draws(other, this, names={"rho": "cor_g"})
    np.testing.assert_allclose(again["cor_g"].ravel(), frame["cor_g__Intercept__agey"])
    with pytest.raises(ValueError, match=r"site\(s\) cor_g .*--rename 'their name=cor_g'"):
        vr.from_draws(other, this)


def _stacked() -> xr.Dataset:
    return xr.Dataset({"beta": (("sample", "k"), regression_draws()[0])})


@pytest.mark.parametrize(
    ("draws", "names", "said"),
    [
        ({"beta": regression_draws()[0, :, 0]}, {}, r"'beta' has shape \(400,\), expected \(chain"),
        (_stacked(), {}, "'beta' has no dimension chain and draw but sample, k"),
        ({"betas": regression_draws()}, {}, "no draws of the latent site.* 'betas'"),
        ({"beta": regression_draws()[..., :1]}, {}, r"draws of shape \(1,\), expected \(2,\)"),
        ({"beta": regression_draws()}, {"bta": "beta"}, "unknown name 'bta'; did you mean 'beta'"),
        ({"b": regression_draws()}, {"b": "beat"}, "unknown site or scalar 'beat'; did you mean"),
        ({"b": regression_draws()[..., 0]}, {"b": "beta[0]"}, r"beta\[1\] of site 'beta' is not"),
        (
            {"beta": np.where(regression_draws() > 3, 0, np.nan)},
            {},
            "not finite in chain 1, draw 1$",
        ),
        ({"beta": regression_draws()[:, :3]}, {}, "got 3 draws a chain, expected at least 4"),
        (3, {}, "got int, expected an ArviZ tree"),
        ("nowhere.nc", {}, "nowhere.nc"),
        ("nowhere-*.csv", {}, "no file is called so"),
        ("nowhere-1.csv,nowhere-2.csv", {}, "^nowhere-1.csv: does not exist"),
        ({"beta": regression_draws()[[0, 1, 1]]}, {}, "chains 2 and 3 have the same draws"),
    ],
)
def test_bad_draws_are_refused(draws: Any, names: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vr.from_arviz(draws, target("linear_regression"), names=names)


def test_values_outside_the_support_are_refused(tmp_path: Path) -> None:
    draws = normal_gamma_draws()
    draws["tau"][1, 7] = -0.5
    said = r"1 of 1600 draws of site 'tau' are outside .* the first -0.5 in chain 2, draw 8"
    with pytest.raises(ValueError, match=said):
        vr.from_draws(draws, target("normal_precision"))
    path = stan_csv(tmp_path / "opt.csv", regression_draws()[0])
    path.write_text(path.read_text().replace("method = sample", "method = optimize"))
    with pytest.raises(ValueError, match="Stan's method 'optimize'"):
        vr.from_arviz(path, target("linear_regression"))
    short = stan_csv(tmp_path / "a.csv", regression_draws()[0, :300])
    long = stan_csv(tmp_path / "b.csv", regression_draws()[0])
    with pytest.raises(ValueError, match="chains have 300 and 400 draws"):
        vr.from_arviz([short, long], target("linear_regression"))


def test_they_are_a_row_or_the_reference(tmp_path: Path) -> None:
    this = target("linear_regression")
    own = vr.from_draws({"beta": regression_draws()}, this, method="stan")
    c = vr.compare(this, [vr.Laplace(), own], path=tmp_path / "c", seed=3)
    assert (list(c), c.reference_name) == (["laplace", "stan"], "stan")
    assert c.verdict_of["laplace"].trust is vr.Trust.TRUSTWORTHY
    assert c["stan"].assessment is not None
    assert c.recommend().method == "laplace"  # nobody knows what the draws took
    assert np.isnan(c.timings().loc["stan", "total_seconds"])
    again = vr.Comparison.load(tmp_path / "c")
    assert again["stan"].kind == "draws"
    assert again.verdict_of["laplace"] == c.verdict_of["laplace"]
    wrong = own.posterior.samples["beta"][..., ::-1]
    foreign = vr.from_draws({"beta": wrong}, this, method="stan")
    c = vr.compare(this, "laplace", reference=foreign)
    assert "measures nobody" in c.warnings[0]
    assert "these are not draws of this model's posterior" in c.warnings[0]
    with pytest.raises(ValueError, match="expected that of the fit"):
        vr.compare(target("normal_precision"), [own])


def test_energies_that_do_not_vary_are_not_known() -> None:
    rng = np.random.default_rng(0)
    samples = {"a": rng.normal(size=(2, 300))}
    energy = rng.normal(size=(2, 300))
    assert "e_bfmi_min" not in measure(samples, {"energy": np.full((2, 300), 102.0)})
    assert measure(samples, {"energy": energy})["e_bfmi_min"] > 1
    energy[1] = 3.0  # a chain that stands still
    assert measure(samples, {"energy": energy})["e_bfmi_min"] == 0
