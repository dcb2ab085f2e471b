"""Configuration: the settings, how they are loaded, and how they are checked."""

import os

# pydantic searches all installed packages for plugins, 20 ms at every start. No plugin applies to the settings.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
