"""Code shared by both HTTP servers (the edge's REST API, the worker's views) and their clients."""
