"""One fit: records, draws, ArviZ, stored, predictions, leave-one-out, reference, differences."""
