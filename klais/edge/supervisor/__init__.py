"""Several edge processes as one: the supervisor and the merged statistics."""
