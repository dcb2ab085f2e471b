"""Sizing of a system for a number of devices and frames per second (``klais plan``).

A cost model with one formula per line, no simulation. docs/scaling.md explains it and compares it with measurements.
"""
