"""Run by .ci/run with the wheel's own Python, outside the checkout: content loads, no stray names.

python smoke_wheel.py path/to/vi_recipes-*.whl
"""

import sys
import zipfile
from pathlib import Path

import vi_recipes as vr
from vi_recipes.core.content import list_models, list_studies

package = Path(vr.__file__).resolve().parent
assert "site-packages" in package.parts, f"imported from {package}, not from the wheel"

names = {name.split("/", 1)[0] for name in zipfile.ZipFile(sys.argv[1]).namelist()}
stray = {n for n in names if n != "vi_recipes" and not n.endswith(".dist-info")}
assert not stray, f"the wheel installs top-level names besides vi_recipes: {stray}"

models, studies = list(list_models()), list(list_studies())
shipped = {"radon", "gmm", "criteo", "eight_schools", "cbpp", "seeds", "penicillin"}
assert shipped <= set(models), models
assert {"radon", "gmm"} <= set(studies), studies
for name in models:
    try:
        target = vr.Target(vr.load_model(name))
    except ValueError as error:  # discrete latent variables; the wheel is installed without extras
        if "vi_recipes[enumerate]" not in str(error):
            raise
        print(f"{name}: needs the extra enumerate")
    else:
        print(f"{name}: {target.dim} coordinates")
for name in studies:
    assert isinstance(vr.load_study(name), vr.Study)
