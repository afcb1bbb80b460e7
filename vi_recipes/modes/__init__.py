"""Joint mode and curvature: objective, search, judge, and the Gaussian there."""
