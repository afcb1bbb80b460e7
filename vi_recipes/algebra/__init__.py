"""Matrices and steps: block arrow, crossed, Newton, normals, derivatives, forward-backward."""

from __future__ import annotations

from vi_recipes.algebra.arrow import Arrow, ArrowFactor
from vi_recipes.algebra.block_arrow import VERIFIED, BlockArrow, recovery_error
from vi_recipes.algebra.bordered import (
    Bordered,
    Factor,
    Parts,
    backward,
    backward_many,
    factorise,
    forward,
    half_log_det,
    inverse_diagonal,
    product,
    shifted,
    solve,
)
from vi_recipes.algebra.crossed import Crossed, Push, TruncatedStep, steihaug
from vi_recipes.algebra.derivatives import (
    SecondOrder,
    forward_is_quick,
    parabola,
    second_order,
    second_order_beside,
)
from vi_recipes.algebra.edges import filled
from vi_recipes.algebra.factorised import InverseParts
from vi_recipes.algebra.families import MIN_FAMILY, MULTIPLE, Families, SparseEntries, pad, verified
from vi_recipes.algebra.forward_backward import smooth
from vi_recipes.algebra.in_parts import BlockArrowInParts, MemberProcesses
from vi_recipes.algebra.layout import Layout, find_layout
from vi_recipes.algebra.local_structure import LocalStructure, dense_structure
from vi_recipes.algebra.newton import SHRANK, Dense, trust_region_newton
from vi_recipes.algebra.normals import (
    MAX_DENSE,
    block_normal,
    dense_normal,
    dense_student,
    log_dense_normal,
    log_normal,
)
from vi_recipes.algebra.outward import (
    LEVEL,
    SAME,
    as_good_outward,
    flattest,
    looks_flat,
    moves_to_edges,
)
from vi_recipes.algebra.pair_law import PairLaw
from vi_recipes.algebra.sinkhorn import transport

__all__ = [
    "LEVEL",
    "MAX_DENSE",
    "MIN_FAMILY",
    "MULTIPLE",
    "SAME",
    "SHRANK",
    "VERIFIED",
    "Arrow",
    "ArrowFactor",
    "BlockArrow",
    "BlockArrowInParts",
    "Bordered",
    "Crossed",
    "Dense",
    "Factor",
    "Families",
    "InverseParts",
    "Layout",
    "LocalStructure",
    "MemberProcesses",
    "PairLaw",
    "Parts",
    "Push",
    "SecondOrder",
    "SparseEntries",
    "TruncatedStep",
    "as_good_outward",
    "backward",
    "backward_many",
    "block_normal",
    "dense_normal",
    "dense_structure",
    "dense_student",
    "factorise",
    "filled",
    "find_layout",
    "flattest",
    "forward",
    "forward_is_quick",
    "half_log_det",
    "inverse_diagonal",
    "log_dense_normal",
    "log_normal",
    "looks_flat",
    "moves_to_edges",
    "pad",
    "parabola",
    "product",
    "recovery_error",
    "second_order",
    "second_order_beside",
    "shifted",
    "smooth",
    "solve",
    "steihaug",
    "transport",
    "trust_region_newton",
    "verified",
]
