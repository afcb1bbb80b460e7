"""The recipes of CONTRIBUTING.md do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.comparison import sections
from vi_recipes.core import import_file
from vi_recipes.methods.guides import families
from vi_recipes.methods.svi import objectives

TEXT = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
MOST = 40
"""Lines that a worked example may have."""


def recipe(first_line: str) -> str:
    """Return the code block that begins with a comment."""
    blocks = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    (block,) = (b for b in blocks if b.startswith(f"# {first_line}\n"))
    assert len(block.splitlines()) <= MOST
    return str(block)


def executed(first_line: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(recipe(first_line), first_line, "exec", dont_inherit=True), names)
    return names


def file_of(folder: Path, first_line: str) -> Path:
    path = folder / first_line
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(recipe(first_line), encoding="utf-8")
    return path


@pytest.fixture
def coin(tmp_path: Path) -> vr.Target:
    return vr.Target(vr.load_model(file_of(tmp_path, "models/coin/model.py")))


@pytest.mark.slow
def test_a_method(coin: vr.Target) -> None:
    prior = executed("vi_recipes/methods/prior.py")["Prior"]
    with pytest.raises(ValueError, match="num_draws: got 1"):
        prior(num_draws=1)
    c = vr.compare(coin, [prior(num_draws=4_000), vr.MAP()], reference="prior")
    # Beta(2, 2) has mean 1/2 and variance 1/20; 4.5 standard errors
    assert abs(c["prior"].mean()["p"] - 0.5) < 4.5 * np.sqrt(0.05 / 4_000)
    assert c["prior"].kind == "prior"
    assert c.means()["map"]["p"] == pytest.approx(7 / 10, abs=1e-3)


def test_a_guide_and_an_objective(coin: vr.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = executed("an entry of FAMILIES, and one of OBJECTIVES")
    for table in (families.FAMILIES, families.GUIDES):
        monkeypatch.setitem(table, "diagonal_normal", entries["diagonal_normal"])
    monkeypatch.setitem(objectives.OBJECTIVES, "covering", entries["covering"])
    method = vr.SVI(guide="diagonal_normal", objective="covering", num_steps=4_000)  # type: ignore[arg-type]
    fit = method.fit(coin, throw=True)
    exact_sd = np.sqrt(8 * 4 / (12**2 * 13))  # Beta(8, 4)
    assert fit.mean()["p"] == pytest.approx(8 / 12, abs=0.2 * exact_sd)
    assert fit.sd()["p"] == pytest.approx(exact_sd, rel=0.2)
    assert "renyi_bound" in fit.trace


@pytest.mark.slow
def test_a_model_and_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_of(tmp_path, "models/coin/model.py")
    path = file_of(tmp_path, "comparisons/coin.py")
    monkeypatch.chdir(tmp_path)
    assert import_file(path).STUDY.name == "coin"
    c = vr.load_study(path).run()
    assert c["map"].mean()["p"] == pytest.approx(7 / 10, abs=1e-3)
    assert np.isfinite(c["laplace"].sd()["p"])


def test_a_section(coin: vr.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = executed("an entry of SECTIONS")["widths_section"]
    monkeypatch.setattr(sections, "SECTIONS", (*sections.SECTIONS, section))
    from vi_recipes.comparison import folder, page

    for reader in (folder, page):
        if hasattr(reader, "SECTIONS"):
            monkeypatch.setattr(reader, "SECTIONS", sections.SECTIONS)
    vr.compare(coin, [vr.Laplace()]).save(tmp_path / "out")
    for name in ("report.html", "report.md"):
        assert "How wide the fits are" in (tmp_path / "out" / name).read_text(encoding="utf-8")
    assert (tmp_path / "out" / "tables" / "widths.csv").is_file()
    assert (tmp_path / "out" / "tables" / "widths.tex").is_file()
