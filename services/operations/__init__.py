"""Operation of Lyra's processes: a local stack on one machine, or a release on a Kubernetes cluster."""
