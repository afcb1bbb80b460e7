"""The deterministic ELBO: factors, plan, inspect, expectation, KL, curvature, minimise."""
