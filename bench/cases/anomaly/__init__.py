"""The anomaly scorer without Kafka: the commands ``nab``, ``flags`` and ``fleet`` of ``python -m bench``."""
