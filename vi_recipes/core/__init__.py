"""What knows no model: status, timing, progress, keys, complaints, kept files, shared code."""
