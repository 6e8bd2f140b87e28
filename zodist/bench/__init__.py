"""Measurements of zodist against its physical limits, and reference implementations of what it replaces."""
