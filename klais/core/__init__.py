"""The pure core: columns in, columns out. No Kafka, web, metrics or clock in here; time is an argument."""
