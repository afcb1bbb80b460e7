"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from vi_recipes.core import visible
from vi_recipes.report.document import NUM_OPEN, Document
from vi_recipes.report.exhibit import Exhibit

if TYPE_CHECKING:
    from jinja2 import Template


def html_page(document: Document) -> str:
    """Return the page; its figures are inline SVG images and it needs nothing else."""
    return _template().render(document=document, image=_image, num_open=NUM_OPEN)


def _image(drawing: Exhibit) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(drawing.svg).decode("ascii")


def _shown(value: object) -> object:
    return visible(value, lines=True) if type(value) is str else value  # no text with tags


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined  # only those who write a page wait for it

    source = files("vi_recipes.report").joinpath("template.html.jinja").read_text("utf-8")
    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    return environment.from_string(source)
