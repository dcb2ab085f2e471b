"""The benchmarks: each module or package here has ``run(bench) -> Result``; the command line knows it by its name."""
