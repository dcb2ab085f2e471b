"""Device types: simulated fleets, changes of type and impersonations, false flags, cost."""
