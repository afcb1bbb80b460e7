import dataclasses
import os
import sys
from pathlib import Path

import pytest

import vi_recipes as vr
from vi_recipes.comparison.elsewhere import check_sent
from vi_recipes.comparison.study import load_study
from vi_recipes.core import content
from vi_recipes.core.content import import_file, list_studies, load_object

MODEL_FILE = """
import numpyro, numpyro.distributions as dist
import vi_recipes as vr

def coin(y):
    p = numpyro.sample("p", dist.Beta(1.0, 1.0))
    with numpyro.plate("toss", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


# -- the shipped ones --------------------------------------------------------------------------


def test_every_shipped_model_loads_and_has_its_folders_name():
    models = content.list_models()
    shipped = {"radon", "gmm", "criteo", "eight_schools", "cbpp", "seeds", "penicillin"}
    assert shipped <= set(models)
    for name, line in models.items():
        model = vr.load_model(name)
        assert isinstance(model, vr.Model)
        assert model.name == name
        assert line.endswith(".")


def test_every_shipped_study_loads_and_has_its_files_name():
    studies = list_studies()
    assert {"radon", "gmm"} <= set(studies)
    for name, line in studies.items():
        study = load_study(name)
        assert study.name == name
        assert line
        check_sent(study.methods or {})  # so that --workers runs it


def make_content(root):
    (root / "models" / "toy").mkdir(parents=True)
    (root / "models" / "toy" / "model.py").write_text('"""A toy."""\n')
    (root / "comparisons").mkdir()
    (root / "comparisons" / "duel.py").write_text('"""Two toys."""\n')
    (root / "comparisons" / "_shared.py").write_text("")


def test_finder_prefers_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "vi_recipes"
    monkeypatch.setattr(content, "PACKAGE", package)
    make_content(tmp_path)
    make_content(package / "_content")
    packaged = package / "_content" / "models" / "toy" / "model.py"
    assert content.find("models") == {"toy": packaged}  # site-packages may hold any `models`

    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\n')
    assert content.find("models") == {"toy": packaged}

    (tmp_path / "pyproject.toml").write_text('[project]\nname = "vi-recipes"\n')
    assert content.find("models") == {"toy": tmp_path / "models" / "toy" / "model.py"}
    assert content.find("comparisons") == {"duel": tmp_path / "comparisons" / "duel.py"}
    assert list_studies() == {"duel": "Two toys."}


def test_a_study_may_be_a_folder_whose_files_import_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "PACKAGE", tmp_path / "vi_recipes")
    make_content(tmp_path / "vi_recipes" / "_content")
    studies = tmp_path / "vi_recipes" / "_content" / "comparisons"
    for name in ("long", "short"):  # two files of one name are two modules
        (studies / name).mkdir()
        (studies / name / "parts.py").write_text(f"NAME = {name!r}\n")
        (studies / name / "study.py").write_text(
            f'"""A {name} one."""\nimport vi_recipes as vr\nfrom .parts import NAME\n'
            'STUDY = vr.Study(name=NAME, model="radon")\n'
        )
    assert list(list_studies()) == ["duel", "long", "short"]
    assert list_studies()["long"] == "A long one."
    assert [load_study(name).name for name in ("long", "short")] == ["long", "short"]
    (studies / "long" / "parts.py").write_text('NAME = "longer than before"\n')
    assert load_study("long").name == "longer than before"  # what was edited is read again


def test_nothing_is_found_where_there_is_no_content(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "PACKAGE", tmp_path / "vi_recipes")
    assert content.list_models() == {}


def test_another_model_of_a_shipped_file():
    assert vr.load_model("gmm:LABELS").latents == ("z",)
    with pytest.raises(ValueError, match="unknown name 'LABEL'; did you mean 'LABELS'"):
        vr.load_model("gmm:LABEL")


@pytest.mark.parametrize("name", ["raddon", "Radon", "radn"])
def test_unknown_model_offers_the_closest_and_lists_all(name):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; did you mean 'radon'") as error:
        vr.load_model(name)
    assert all(known in str(error.value) for known in content.list_models())


def test_unknown_study_offers_the_closest():
    with pytest.raises(ValueError, match="unknown study 'gm'; did you mean 'gmm'"):
        load_study("gm")


# -- a user's own file -------------------------------------------------------------------------


def test_the_only_function_of_a_file_is_its_model(write):
    model = vr.load_model(write(MODEL_FILE + "\ndef _helper():\n    pass\n"))
    assert model.name == "coin"
    assert vr.Target(model, y=[1, 0, 1]).dim == 1


def test_model_objects_come_before_functions_and_the_one_called_model_first(write):
    one = MODEL_FILE + "\nmine = alias = vr.Model(function=coin, name='one')\n"
    assert vr.load_model(str(write(one))).name == "one"
    two = one + "\nMODEL = vr.Model(function=coin, name='two')\n"
    path = write(two)
    assert vr.load_model(path).name == "two"
    assert vr.load_model(f"{path}:mine").name == "one"
    assert vr.load_model(f"{path}:coin").name == "coin"


def test_ambiguous_files_list_what_could_be_meant(write):
    functions = write(MODEL_FILE + "\ndef die(y):\n    pass\n")
    with pytest.raises(ValueError, match=r"coin, die\. Say which one: .*mine\.py:coin"):
        vr.load_model(functions)
    models = write(
        MODEL_FILE + "\na = vr.Model(function=coin, name='a')\n"
        "b = vr.Model(function=coin, name='b')\n"
    )
    with pytest.raises(ValueError, match="2 objects that could be meant: a, b"):
        vr.load_model(models)


def test_files_without_a_model(write):
    with pytest.raises(ValueError, match=r"holds no vi_recipes\.Model or public function"):
        vr.load_model(write("from math import sqrt\nx = 1\n"))
    with pytest.raises(ValueError, match=r"'MODEL' in .* is a dict, expected a vi_recipes\.Model"):
        vr.load_model(write("MODEL = {}\n"))
    with pytest.raises(ValueError, match="unknown name 'con'; did you mean 'coin'"):
        vr.load_model(f"{write(MODEL_FILE)}:con")


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        vr.load_model(tmp_path / "none.py")
    with pytest.raises(ValueError, match="is a directory"):
        vr.load_model(str(tmp_path) + "/")
    (tmp_path / "notes.txt").write_text("x = 1")
    with pytest.raises(ValueError, match=r"must end in \.py"):
        vr.load_model(tmp_path / "notes.txt")


def test_dataclasses_with_postponed_annotations_work(write):
    path = write(
        "from __future__ import annotations\nfrom dataclasses import dataclass, KW_ONLY\n"
        "@dataclass\nclass Prior:\n    _: KW_ONLY\n    scale: float = 1.0\n"
        "def model(y):\n    return Prior()\n"
    )
    function = vr.load_model(path).function
    assert dataclasses.fields(function(None))[0].name == "scale"
    assert sys.modules[function.__module__].__file__ == str(path)


def test_a_file_can_import_its_neighbour_and_leaves_the_path_alone(write):
    write("VALUE = 3\n", "neighbour_of_mine.py")
    before = list(sys.path)
    vr.load_model(write("import neighbour_of_mine\ndef model(y):\n    pass\n"))
    assert sys.path == before
    del sys.modules["neighbour_of_mine"]


def test_a_file_that_raises_shows_the_users_own_lines(write):
    text = "import json\n\ndef broken():\n    return json.loads('{')\n\nbroken()\n"
    path = write(text)
    before = set(sys.modules)
    with pytest.raises(content.ContentError) as error:
        vr.load_model(path)
    message = str(error.value)
    assert message.startswith(f"{path} raised JSONDecodeError: Expecting property name")
    assert message.endswith("line 4: return json.loads('{')) when it was loaded")
    for foreign in ("decoder.py", "content.py", "importlib"):
        assert foreign not in message
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def model(:\n", "SyntaxError"),
        ("import no_such_module_at_all\n", "No module named 'no_such_module_at_all'"),
        ("raise SystemExit(3)\n", "SystemExit"),
    ],
)
def test_other_ways_to_raise(write, text, expected):
    with pytest.raises(content.ContentError, match=expected):
        vr.load_model(write(text))


def test_studies_are_type_checked(write):
    with pytest.raises(ValueError, match=r"'STUDY' in .* is a str, expected a vi_recipes\.Study"):
        load_study(write("STUDY = 'radon'\n"))
    with pytest.raises(ValueError, match=r"define STUDY = vi_recipes\.Study"):
        load_study(write("x = 1\n"))
    one = "import vi_recipes as vr\nduel = vr.Study(name='duel', model='radon')\n"
    assert load_study(write(one)).name == "duel"


def test_references_to_objects(write):
    path = write("def guide():\n    return 1\n")
    assert load_object(f"{path}:guide")() == 1
    with pytest.raises(ValueError, match="names no object"):
        load_object(str(path))
    assert content.split_reference("a/b.py:c") == (Path("a/b.py"), "c")
    assert content.split_reference("C:/b.py") == (Path("C:/b.py"), None)


def test_a_file_changed_within_a_second_is_what_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "changing.py"
    for value in (1, 2):
        file.write_text(f"value = {value}\n", encoding="utf-8")
        os.utime(file, (1e9, 1e9))
        assert import_file(file).value == value
    assert [path.name for path in tmp_path.iterdir()] == ["changing.py"]
