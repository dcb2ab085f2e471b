"""The embedded Apache Kafka."""
