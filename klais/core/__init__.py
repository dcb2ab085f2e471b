"""The pure core: columns in, columns out. It uses no Kafka, web, metrics or clock; time is an argument."""
