"""The control loop with each forecast, in virtual time."""
