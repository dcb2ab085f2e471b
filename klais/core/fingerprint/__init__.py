"""The type of each device: a 64-byte fingerprint, learned from sampled frames and compared with a model of types."""
