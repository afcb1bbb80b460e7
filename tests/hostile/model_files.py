"""Model files: broken Python, models that are none, and densities that are none."""

from __future__ import annotations

import json
from typing import Any

from hostile.case import Case, Done, Outcome, fits, near
from hostile.texts import HEAD, NORMAL, body


def _refused(name: str, text: str, *says: str, model: str = "m.py", **more: Any) -> Case:
    command = ("compare", model, "--methods", "map", "--no-report")
    return Case(name, command, Outcome.REFUSED, {"m.py": text, **more}, says)


def _told(name: str, lines: str, *says: str, methods: str = "map") -> Case:
    return Case(name, fits("m.py", methods=methods), Outcome.TOLD, {"m.py": body(lines)}, says)


def _in_model(name: str, line: str, *says: str) -> Case:
    """A fault in a line of the model: it is named with the file and the line's number."""
    lines = f'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n{line}'
    number = len(body(lines).rstrip().splitlines())
    return _refused(name, body(lines), "m.py", f"line {number}", *says)


def _half(done: Done) -> None:
    near(done.mean("map", "m"), 0.5, 1e-4)


def _right(name: str, text: str, **more: Any) -> Case:
    files = {"m.py": text, **more}
    return Case(name, fits("m.py"), Outcome.RIGHT, files, (), _half)


def _json_alone(done: Done) -> None:
    """Standard output holds one JSON document, whatever the model prints."""
    near(json.loads(done.stdout)["methods"]["map"]["mean"][0], 0.5, 1e-4)


Y_GIVEN = 'numpyro.sample("y", dist.Normal(m, 1.0), obs=1.0)'

