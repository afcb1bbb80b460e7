"""Rows of a plate drawn and scaled up, from arrays and from files."""
