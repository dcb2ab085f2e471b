"""What kind of device each one is: 64 bytes a device, learned from sampled frames, compared with a model of types."""
