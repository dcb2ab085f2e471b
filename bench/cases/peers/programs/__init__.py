"""Programs of the comparison that run as processes of their own, each by the Python of its peer."""
