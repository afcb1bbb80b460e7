"""Matrices and steps: block arrow, crossed, Newton, normals, derivatives, forward-backward."""
