"""The model of device types: trained by a process of its own from samples of the lanes, hot-swapped by workers."""
