"""Inspection and operation of a release of the chart through the Kubernetes API: `lyra cluster` without its output."""
