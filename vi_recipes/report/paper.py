"""A page as PDF, printed by a browser that is there already."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSERS = (
    "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
    "microsoft-edge", "brave-browser",
)  # fmt: skip
"""Programs that print pages to PDF without a window, by name."""

PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
)
"""Where they are on a Mac, which has none of them on the path."""

PATIENCE = 120
"""Seconds that a browser has."""


def find_browser() -> str | None:
    """Return the path of a browser that can print; ``None`` where there is none."""
    found = (shutil.which(name) for name in BROWSERS)
    return next((path for path in found if path), None) or next(
        (path for path in PLACES if Path(path).exists()), None
    )


def print_page(page: Path, path: Path) -> Path:
    """Print a page to PDF, and return the path of that.

    Parameters
    ----------
    page
        The HTML file.
    path
        The PDF file; replaced.

    Raises
    ------
    ValueError
        Where there is no browser, or it does not print: what to do instead.
    """
    browser = find_browser()
    if browser is None:
        raise ValueError(
            f"no PDF: no browser was found (Chromium, Chrome or Edge); install one, or open "
            f"{page} in any browser and print it"
        )
    with tempfile.TemporaryDirectory() as profile:
        command = [
            browser, "--headless", "--disable-gpu", "--no-first-run", *_as_root(),
            "--no-pdf-header-footer", f"--user-data-dir={profile}",
            f"--print-to-pdf={path.resolve()}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=PATIENCE
            )
            said = done.stderr.strip().splitlines()[-1:] if done.returncode else []
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [str(error)]
    if said or not path.exists():
        raise ValueError(
            f"no PDF: {browser} did not print {page} ({said[0] if said else 'it made no file'}); "
            "open that in a browser and print it"
        )
    return path


def _as_root() -> list[str]:
    """Return what a browser needs where root runs it, as in a container: it has no sandbox."""
    return ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
