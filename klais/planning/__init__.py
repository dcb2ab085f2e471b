"""How large a system has to be for so many devices and frames a second (``klais plan``).

A model of costs with one formula a line, no simulation: docs/scaling.md explains it and compares it with measurements.
"""
