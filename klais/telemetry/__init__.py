"""Telemetry of KLAIS itself: logs, metrics, and the records on ``klais_stats``."""
