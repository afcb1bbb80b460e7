"""Studies: a comparison in one object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models_for_tests import case, target

import vi_recipes as vr
from vi_recipes.content import find

METHODS: dict[str, vr.Method] = {"laplace": vr.Laplace(), "svi": vr.SVI(num_steps=200)}


def study(**options: object) -> vr.Study:
    this = target("linear_regression")
    defaults = {"name": "line", "model": this.model, "data": case("linear_regression").data,
                "methods": METHODS}  # fmt: skip
    return vr.Study(**{**defaults, **options})  # type: ignore[arg-type]


def test_it_runs_what_it_says(tmp_path: Path) -> None:
    c = study(reference="laplace", description="a line").run(tmp_path)
    assert list(c) == ["laplace", "svi"]
    assert c.reference_name == "laplace"
    assert c.description == "a line"
    assert sorted(p.name for p in (tmp_path / "fits").iterdir()) == ["laplace.nc", "svi.nc"]


def test_its_seed_may_be_replaced() -> None:
    one, two, other = study(seed=1).run(), study(seed=2).run(seed=1), study(seed=2).run()
    np.testing.assert_array_equal(one.means()["svi"], two.means()["svi"])
    assert (one.means()["svi"] != other.means()["svi"]).all()
    assert one["svi"].provenance.seed == 1


def test_the_model_may_be_a_name_and_its_data_partly_replaced() -> None:
    this = vr.Study(name="s", model="eight_schools", data={"sigma": np.full(8, 10.0)}).target()
    assert this.name == "eight_schools"
    assert this.data["sigma"].tolist() == [10.0] * 8
    assert this.data["y"][0] == 28


def test_methods_default_to_those_that_apply(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def record(target: vr.Target, methods: dict[str, vr.Method], **_: object) -> None:
        seen.extend(methods)

    monkeypatch.setattr("vi_recipes.study.compare", record)
    study(methods=None).run()
    assert seen == ["map", "laplace", "svi", "nuts"]  # no closed-form EM steps here


def test_a_models_own_options_are_its_methods_defaults() -> None:
    from vi_recipes.methods import default_methods, make_method

    methods = default_methods(target("eight_schools"))
    assert isinstance(methods["nuts"], vr.NUTS)
    assert methods["nuts"].noncentered == ("theta",)
    override = make_method("nuts", target("eight_schools"), noncentered=(), num_chains=1)
    assert override == vr.NUTS(num_chains=1)


@pytest.mark.parametrize("name", find("comparisons"))
def test_shipped_studies_can_be_run(name: str) -> None:
    """Each has a target with a finite density, and methods that say so if they do not apply."""
    this = vr.load_study(name)
    assert this.name == name
    assert this.description
    assert this.methods is not None
    assert this.reference in this.methods
    for method in this.methods.values():
        assert method.applies(this.target()) is None
