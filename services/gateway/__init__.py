"""The HTTP API: a package per API group, and `http` for what all of them share."""
