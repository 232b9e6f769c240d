"""Simulation of Kubernetes autoscalers under a day of traffic; see bench/autoscaling.py."""
