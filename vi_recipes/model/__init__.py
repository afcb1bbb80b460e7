"""A NumPyro model with its data as one flat density."""

from __future__ import annotations

from vi_recipes.model.bound import Arrays
from vi_recipes.model.coordinates import NO_SLOPE, TINY_SLOPES, one_coordinate
from vi_recipes.model.density import BATCH, in_blocks
from vi_recipes.model.derived import derived_site, takes, with_derived
from vi_recipes.model.division import Division
from vi_recipes.model.jumps import Jump, find_jumps
from vi_recipes.model.labels import labels_by_site, listed, site_labels
from vi_recipes.model.load import load_model
from vi_recipes.model.mark import model_mark
from vi_recipes.model.model import EMSteps, Exchangeable, Model, PartialEStep, VBSteps
from vi_recipes.model.observations import weights_of_observations
from vi_recipes.model.plates import candidates, find_families, shared_members
from vi_recipes.model.replicate import (
    MAX_NUMBERS,
    log_likelihood_at,
    observed_data,
    observed_sites,
    replicate_at,
)
from vi_recipes.model.sharding import bytes_by_device, shard
from vi_recipes.model.sites import Site, Sites
from vi_recipes.model.start import NUM_ATTEMPTS
from vi_recipes.model.states import (
    MAX_STATES,
    SAME_DENSITY,
    CoupledError,
    comparable,
    members_of,
    scale_of,
)
from vi_recipes.model.symmetries import other_labelling, undeclared
from vi_recipes.model.target import Target, as_target, check_target
from vi_recipes.model.terms import SiteTerm, site_terms
from vi_recipes.model.weights import SiteWeights, unmasked, weights_of, weights_of_members
from vi_recipes.model.zeros import IMPOSSIBLE, floored, or_infinite, with_finite_logs

__all__ = [
    "BATCH",
    "IMPOSSIBLE",
    "MAX_NUMBERS",
    "MAX_STATES",
    "NO_SLOPE",
    "NUM_ATTEMPTS",
    "SAME_DENSITY",
    "TINY_SLOPES",
    "Arrays",
    "CoupledError",
    "Division",
    "EMSteps",
    "Exchangeable",
    "Jump",
    "Model",
    "PartialEStep",
    "Site",
    "SiteTerm",
    "SiteWeights",
    "Sites",
    "Target",
    "VBSteps",
    "as_target",
    "bytes_by_device",
    "candidates",
    "check_target",
    "comparable",
    "derived_site",
    "find_families",
    "find_jumps",
    "floored",
    "in_blocks",
    "labels_by_site",
    "listed",
    "load_model",
    "log_likelihood_at",
    "members_of",
    "model_mark",
    "observed_data",
    "observed_sites",
    "one_coordinate",
    "or_infinite",
    "other_labelling",
    "replicate_at",
    "scale_of",
    "shard",
    "shared_members",
    "site_labels",
    "site_terms",
    "takes",
    "undeclared",
    "unmasked",
    "weights_of",
    "weights_of_members",
    "weights_of_observations",
    "with_derived",
    "with_finite_logs",
]
