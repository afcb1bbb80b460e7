"""The no-U-turn sampler: whitened coordinates, chains, audit."""
