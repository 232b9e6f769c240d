"""What all API groups share: connections, TLS, API keys, limits, errors, JSON and form parsing, streaming."""
