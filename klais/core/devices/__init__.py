"""Devices: one row each in a structured array, found through an open-addressing index (pure, no I/O)."""
