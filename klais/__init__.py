"""KLAIS: an ingestion gateway for IoT telemetry (UDP frames in, Kafka records out, exactly once).

A frame batch is the unit, a numpy column is the view, a numba kernel is the loop: see ``docs/architecture.md``.
"""

__version__ = "0.1.0"
