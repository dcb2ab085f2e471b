"""Benchmarks on a real Apache Kafka: ``python -m bench [NAME] [--json]``, ``make bench`` for all."""