CASES = [
    # -- Python
    _refused("a syntax error", "def model(:\n", "m.py", "1"),
    _refused("wrong indentation", "def model():\nx = 1\n", "m.py", "2"),
    _refused("a module that is not installed", "import no_such_module\n", "no_such_module"),
    _refused("a name that an import lacks", "from numpyro import Nothing\n", "Nothing"),
    _refused("an error while it is imported", "1 / 0\n", "m.py", "division"),
    _refused("an exit while it is imported", "import sys\nsys.exit(3)\n", "m.py"),
    _refused("an empty file", "", "m.py"),
    _refused("no function", "x = 1\n", "m.py"),
    _refused("bytes that are no Python", "\x00\x01", "m.py"),
    _refused("two functions, none named", f"{HEAD}\ndef a(): pass\n\ndef b(): pass\n", "a", "b"),
    _refused("a name that the file lacks", NORMAL, "nothing", model="m.py:nothing"),
    _refused("a name that is no function", NORMAL + "\nx = 3\n", "x", model="m.py:x"),
    _refused("a file that is not there", NORMAL, "other.py", model="other.py"),
    _refused("data for a model", NORMAL, "d.csv: not a Python file", "--data",
             model="d.csv", **{"d.csv": "y\n1\n"}),
    _refused("a folder for a model", NORMAL, "folder", model="folder.py", **{"folder.py/x": ""}),
    _refused("a misspelt shipped model", NORMAL, "radon", model="raddon"),
    _refused("an empty name", NORMAL, model=""),
    _refused("positional-only arguments", body(f"m = 0\n{Y_GIVEN}", "y, /"), "positional-only",
             model="m.py"),
    _refused("a coroutine", HEAD + "\nasync def model():\n    pass\n", "model"),
    _refused("a generator", HEAD + "\ndef model():\n    yield 1\n", "model"),
    # -- what a line of the model does
    _in_model("an error of its own", 'raise RuntimeError("my own words")', "my own words"),
    _in_model("a key that is not there", '{}["gone"]', "gone"),
    _in_model("a division by zero", "1 / 0", "division"),
    _in_model("an assertion that fails", "assert False"),
    _in_model("a name that is unknown", "unknown_name", "unknown_name"),
    _in_model("if on a latent value", "x = 1 if m > 0 else 2", "if"),
    _in_model("and of two latent values", "x = (m > 0) and (m < 1)"),
    _in_model("a loop of a latent length", "for _ in range(m): pass"),
    _in_model("a latent value as a Python number", "x = float(m)"),
    _in_model("a latent value in NumPy", "x = np.exp(m)"),
    _in_model("a latent value in the math module", "import math; x = math.exp(m)"),
    _in_model("an exit", "import sys; sys.exit(0)"),
    _in_model("recursion without end", "f = lambda: f(); f()"),
    _in_model("more memory than there is", "raise MemoryError"),
    _in_model("shapes that do not go together", "x = jnp.ones(3) + jnp.ones(4) * m"),
    _in_model("an attribute that is not there", "m.nothing", "nothing"),
    # -- what the sites are
    _refused("no site", body("pass"), "site"),
    _refused("nothing to infer", body('numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0)'),
             "latent"),
    _refused("two sites of one name", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\nnumpyro.sample("m", dist.Normal(m, 1.0))'),
        "m"),
    _refused("an infinite discrete latent variable",
             body('numpyro.sample("k", dist.Poisson(2.0))'), "k"),
    _refused("data outside the support", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n'
        'numpyro.sample("y", dist.Gamma(jnp.exp(m), 1.0), obs=-1.0)'), "y"),
    _refused("a negative scale", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n'
        'numpyro.sample("y", dist.Normal(m, -1.0), obs=1.0)'), "y"),
    _refused("a scale of zero", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n'
        'numpyro.sample("y", dist.Normal(m, 0.0), obs=1.0)'), "y"),
    _refused("data that a plate does not fit", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n'
        'with numpyro.plate("n", 3):\n'
        '    numpyro.sample("y", dist.Normal(m, 1.0), obs=jnp.ones(4))'), "y"),
    _refused("a factor that is not a number", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\nnumpyro.factor("f", jnp.nan * m)'), "f"),
    _refused("a factor of minus infinity", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\nnumpyro.factor("f", -jnp.inf)'), "f"),
    _refused("a complex deterministic site", body(
        'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n'
        'numpyro.deterministic("c", m + 1j)'), "c"),
    _refused("group codes beyond the groups", body(
        'with numpyro.plate("g", 2):\n'
        '    u = numpyro.sample("u", dist.Normal(0.0, 1.0))\n'
        'with numpyro.plate("n", 3):\n'
        '    numpyro.sample("y", dist.Normal(u[jnp.array([0, 1, 2])], 1.0), obs=jnp.ones(3))'),
        "index"),
    _refused("other sites at every call", HEAD + """
count = [0]

def model():
    count[0] += 1
    m = numpyro.sample(f"m{count[0]}", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=1.0)
""", "m"),
    # -- what is merely odd
    _right("prints", NORMAL.replace("def model():", "def model():\n    print('hello')")),
    _right("a file beside it that it imports", NORMAL.replace(
        "def model():", "from helper import ONE\n\ndef model():").replace("obs=1.0", "obs=ONE"),
        **{"helper.py": "ONE = 1.0\n"}),
    _right("a byte-order mark", "\ufeff" + NORMAL),
    _right("a deterministic site of booleans", body(
        f'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n{Y_GIVEN}\n'
        'numpyro.deterministic("positive", m > 0)')),
    _right("a deterministic site of integers", body(
        f'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n{Y_GIVEN}\n'
        'numpyro.deterministic("floor", jnp.floor(m).astype(int))')),
    _right("a deterministic site that is constant", body(
        f'm = numpyro.sample("m", dist.Normal(0.0, 1.0))\n{Y_GIVEN}\n'
        'numpyro.deterministic("three", jnp.array(3.0))')),
    _right("a warning of its own", NORMAL.replace(
        "def model():", "def model():\n    import warnings\n    warnings.warn('hear me')")),
    Case("prints beside JSON on standard output",
         ("compare", "m.py", "--methods", "map", "--no-report", "--json", "-"), Outcome.RIGHT,
         {"m.py": "print('importing')\n" + NORMAL.replace(
             "def model():", "def model():\n    print('tracing')")}, (), _json_alone),
    Case("a name with spaces and accents", fits("mon modèle 1.py"), Outcome.RIGHT,
         {"mon modèle 1.py": NORMAL}, (), _half),
    Case("a list that it shortens", fits("m.py", methods="laplace,map", data="d.json"),
         Outcome.RIGHT, {"m.py": HEAD + """
def model(given):
    y = given.pop("y", [5.0])[0]
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m, 1.0), obs=y)
""", "d.json": '{"given": {"y": [1.0]}}'}, (), _half),
    # -- densities that have no mode, or no posterior
    _told("a flat prior without data", """
m = numpyro.sample("m", dist.ImproperUniform(dist.constraints.real, (), ()))
numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0)
""", "m", methods="map,laplace"),
    _told("a scale that runs to zero", """
t = numpyro.sample("t", dist.HalfCauchy(1.0))
with numpyro.plate("g", 3):
    u = numpyro.sample("u", dist.Normal(0.0, t))
    numpyro.sample("y", dist.Normal(u, 1.0), obs=jnp.array([0.1, -0.2, 0.05]))
""", "t", methods="map"),
    _told("two latent values of which only the sum is known", """
a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
numpyro.sample("y", dist.Normal(a + b, 1.0), obs=1.0)
""", methods="laplace"),
]  # fmt: skip
