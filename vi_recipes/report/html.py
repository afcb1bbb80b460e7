"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined, Template

from vi_recipes.report.document import NUM_OPEN, Document


def render(document: Document) -> str:
    """Return the page; its figures are inline SVG images and it needs nothing else."""
    images = {
        drawing.name: base64.b64encode(drawing.svg).decode("ascii") for drawing in document.drawings
    }
    return _template().render(document=document, images=images, num_open=NUM_OPEN)


@cache
def _template() -> Template:
    source = files("vi_recipes.report").joinpath("template.html.jinja").read_text("utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    return environment.from_string(source)
