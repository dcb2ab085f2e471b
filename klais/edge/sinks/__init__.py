"""Where the edge sends frames: Kafka, the disk spool, dead letters."""
