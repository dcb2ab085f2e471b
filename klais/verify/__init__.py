"""Checks against the content of the topics: the judge, manifests, read-back, audit, conservation."""
