"""The whole platform on one machine: every service and the gateway, each a process of its own."""
