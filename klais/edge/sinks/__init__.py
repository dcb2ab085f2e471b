"""The sinks of the edge: Kafka, the disk spool, dead letters."""
