"""The manual: what it keeps of studies' runs, where it links to, and the examples of docstrings."""

from __future__ import annotations

import builtins
import doctest
import importlib
import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from matplotlib.figure import Figure
from worlds_for_tests import World, comparison

import vi_recipes as vr
from vi_recipes.comparison.notes import Note, NoteKind
from vi_recipes.core import list_models, list_studies

ROOT = Path(__file__).parents[1]
DOCS, PACKAGE = ROOT / "docs", ROOT / "vi_recipes"
EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)
"""Modules with examples in their docstrings."""

KEPT = sorted(path.parent.name for path in DOCS.glob("studies/*/run.json"))
MOST = 3e6
"""Bytes of all that is kept of studies."""


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("gallery")


def toy(x: Any, y: Any) -> None:
    """Regress with two scales: what the examples are about that are of any model."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 0.5))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("row", len(y)):
        spread = jnp.sqrt(tau**2 + sigma**2)
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x, spread), obs=y)


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """Return what examples take as given: a target ``target``, and a comparison ``c`` of it."""
    x = np.linspace(-1.0, 1.0, 40)
    noise = np.random.default_rng(1).normal(size=40)
    target = vr.Target(vr.Model(function=toy, name="toy"), x=x, y=1.0 + 0.5 * x + 1.4 * noise)
    return {"vr": vr, "target": target, "c": vr.compare(target, [vr.Laplace()])}


# -- examples of docstrings ------------------------------------------------------------------------


@pytest.mark.parametrize("module", EXAMPLES)
def test_examples_are_what_they_say(
    module: str, given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = doctest.testmod(importlib.import_module(module), extraglobs=given)
    assert done.attempted
    assert done.failed == 0


def test_no_example_is_left_out() -> None:
    assert len(EXAMPLES) > 10
    skipped = [str(path) for path in PACKAGE.rglob("*.py") if "doctest: +SKIP" in path.read_text()]
    assert skipped == []


# -- the gallery -----------------------------------------------------------------------------------


def test_the_gallery_lists_every_model_and_study() -> None:
    models, studies = (DOCS / "gallery.md").read_text(encoding="utf-8").split("## Studies")
    assert sorted(re.findall(r"^\| `(\w+)` \|", models, re.M)) == sorted(list_models())
    linked = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \|", studies, re.M)
    assert sorted(linked) == [(name, name) for name in sorted(list_studies())]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_kept_of_a_run_is_whole(name: str, gallery: ModuleType) -> None:
    assert name in list_studies()
    kept = gallery.record(name)
    assert kept["command"] == f"vi-recipes run {name} --no-cache"
    assert re.fullmatch("[0-9a-f]{12}", kept["commit"])
    assert kept["cpu_seconds"] > 0
    exhibits = gallery.exhibits(name)
    assert [one.problem for one in exhibits] == [""] * len(exhibits)
    files = {f"{one.name}.{'svg' if one.table is None else 'csv'}" for one in exhibits}
    assert files
    assert {path.name for path in (DOCS / "studies" / name).iterdir()} == {"run.json", *files}


def test_what_is_kept_is_small() -> None:
    kept = [path for path in DOCS.glob("studies/**/*") if path.is_file()]
    assert sum(path.stat().st_size for path in kept) < MOST


def test_a_run_is_kept_as_it_was_written(gallery: ModuleType, tmp_path: Path) -> None:
    world = World()
    c = comparison(world.svi(), world.nuts())
    figure = Figure(figsize=(2, 2))
    figure.subplots().plot([1.0, 3.0, 2.0])
    c.exhibits += [
        vr.Exhibit(name="line", title="A line", caption="Three points.", content=figure),
        vr.Exhibit(
            name="sizes", title="Sizes", caption="", content=pd.DataFrame({"x": [1 / 3, np.nan]})
        ),
    ]
    c.save(tmp_path / "run")
    here = gallery.keep("radon", tmp_path / "run", tmp_path, seconds=2.0)
    for name in ("line.svg", "sizes.csv"):
        assert (here / name).read_bytes() == (tmp_path / "run" / "exhibits" / name).read_bytes()
    record = json.loads((here / "run.json").read_text(encoding="utf-8"))
    assert record["seconds"] == 2.0
    assert record["answer"] == str(c.recommend())
    assert [one["caption"] for one in record["exhibits"]] == ["Three points.", ""]
    c.notes.append(Note("The study's exhibits end after 2.", NoteKind.LOST_EXHIBITS))
    c.save(tmp_path / "run")
    with pytest.raises(ValueError, match="radon: nothing is kept of a run that lost exhibits"):
        gallery.keep("radon", tmp_path / "run", tmp_path)


# -- links and references --------------------------------------------------------------------------

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "models/*/README.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if "_written" not in path.parts
)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)")
ADDRESS = re.compile(r"https?://[^\s<>\"'`\\]+")
ROLE = re.compile(r":(?:class|func|meth|attr|mod|data):`~?([\w.]+)`")


def prose(page: Path) -> str:
    """Return the text of a page without its code."""
    text = re.sub(r"^(```+|~~~+).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "code", text)


def anchors(page: Path) -> set[str]:
    """Return what a page's headings are linked by."""
    text = page.read_text(encoding="utf-8")
    if page.name == "gallery.md":  # written when the manual is built
        text += "".join(f"\n## {name}" for name in list_studies())
    heads = re.findall(r"^#{1,3} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    kept = (re.sub(r"[^\w\- ]", "", head.strip().lower()) for head in heads)
    return {head.replace(" ", "-") for head in kept}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), target
        assert not anchor or anchor in anchors(place), target


