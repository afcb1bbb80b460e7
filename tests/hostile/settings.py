"""Options and arguments: misspelt, of the wrong type, without a meaning, at odds."""

from __future__ import annotations

import json
from pathlib import Path

from hostile.case import Case, Done, Outcome
from hostile.texts import LINE, LINE_DATA, NORMAL

REFUSED = Outcome.REFUSED


def _refused(name: str, *words: str, says: tuple[str, ...] = ()) -> Case:
    return Case(name, ("compare", "m.py", "--no-report", *words), REFUSED, {"m.py": NORMAL}, says)


def _set(setting: str, method: str | None = None) -> Case:
    """A setting that is refused, with the name of the option."""
    name = setting.split(".")[0]
    option = setting.split(".")[1].split("=")[0]
    words = ("--methods", method or name, "--set", setting)
    return _refused(f"--set {setting}", *words, says=(option,))


def _reference(name: str, content: str, *says: str) -> Case:
    words = ("--methods", "map,laplace", "--reference", "answers.json")
    command = ("compare", "m.py", "--no-report", *words)
    return Case(name, command, REFUSED, {"m.py": NORMAL, "answers.json": content}, says)


def _no_folder(done: Done) -> None:
    assert not (done.folder / "m-report").exists(), "a folder was made for nothing"


def _shown(done: Done) -> None:
    """What was computed is printed although it cannot be kept."""
    assert "0.5000" in done.stdout


NUMBERS = (
    "map.tolerance", "map.max_steps", "map.num_starts", "laplace.tolerance", "em.tolerance",
    "em.max_steps", "em.num_starts", "marginal_mle.tolerance", "meanfield.tolerance",
    "meanfield.num_draws", "svi.num_steps", "svi.num_particles", "svi.step_size",
    "nuts.num_samples", "nuts.num_warmup", "nuts.num_chains", "nuts.target_accept",
    "svgd.num_particles", "pathfinder.num_paths", "svgd.num_steps", "forward_kl.num_draws",
)  # fmt: skip
"""Options that are numbers, and positive."""

VALUES = ("nan", "-1", "lots")
"""What none of them can be."""

