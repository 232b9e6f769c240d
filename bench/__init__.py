"""Side-by-side benchmarks; each writes its results as JSON and as a plot to `bench/results/`."""
