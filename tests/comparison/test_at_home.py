"""What a user types and sees in Python and in notebooks."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.comparison.request import chosen_progress, named_methods
from vi_recipes.core import progress, progress_bar


def test_methods_are_named_as_it_comes() -> None:
    this = target("linear_regression")
    both = {"map": vr.MAP(), "laplace": vr.Laplace()}
    assert named_methods("map, laplace", this) == both
    assert named_methods([vr.MAP(), vr.Laplace()], this) == both
    assert named_methods(vr.MAP(), this) == {"map": vr.MAP()}
    assert named_methods("first=map", this) == {"first": vr.MAP()}
    assert "nuts" in named_methods(None, this)
    with pytest.raises(ValueError, match="methods: unknown method 'mpa'; did you mean 'map'"):
        named_methods("mpa", this)
    with pytest.raises(ValueError, match="methods: 'map' is listed twice"):
        named_methods("map,map", this)


def test_a_seed_is_a_key() -> None:
    this = target("linear_regression")
    method = vr.NUTS(num_warmup=20, num_samples=20, num_chains=1)
    by_key, by_seed = method.fit(this, key=3), method.fit(this, seed=3)
    np.testing.assert_array_equal(by_key["beta"], by_seed["beta"])
    assert by_seed.provenance.seed == 3
    assert (method.fit(this, seed=4)["beta"] != by_key["beta"]).any()
    with pytest.raises(ValueError, match="seed: got 4 beside key=3"):
        method.fit(this, key=3, seed=4)
    with pytest.raises(ValueError, match="seed: got 4 beside key=3"):
        vr.compare(this, "map", key=3, seed=4)


def test_a_site_of_a_fit_is_its_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(2, 50, 2))
    fit = vr.from_draws({"beta": draws}, target("linear_regression"))
    np.testing.assert_array_equal(fit["beta"], draws.reshape(100, 2))
    assert fit["contrast"].shape == (100,)
    with pytest.raises(ValueError, match="unknown site"):
        fit["gamma"]
    point = vr.MAP().fit(target("linear_regression"))
    np.testing.assert_array_equal(point["beta"][0], point.mean()["beta"])


def test_the_verdict_is_seen_first() -> None:
    c = vr.compare(target("linear_regression"), "map,laplace", seed=1)
    frame = c.verdicts()
    assert list(frame.index) == ["map", "laplace"]
    assert frame.loc["laplace", "verdict"] == "trustworthy"
    assert frame.loc["laplace", "mean_error"] == abs(c.verdict_of["laplace"].errors.mean)
    assert list(frame.columns) == [
        "verdict", "mean_error", "mean_at", "sd_ratio", "sd_at",
    ]  # fmt: skip
    frame.loc["laplace", "verdict"] = "edited"
    assert c.verdicts().loc["laplace", "verdict"] == "trustworthy"
    first, second, *_ = repr(c).splitlines()
    assert first == "Comparison('linear_regression')"
    assert second == str(c.recommend())
    html = c._repr_html_()
    assert html.index("Use laplace: trustworthy") < html.index("<table")
    mean, sd = c["laplace"].mean()["beta"][0], c["laplace"].sd()["beta"][0]
    assert f"{mean:.4g} ({sd:.2g})" in html


def test_much_is_shown_in_a_dozen_rows() -> None:
    def wide(y: np.ndarray) -> None:
        for name in "abcdefghijklmn":
            numpyro.sample(f"{name}<i>", dist.Normal())
        numpyro.sample("u", dist.Normal().expand([40]).to_event(1))
        numpyro.sample("y", dist.Normal(), obs=y)

    this = vr.Target(wide, y=1.0)
    assert repr(this).endswith("l<i>, and 3 more)")
    html = this._repr_html_()
    assert html.count("<tr>") == 13
    assert "a&lt;i&gt;" in html
    assert "4 more sites" in html
    c = vr.compare(this, "map", assessed=False)
    assert c["map"]._repr_html_().count("<tr>") == 12
    assert "42 more parameters in summary()" in c["map"]._repr_html_()
    assert "<i>" not in c._repr_html_() + c["map"]._repr_html_()


def test_the_names_are_the_api() -> None:
    assert dir(vr) == sorted(vr.__all__)
    assert all(hasattr(vr, name) for name in vr.__all__)


def test_a_bar_is_for_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_progress(None) is None
    assert chosen_progress(False) is None
    assert chosen_progress(True) is progress_bar
    monkeypatch.setattr("vi_recipes.comparison.request.in_notebook", lambda: True)
    assert chosen_progress(None) is progress_bar
    assert chosen_progress(False) is None
    assert not progress.in_notebook()
    with pytest.raises(ValueError, match="progress: got 3"):
        chosen_progress(3)  # type: ignore[arg-type]
