"""Packages whose parts another package has left unbound."""

from __future__ import annotations

import sys


def bind_parts(package: str) -> None:
    """Bind the modules of a package that are imported to the modules they are parts of.

    ArviZ puts a lazy NumPyro in place of one that is not imported yet. Where a part is then the
    first to be imported, the parts of that part are loaded and bound to nothing, so that NumPyro
    does not find its own ``numpyro.distributions.distribution``.

    Parameters
    ----------
    package
        Name of the package, such as ``"numpyro"``.
    """
    for name, module in list(sys.modules.items()):
        whole, _, part = name.rpartition(".")
        if name.startswith(f"{package}.") and module is not None and whole in sys.modules:
            vars(sys.modules[whole]).setdefault(part, module)
