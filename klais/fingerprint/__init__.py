"""The model of device types: trained by a separate process from samples of the lanes, hot-swapped by workers."""
