"""Incidents: flags of many devices with one cause become one (pure, no clock, no I/O)."""
