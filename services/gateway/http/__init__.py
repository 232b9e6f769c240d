"""HTTP itself: connections, TLS, keys, limits, errors, JSON and forms read with bounds, streaming."""
