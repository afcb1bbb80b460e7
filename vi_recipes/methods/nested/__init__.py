"""Nested quadrature: members integrated out one by one, then the few parameters that are left."""
