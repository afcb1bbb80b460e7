"""Files and rows that become a model's arguments."""

from __future__ import annotations

from vi_recipes.data.arguments import bind, fingerprint, normalise
from vi_recipes.data.batch_files import FileBatches, batches_from_csv, batches_from_parquet
from vi_recipes.data.batches import ArrayBatches, Batches, Prefetch, draw
from vi_recipes.data.frames import R_DATA, read_frame
from vi_recipes.data.members import MEMBERS, WEIGHTS, MemberBatches
from vi_recipes.data.memory import aligned, empty
from vi_recipes.data.parts import read_part
from vi_recipes.data.read import (
    JSON,
    NETCDF,
    PARQUET,
    check_file,
    has_loose_columns,
    keep_arguments,
    read_columns,
    read_data,
    read_numeric,
)

__all__ = [
    "JSON",
    "MEMBERS",
    "NETCDF",
    "PARQUET",
    "R_DATA",
    "WEIGHTS",
    "ArrayBatches",
    "Batches",
    "FileBatches",
    "MemberBatches",
    "Prefetch",
    "aligned",
    "batches_from_csv",
    "batches_from_parquet",
    "bind",
    "check_file",
    "draw",
    "empty",
    "fingerprint",
    "has_loose_columns",
    "keep_arguments",
    "normalise",
    "read_columns",
    "read_data",
    "read_frame",
    "read_numeric",
    "read_part",
]
