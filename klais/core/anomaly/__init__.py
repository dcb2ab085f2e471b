"""Anomaly scores for each device, from columns and the device's running profile (pure, no clock, no I/O)."""
