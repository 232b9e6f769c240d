"""Autoscalers of Kubernetes, traffic of a day, and what comes of the two; see bench/autoscaling.py."""
