"""Configuration: the settings, how they are loaded, and how they are checked."""
