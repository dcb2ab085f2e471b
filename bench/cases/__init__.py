"""The benchmarks: each module or package here has ``run(bench) -> Result``; its name is that of the command line."""
