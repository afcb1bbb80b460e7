"""How far a fit holds: assess, correct, evidence, bridge, quadrature, verdict, sensitivity."""
