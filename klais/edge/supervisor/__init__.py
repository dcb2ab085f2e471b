"""Several edge processes operated as one: the supervisor and the merged statistics."""
