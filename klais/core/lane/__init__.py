"""The lane: one ordered state machine a partition. Decide, write the decision down, then act (pure, no clock, no I/O)."""
