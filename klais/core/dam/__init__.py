"""The dam: who passes, who waits, who is dropped (pure, no clock, no I/O)."""
