"""Side-by-side benchmarks: each writes its numbers as JSON and a plot of them to `bench/results/`."""
