"""The figures of a comparison, one file a kind."""
