"""Raw packets, the fixtures of the XDP filter, network namespaces to send them in; for benchmarks and tests."""
