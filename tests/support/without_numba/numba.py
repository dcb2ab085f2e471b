"""Shadows the real module in processes that must run without it."""

raise ImportError("this process needs no compiler")
