"""Draw the rooms of ``vi_recipes`` and what imports what, from the code: ``python docs/rooms.py``.

It writes ``docs/rooms.svg``; with ``--check`` it only says whether the picture is that of the code.
A row is a room, from the top of the house to its bottom; a filled square in a column is an import
of the room that the column stands for. Squares on the left of the diagonal would be imports
upwards: there are none, and ``lint-imports`` sees to it.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "rooms.svg"
CELL = 34
LEFT, TOP = 130, 100
INK, SHADE, LINE = "#1b4f72", "#eef3f6", "#c9d3da"


def floors() -> list[list[str]]:
    """Return the rooms floor by floor, top first, as the contract in pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["id"] == "rooms")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


def edges() -> dict[tuple[str, str], int]:
    """Return (room, room it imports) -> number of importing modules; those in functions count."""
    graph = grimp.build_graph("vi_recipes")
    counts: dict[tuple[str, str], int] = {}
    for module in graph.modules:
        parts = module.split(".")
        if len(parts) < 2:
            continue
        others = {
            m.split(".")[1] for m in graph.find_modules_directly_imported_by(module) if "." in m
        }
        for other in others - {parts[1]}:
            counts[parts[1], other] = counts.get((parts[1], other), 0) + 1
    return counts


def draw() -> str:
    """Return the picture as SVG."""
    rooms = [room for floor in floors() for room in floor]
    found = edges()
    size = CELL * len(rooms)
    width, height = LEFT + size + 20, TOP + size + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="14">',
        "<title>Which room of vi_recipes imports which</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for i, room in enumerate(rooms):
        y = TOP + CELL * i
        out.append(f'<text x="{LEFT - 10}" y="{y + 22}" text-anchor="end">{room}</text>')
        x = LEFT + CELL * i + 22
        out.append(f'<text transform="translate({x},{TOP - 10}) rotate(-55)">{room}</text>')
        for j, other in enumerate(rooms):
            x = LEFT + CELL * j
            imported = (room, other) in found
            fill = INK if imported else SHADE if i == j else "white"
            label = f"<title>{room} imports {other}</title>" if imported else ""
            out.append(
                f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill="{fill}" '
                f'stroke="{LINE}">{label}</rect>'
            )
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main() -> int:
    """Write the picture, or compare it with the one that is there."""
    picture = draw()
    if "--check" in sys.argv[1:]:
        same = PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == picture
        print(f"{PICTURE.name} is {'that' if same else 'not that'} of the code")
        return 0 if same else 1
    PICTURE.write_text(picture, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
