"""The gallery: what a run of each shipped study came to, kept with its command.

    python docs/gallery.py NAME ...

runs the studies named, all of them without a name, one after the other as a user would. Of each it
keeps in ``docs/studies/NAME`` the figures (SVG) and tables (CSV) as the run wrote them, and
``run.json`` with the command, the commit, the seconds and what the report says first. The manual
shows these: its build runs no study. What is no commit of the main branch is not run: nobody could
make it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import vi_recipes as vr
from vi_recipes.comparison.notes import NoteKind
from vi_recipes.core import find, list_studies
from vi_recipes.report import Exhibit, read_exhibit

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "studies"
RECORD = "run.json"
BRANCH = "main"
SOURCES = ("vi_recipes", "models", "comparisons")


def command(name: str) -> list[str]:
    """Return the words that run a study."""
    return ["vi-recipes", "run", name, "--no-cache"]


def run(name: str) -> Path:
    """Run a study in a process of its own, and keep what it came to; return the folder."""
    with tempfile.TemporaryDirectory() as place:
        words = [*command(name), "--out", f"{place}/{name}"]
        begin, before = time.perf_counter(), cpu_seconds()
        code = "import sys; from vi_recipes.cli import main; sys.argv = sys.argv[1:]; main()"
        subprocess.run([sys.executable, "-c", code, *words], check=True, stdout=subprocess.DEVNULL)
        seconds, cpu = time.perf_counter() - begin, cpu_seconds() - before
        return keep(
            name,
            Path(place) / name,
            seconds=round(seconds, 1),
            cpu_seconds=round(cpu, 1),
            cores=len(os.sched_getaffinity(0)),
            commit=git("rev-parse", "--short=12", "HEAD"),
        )


def cpu_seconds() -> float:
    """Return what the processes that have ended took of the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def keep(name: str, folder: Path, to: Path = KEPT, **known: Any) -> Path:
    """Keep what the manual shows of a study's folder, with what is known of the run."""
    header = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    if lost := [n["text"] for n in header["notes"] if n["kind"] == NoteKind.LOST_EXHIBITS]:
        raise ValueError(f"{name}: nothing is kept of a run that lost exhibits. {lost[0]}")
    here = to / name
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    for exhibit in header["exhibits"]:
        for suffix in (".svg", ".csv"):
            path = folder / "exhibits" / f"{exhibit['name']}{suffix}"
            if path.exists():
                shutil.copyfile(path, here / path.name)
    record = {
        "command": " ".join(command(name)),
        **known,
        "version": vr.__version__,
        "source": source(name),
        "answer": result["recommendation"]["text"],
        "exhibits": header["exhibits"],
    }
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (here / RECORD).write_text(f"{text}\n", encoding="utf-8")
    return here


def source(name: str) -> str:
    """Return a mark of the files of a study, which is another when one of them changes."""
    path = find("comparisons")[name]
    folder = path.parent if path.name == "study.py" else None
    files = sorted(folder.rglob("*.py")) if folder else sorted(path.parent.glob(f"{name}.*"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def record(name: str) -> dict[str, Any] | None:
    """Return what is kept of a study's run, ``None`` where nothing is."""
    path = KEPT / name / RECORD
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def exhibits(name: str) -> list[Exhibit]:
    """Return the exhibits that are kept of a study's run."""
    kept = record(name)
    return [read_exhibit(KEPT / name, **one) for one in kept["exhibits"]] if kept else []


def git(*words: str) -> str:
    """Return what git says of this repository."""
    done = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    """Run the studies that are named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", choices=[[], *list_studies()], metavar="NAME")
    names = parser.parse_args().names or list_studies()
    if changed := git("status", "--porcelain", "--", *SOURCES):
        sys.exit(f"commit first what is changed:\n{changed}")
    if git("merge-base", "HEAD", BRANCH) != git("rev-parse", "HEAD"):
        sys.exit(f"the commit that is checked out is none of {BRANCH}, and may be gone one day")
    for name in names:
        run(name)
        if kept := record(name):
            print(f"{name}: {kept['seconds']} s, {kept['cpu_seconds']} s of CPU", flush=True)


if __name__ == "__main__":
    main()
