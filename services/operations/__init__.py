"""What runs the processes: all of them on this machine, or on a Kubernetes cluster."""
