"""The dam: which frames pass, wait or are dropped (pure, no clock, no I/O)."""
