"""Incidents: flags of many devices with one cause are grouped into one incident (pure, no clock, no I/O)."""
