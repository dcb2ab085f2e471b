"""Checks against what is really in the topics: the judge, manifests, read-back, audit, conservation."""
