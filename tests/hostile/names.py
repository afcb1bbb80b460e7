"""Names of sites, plates, coordinates and files that formats refuse, read as code, or reserve."""

from __future__ import annotations

import json

from hostile.case import Case, Done, Outcome, near, run
from hostile.texts import HEAD, body

REPORT = ("compare", "m.py", "--methods", "map,laplace", "--out", "report")
KEPT = ("--json", "result.json")


def _whole(done: Done) -> None:
    """The report is all there, and the same when it is made again from the saved fits."""
    folder = done.folder / "report"
    for file in ("report.html", "report.md", "result.json", "fits/map.nc", "fits/laplace.nc"):
        assert (folder / file).stat().st_size > 0, f"{file} is missing"
    before = json.loads((folder / "result.json").read_text())
    again = run(("report", "report"), done.folder)
    assert again.code == 0, again.stderr
    after = json.loads((folder / "result.json").read_text())
    for method, fit in before["methods"].items():
        for part in ("labels", "mean", "sd"):
            assert after["methods"][method][part] == fit[part], f"{part} of {method} changed"


def _site(name: str, site: str, text: str | None = None) -> Case:
    lines = f"""
m = numpyro.sample({site!r}, dist.Normal(0.0, 1.0))
numpyro.sample("y", dist.Normal(m, 1.0), obs=1.0)
"""

    def check(done: Done) -> None:
        near(done.result["methods"]["laplace"]["mean"][0], 0.5, 1e-3)
        assert "\x1b" not in done.stdout + done.stderr, "a control character reached the terminal"
        _whole(done)

    return Case(name, REPORT + KEPT, Outcome.RIGHT, {"m.py": text or body(lines)}, (), check)


def _plate(plate: str) -> Case:
    text = body(f"""
m = numpyro.sample("m", dist.Normal(0.0, 1.0))
with numpyro.plate({plate!r}, 2):
    u = numpyro.sample("u", dist.Normal(m, 1.0))
    numpyro.sample("y", dist.Normal(u, 1.0), obs=jnp.array([1.0, 2.0]))
""")
    return Case(f"a plate named {plate!r}", REPORT, Outcome.RIGHT, {"m.py": text}, (), _whole)


def _coords(name: str, labels: str) -> Case:
    text = (
        HEAD
        + f"""
import datetime
import vi_recipes as vr

def groups(y):
    with numpyro.plate("group", 2):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

MODEL = vr.Model(function=groups, name="groups", data=lambda: {{"y": np.array([1.0, 2.0])}},
                 coords=lambda y: {{"group": {labels}}})
"""
    )
    command = ("compare", "m.py:MODEL", *REPORT[2:])
    return Case(f"labels: {name}", command, Outcome.RIGHT, {"m.py": text}, (), _whole)


def _titled(name: str, title: str) -> Case:
    text = (
        HEAD
        + f"""
import vi_recipes as vr

def normal():
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=1.0)

MODEL = vr.Model(function=normal, name="normal", description={title!r})
"""
    )

    def check(done: Done) -> None:
        _whole(done)
        page = (done.folder / "report" / "report.html").read_text()
        assert "<script>alert" not in page, "a description runs as code"

    command = ("compare", "m.py:MODEL", *REPORT[2:])
    return Case(f"a description: {name}", command, Outcome.RIGHT, {"m.py": text}, (), check)


SCOPED = (
    HEAD
    + """
from numpyro.handlers import scope

def model():
    with scope(prefix="lin"):
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=1.0)
"""
)

CASES = [
    _site("a scope's site, lin/m", "lin/m", SCOPED),
    _site("a dollar sign", "a$b$"),
    _site("mathematics that cannot be set", r"$\frac{"),
    _site("a line break", "two\nlines"),
    _site("a control sequence of terminals", "red\x1b[31m"),
    _site("HTML", "<script>alert(1)</script>"),
    _site("a pipe and backticks", "a|b`c"),
    _site("a formula of spreadsheets", "=1+1"),
    _site("two dots and a slash", "../up"),
    _site("Greek and emoji", "μ🙂"),
    _site("a space", "my site"),
    _site("300 characters", "n" * 300),
    _site("a bracket and a comma", "a[0], b"),
    _plate("chain"),
    _plate("draw"),
    _plate("a/b"),
    _plate("parameter"),
    _coords("dates", "[datetime.date(2020, 1, 1), datetime.date(2020, 1, 2)]"),
    _coords("equal", '["a", "a"]'),
    _coords("1,000 characters", '["a" * 1000, "b" * 1000]'),
    _coords("numbers", "[10, 20]"),
    _coords("signs of LaTeX", r'["50 %", "a_b & c"]'),
    _titled("HTML", "<script>alert(1)</script>"),
    _titled("Markdown", "[x](javascript:alert(1)) `| a"),
]
