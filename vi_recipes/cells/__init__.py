"""Cells, such as one fit to one data set: run here, in processes, or by any executor.

A job is what all cells of a run share: a model with data, methods and options. It is sent to where
a cell runs as names, sources and numbers, and made anew there.
"""

from __future__ import annotations

from vi_recipes.cells.engines import Engine, cluster, engine
from vi_recipes.cells.marks import in_full, mark_of_objects
from vi_recipes.cells.processes import Processes
from vi_recipes.cells.returned import fold, unfold
from vi_recipes.cells.run import Job, Place, most_at_once, run_cells
from vi_recipes.cells.sending import NotSentError, can_be_sent, pack

__all__ = [
    "Engine",
    "Job",
    "NotSentError",
    "Place",
    "Processes",
    "can_be_sent",
    "cluster",
    "engine",
    "fold",
    "in_full",
    "mark_of_objects",
    "most_at_once",
    "pack",
    "run_cells",
    "unfold",
]
