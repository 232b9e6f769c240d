"""The local stack: every service, the gateway, the workers and the stores as processes on one machine."""
