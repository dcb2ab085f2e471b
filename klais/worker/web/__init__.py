"""Web views of the worker, on its own port: JSON, read-only. ``pages.install`` registers them all on the Faust app."""
