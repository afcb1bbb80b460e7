"""Every method has a source to cite, and every source is whole and cited."""

from __future__ import annotations

import re

from vi_recipes.methods import METHODS, REFERENCES, SOURCES, bibtex


def test_every_method_has_its_source() -> None:
    assert set(SOURCES) == set(METHODS)
    for source in SOURCES.values():
        assert source.cited
        assert set(source.cited) <= set(REFERENCES)


def test_entries_are_whole() -> None:
    for key, (said, kind, fields) in REFERENCES.items():
        assert {"author", "title", "year"} <= set(fields), key
        assert said.endswith(fields["year"])
        assert fields["year"] in key
        assert {"doi", "url", "eprint"} & set(fields), key
        if "doi" in fields:
            assert re.fullmatch(r"10\.\d{4,}/\S+", fields["doi"])
        if kind == "article":
            assert {"journal", "volume", "pages"} <= set(fields), key
        for name, value in fields.items():
            assert value.count("{") == value.count("}"), (key, name)


def test_bibtex_has_each_entry_once() -> None:
    keys = ["rue2009approximate", "neal1998view", "rue2009approximate"]
    text = bibtex(keys)
    assert re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE) == keys[:2]
    assert "  doi = {10.1007/978-94-011-5014-9_12}," in text