def test_addresses_are_of_a_form_that_can_be_opened() -> None:
    files = [*PAGES, *PACKAGE.rglob("*.py"), *ROOT.glob("comparisons/**/*.py")]
    found = {one.rstrip(".,;:)]") for file in files for one in ADDRESS.findall(file.read_text())}
    assert len(found) > 10
    for address in found:
        parts = urlsplit(address)
        host = parts.hostname or ""
        assert parts.scheme == "https" or host in ("www.w3.org",), address
        assert re.fullmatch(r"([a-z0-9-]+\.)+[a-z]{2,}", host), address
        assert not re.search(r"[{}|^]|%(?![0-9A-Fa-f]{2})", address), address
    for file in files:
        for doi in re.findall(r"\bdoi[:.=\s\"']+(?:org/)?(10\.[^\s\"'`<>]*)", file.read_text()):
            assert re.fullmatch(r"10\.\d{4,9}/\S+", doi), (file, doi)


def test_references_of_docstrings_are_to_what_there_is() -> None:
    lost = []
    for path in sorted(PACKAGE.rglob("*.py")):
        names = ROLE.findall(path.read_text(encoding="utf-8"))
        if names:
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            here = importlib.import_module(module.removesuffix(".__init__"))
            lost += [f"{module}: {name}" for name in names if not is_known(name, here)]
    assert lost == []


def is_known(name: str, here: ModuleType) -> bool:
    """Whether a name is of a module, its classes, its room or the package, or is whole."""
    room = importlib.import_module(".".join(here.__name__.split(".")[:2]))
    classes = [one for one in vars(here).values() if isinstance(one, type)]
    for place in (here, room, vr, builtins, *classes):
        if has(place, name.split(".")):
            return True
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return has(found, parts[length:])
    return False


def has(place: object, parts: list[str]) -> bool:
    """Whether there is an attribute at the end of a path; instances have what is set on them."""
    for part in parts:
        if not hasattr(place, part):
            return any(re.search(rf"\b(self\.)?{part}\b *[:=]", text) for text in sources(place))
        place = getattr(place, part)
    return True


def sources(place: object) -> list[str]:
    """Return the source of a class of ours and of those that it inherits from."""
    ours = (one for one in getattr(place, "__mro__", ()) if one.__module__.startswith("vi_recipes"))
    return [inspect.getsource(one) for one in ours]