CASES = [
    # -- what is asked for
    _refused("an unknown method", "--methods", "mapp", says=("mapp", "map")),
    _refused("no methods", "--methods", "", says=("--methods",)),
    _refused("a method twice", "--methods", "map,map", says=("map",)),
    _refused("two methods of one name", "--methods", "a=map,a=laplace", says=("a",)),
    _refused("a name that leads elsewhere", "--methods", "../x=map", says=("../x",)),
    _refused("a name with a slash", "--methods", "a/b=map", says=("a/b",)),
    _refused("an absolute path for a name", "--methods", "/tmp/x=map", says=("/tmp/x",)),
    _refused("a name of nothing", "--methods", "=map"),
    _refused("a method of nothing", "--methods", "a=", says=("a",)),
    _refused("an unknown option of the program", "--colour", "red", says=("--colour",)),
    _refused("a seed below 0", "--seed", "-1", says=("seed",)),
    _refused("a seed that is too large", "--seed", str(2**40), says=("seed",)),
    _refused("a seed that is a word", "--seed", "one", says=("seed",)),
    _refused("a reference that nobody made", "--methods", "map", "--reference", "nuts",
             says=("nuts",)),
    _refused("a point for a reference", "--methods", "map,laplace", "--reference", "map",
             says=("map",)),
    _refused("a file of answers that is not there", "--reference", "gone.json",
             says=("gone.json",)),
    _refused("JSON into a folder that is not there", "--methods", "map", "--json",
             "no/such/result.json", says=("no/such",)),
    Case("JSON into a folder", ("compare", "m.py", "--methods", "map", "--json", "d"), REFUSED,
         {"m.py": NORMAL, "d": Path.mkdir}, ("d",)),
    Case("a report into a file", ("compare", "m.py", "--methods", "map", "--out", "file"), REFUSED,
         {"m.py": NORMAL, "file": "x"}, ("file",), _no_folder),
    Case("a report below a file", ("compare", "m.py", "--methods", "map", "--out", "file/deep"),
         REFUSED, {"m.py": NORMAL, "file": "x"}, ("file",), _no_folder),
    # -- settings
    _refused("a setting without =", "--set", "map.tolerance", says=("map.tolerance",)),
    _refused("a setting without a dot", "--set", "tolerance=1", says=("tolerance",)),
    _refused("a setting of nothing", "--set", "=", says=("--set",)),
    _refused("a setting of an unknown method", "--set", "mapp.tolerance=1", says=("mapp",)),
    _refused("a setting of a method that is not run", "--methods", "map", "--set",
             "nuts.num_samples=10", says=("nuts",)),
    _refused("an unknown setting", "--methods", "map", "--set", "map.tolerence=1",
             says=("tolerence", "tolerance")),
    _refused("an unknown argument of the model", "--set", "model.colour=red", says=("colour",)),
    *(_set(f"{option}={value}") for option in NUMBERS for value in VALUES),
    *(_set(f"{option}=0") for option in NUMBERS if not option.endswith("num_warmup")),
    *(_set(f"{option}=inf") for option in NUMBERS if option.endswith(("tolerance", "step_size"))),
    _set("nuts.target_accept=1.5"),
    _set("nuts.num_samples=1e3.5"),
    _set("svi.guide=normall"),
    _refused("a guide's file that is not there", "--methods", "svi", "--set",
             "svi.guide=gone.py:guide", says=("gone.py",)),
    _set("svi.objective=elbow"),
    _set("svi.dtype=float16"),
    _refused("rows to draw where there are none", "--methods", "svi", "--set", "svi.batch_size=10",
             says=("rows",)),
    _set("svi.checkpoint=/proc/nothing/here"),
    _set("map.space=somewhere"),
    _set("map.solver=magic"),
    _set("map.dtype=double"),
    _set("em.latent=gone"),
    _set("marginal_mle.latent=gone"),
    _set("variational_em.latent=gone"),
    _set("nuts.init=gone"),
    _set("laplace.cov=round"),
    _set("forward_kl.family=poisson"),
    # -- answers to measure against
    _reference("answers that are a list", "[1, 2]", "answers.json"),
    _reference("answers that are no JSON", "{", "answers.json"),
    _reference("an empty file of answers", "", "answers.json"),
    _reference("answers without sites", "{}", "answers.json"),
    _reference("answers to other sites",
               json.dumps({"parameters": {"z": {"mean": 0.0, "sd": 1.0}}}), "answers.json"),
    _reference("answers of another shape",
               json.dumps({"parameters": {"m": {"mean": [0, 1], "sd": [1, 1]}}}), "answers.json"),
    _reference("answers that are words",
               json.dumps({"parameters": {"m": {"mean": "big", "sd": 1.0}}}), "answers.json"),
    _reference("answers with 1e400", '{"parameters": {"m": {"mean": 1e400, "sd": 1.0}}}',
               "answers.json"),
    # -- other commands
    Case("a study that is unknown", ("run", "raddon"), REFUSED, {}, ("raddon",)),
    Case("a study file without a study", ("run", "m.py"), REFUSED, {"m.py": NORMAL}, ("m.py",)),
    Case("a folder without a report", ("report", "."), REFUSED, {}, ("no",)),
    Case("a folder that is not there", ("report", "gone"), REFUSED, {}, ("gone",)),
    Case("a file for a report", ("report", "m.py"), REFUSED, {"m.py": NORMAL}, ("m.py",)),
    Case("models to verify that are unknown", ("verify", "--models", "raddon"), REFUSED, {},
         ("raddon",)),
    Case("simulations below 1", ("calibrate", "m.py", "--method", "map", "--simulations", "0"),
         REFUSED, {"m.py": NORMAL}, ("simulations",)),
    Case("a point to calibrate",
         ("calibrate", "line.py", "--data", "d.json", "--method", "map", "--no-report"),
         REFUSED, {"line.py": LINE, "d.json": LINE_DATA}, ("point",)),
    Case("a quantity that the model lacks",
         ("calibrate", "line.py", "--data", "d.json", "--method", "laplace", "--quantities", "gone",
          "--no-report"),
         REFUSED, {"line.py": LINE, "d.json": LINE_DATA}, ("gone",)),
    Case("a method's help that is unknown", ("methods", "mapp"), REFUSED, {}, ("mapp",)),
    Case("a result kept although its folder is full",
         ("compare", "m.py", "--methods", "map", "--no-report", "--json", "/dev/full"),
         Outcome.REFUSED, {"m.py": NORMAL}, ("/dev/full",),
         _shown),
]  # fmt: skip
