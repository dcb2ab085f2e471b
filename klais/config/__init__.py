"""Configuration: the settings, how they are loaded, and how they are checked."""

import os

# pydantic looks for plugins in all packages that are installed, 20 ms of every start; none has a say in settings.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
