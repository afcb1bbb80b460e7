"""The command line, ``vi-recipes``.

The commands are imported once it is known what Ctrl-C does, and what a command needs inside it, so
that help and lists come at once.
"""

from __future__ import annotations

import sys

from vi_recipes.cli import interrupts


def main() -> None:
    """Run the command line."""
    interrupts.hear()
    try:
        from vi_recipes.cli.commands import begin

        begin()
    except KeyboardInterrupt:  # before there is a command, or after it
        print(interrupts.said(), file=sys.stderr)
        sys.exit(interrupts.exit_code())
    finally:
        interrupts.end_at_once()
