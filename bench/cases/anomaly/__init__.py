"""The anomaly scorer without Kafka: ``nab``, ``flags`` and ``fleet``, each a command of ``python -m bench``."""
