"""First on the path of a process that must do without it."""

raise ImportError("this process needs no compiler")
