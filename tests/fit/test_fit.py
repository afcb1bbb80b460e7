"""The one result type: tables, labels, ArviZ, files, and outside references."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from models_for_tests import case, target

import vi_recipes as vr
from vi_recipes.core import write_whole
from vi_recipes.posterior.gaussian import GaussianPosterior


@cache
def laplace(name: str = "linear_regression") -> vr.Fit:
    return vr.Laplace().fit(target(name), key=3, throw=True)


@cache
def sampled() -> vr.Fit:
    method = vr.NUTS(num_warmup=200, num_samples=200, num_chains=2, noncentered=("theta",))
    return method.fit(target("eight_schools"), key=3, throw=True)


@pytest.mark.slow
def test_summary() -> None:
    table = laplace().summary()
    assert list(table.index) == ["beta[0]", "beta[1]", "contrast"]
    assert list(table.columns) == [
        "mean",
        "sd",
        "eti89_lb",
        "eti89_ub",
        "mcse_mean",
    ]  # independent: no R-hat, no ESS
    np.testing.assert_allclose(table["mean"], laplace().flat(laplace().mean()))
    table = sampled().summary(["theta"])
    assert list(table.index) == [f"theta[{school}]" for school in "ABCDEFGH"]
    columns = ["mean", "sd", "eti89_lb", "eti89_ub", "mcse_mean", "ess_bulk", "ess_tail", "r_hat"]
    assert list(table.columns) == columns
    assert sampled().labels(["theta"], coords=False)[0] == "theta[0]"


def test_covariance_of_chosen_sites_in_the_order_asked_for() -> None:
    full, part = laplace().cov(), laplace().cov(["contrast", "beta"])
    labels = ["contrast", "beta[0]", "beta[1]"]
    assert list(part.index) == list(part.columns) == labels
    np.testing.assert_allclose(part, full.loc[labels, labels], rtol=1e-12)
    assert laplace().cov("beta").shape == (2, 2)


def test_unknown_sites() -> None:
    with pytest.raises(ValueError, match=r"unknown site\(s\) bet; .*beta, contrast"):
        laplace().cov(["bet"])
    with pytest.raises(ValueError, match="unknown site"):
        laplace().summary(["y"])


def test_draws() -> None:
    draws = laplace().draws(20_000, key=1)
    cov = case("linear_regression").cov
    assert cov is not None
    # 3 covariances of 20,000 independent draws at 4.5 standard errors: 2e-5
    error = np.sqrt((cov**2 + np.outer(np.diag(cov), np.diag(cov))) / 20_000)
    assert (np.abs(np.cov(draws["beta"].T) - cov) < 4.5 * error).all()
    np.testing.assert_allclose(draws["contrast"], draws["beta"] @ [1, -2], rtol=1e-9, atol=1e-12)
    again, other = laplace().draws(3, key=1), laplace().draws(3, key=jax.random.key(2))
    np.testing.assert_array_equal(again["beta"], laplace().draws(3, key=1)["beta"])
    assert (again["beta"] != other["beta"]).all()


def test_arviz_tree_of_a_sampler() -> None:
    tree = sampled().to_arviz()
    posterior = tree["posterior"]
    assert posterior["theta"].dims == ("chain", "draw", "school")
    assert posterior["theta"].shape == (2, 200, 8)
    assert posterior["school"].values.tolist() == list("ABCDEFGH")
    assert {"diverging", "energy", "lp", "tree_depth", "n_steps"} <= set(tree["sample_stats"])
    assert tree.attrs["inference_library"] == "vi_recipes"
    assert tree.attrs["seed"] == 3
    assert json.loads(tree.attrs["versions"])["numpyro"]


def test_arviz_tree_of_an_approximation() -> None:
    tree = laplace("nested_plates").to_arviz()
    assert tree["posterior"]["c"].dims == ("chain", "draw", "class", "school")
    assert tree["posterior"].sizes["chain"] == 1
    assert "sample_stats" not in tree.children


def test_arviz_reads_the_file(tmp_path: Path) -> None:
    import arviz as az

    path = sampled().save(tmp_path / "nuts.nc")
    tree = az.from_netcdf(path)
    np.testing.assert_array_equal(
        tree["posterior"]["mu"],
        sampled().posterior.samples["mu"],  # type: ignore[union-attr]
    )


def test_a_loaded_fit_is_saved_again_as_it_was(tmp_path: Path) -> None:
    for name, fit in {"laplace": laplace(), "nuts": sampled()}.items():
        once = vr.Fit.load(fit.save(tmp_path / "made" / "here" / f"{name}1.nc"))
        twice = vr.Fit.load(once.save(tmp_path / f"{name}2.nc"))
        np.testing.assert_allclose(twice.cov(), fit.cov(), rtol=1e-12)
        site = "mu" if name == "nuts" else "beta"
        np.testing.assert_array_equal(twice.draws(4)[site], once.draws(4)[site])


def test_a_large_covariance_is_not_stored(tmp_path: Path) -> None:
    from vi_recipes.model.target import Target

    def model() -> None:
        import numpyro
        import numpyro.distributions as dist

        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([201]).to_event(1))

    this = Target(model)
    posterior = GaussianPosterior(this, np.zeros(201), None, np.ones(201))
    fit = vr.Fit(method="big", status=vr.Status.OK, sites=this.quantities, coords=this.coords,
                 posterior=posterior)  # fmt: skip
    again = vr.Fit.load(fit.save(tmp_path / "big.nc"))
    np.testing.assert_array_equal(again.sd()["x"], fit.sd()["x"])
    cov = again.cov().to_numpy()  # from the 2,000 draws that are stored
    error = np.sqrt((np.eye(201) + 1) / 2_000)
    assert (np.abs(cov - np.eye(201)) < 6 * error).all()  # 20,301 comparisons at 6: 4e-5
    assert np.abs(cov - np.eye(201)).max() > 0.01


def test_draws_of_a_large_fit_are_written_a_piece_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = laplace("nested_plates")
    monkeypatch.setattr("vi_recipes.fit.draws.PIECE", 300 * sum(site.size for site in fit.sites))
    sizes = []
    draws = GaussianPosterior.draws

    def noting(posterior: GaussianPosterior, num_draws: int, key: jax.Array) -> dict:
        sizes.append(num_draws)
        return draws(posterior, num_draws, key)

    monkeypatch.setattr(GaussianPosterior, "draws", noting)
    again = vr.Fit.load(fit.save(tmp_path / "large.nc"))
    assert [size for size in sizes if size > 1] == [300] * 6 + [200]
    kept, fresh = again.to_arviz()["posterior"], fit.to_arviz()["posterior"]
    assert kept.sizes == fresh.sizes
    for name in fresh.data_vars:
        assert kept[name].dims == fresh[name].dims
        np.testing.assert_array_equal(kept[name], fresh[name])
    assert kept["school"].values.tolist() == fresh["school"].values.tolist()
    # the pieces are not copies of one another: 2,000 draws at 5 standard errors
    value = kept["c"].to_numpy().reshape(2_000, -1)
    assert len(np.unique(value[:, 0])) == 2_000
    errors = fit.sd()["c"].ravel() / np.sqrt(2_000)
    assert (np.abs(value.mean(0) - fit.mean()["c"].ravel()) < 5 * errors).all()
    np.testing.assert_array_equal(again.mean()["c"], fit.mean()["c"])


@pytest.mark.parametrize("content", [b"", b"not a netCDF file"])
def test_a_file_that_is_no_fit(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.nc"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other\.nc: not a fit saved by vi_recipes"):
        vr.Fit.load(path)
    with pytest.raises(ValueError, match="not a fit"):
        vr.Fit.load(tmp_path / "absent.nc")


def test_a_netcdf_file_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "tree.nc"
    laplace().to_arviz().to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ValueError, match="not a fit saved by vi_recipes"):
        vr.Fit.load(path)


def test_what_failed_shows_no_numbers_even_if_it_has_some() -> None:
    failed = replace(laplace(), status=vr.Status.SINGULAR, message="flat", advice="try NUTS")
    assert not failed.has_result
    with pytest.raises(vr.FitError, match=r"flat\. Try NUTS") as caught:
        failed.mean()
    assert caught.value.status is vr.Status.SINGULAR
    assert failed.explanation.startswith(vr.Status.SINGULAR.value)


@pytest.mark.parametrize("status", vr.Status)
def test_which_statuses_have_results(status: vr.Status) -> None:
    has = status.name in ("OK", "UNCONVERGED", "INTERRUPTED", "COLLAPSED")
    assert status.has_result == has
    assert replace(laplace(), status=status).has_result == has
    assert status.ok == (status is vr.Status.OK)


def test_representations() -> None:
    assert repr(laplace()).startswith("Fit('laplace', OK, ")
    html = laplace()._repr_html_()
    assert "contrast" in html
    assert "<table" in html
    assert laplace().renamed("other").method == "other"


@pytest.mark.parametrize("kind", [vr.Fit, vr.Calibration, vr.Assessment, vr.Provenance])
def test_help_lists_the_fields(kind: type) -> None:
    """Those inherited from a base below too: users see the face alone."""
    text = inspect.getdoc(kind) or ""
    explained = re.findall(r"^(\w+(?:, \w+)*)\n    \S", text, re.MULTILINE)
    names = {name for line in explained for name in line.split(", ")}
    assert names == {field.name for field in fields(kind)}


def test_a_file_that_may_not_grow_is_refused_before_it_is_begun(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    fit = vr.Laplace().fit(target("linear_regression"), key=0)
    path = fit.save(tmp_path / "whole.nc")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, before[1]))
    try:  # HDF5 ends the process where it cannot write
        with pytest.raises(OSError, match="File too large"):
            fit.save(tmp_path / "half.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.name for file in tmp_path.iterdir()] == ["whole.nc"]


@pytest.mark.parametrize("name", ["linear_regression", "normal_mean"])
def test_the_room_that_is_made_is_enough(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vi_recipes.fit import stored

    asked: list[int] = []

    def write(path: Path, content: Any, *, size: int = 0) -> Path:
        asked.append(size)
        return write_whole(path, content, size=size)

    monkeypatch.setattr(stored, "write_whole", write)
    for method in (vr.MAP(), vr.Laplace(), vr.MeanField()):
        path = method.fit(target(name), key=0).save(tmp_path / f"{method.name}.nc")
        assert path.stat().st_size <= asked[-1]
