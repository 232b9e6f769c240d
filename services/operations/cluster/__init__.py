"""A release of the chart, seen and steered through the Kubernetes API: what `lyra cluster` does, without printing."""
