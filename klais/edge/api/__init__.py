"""The edge's REST API."""
