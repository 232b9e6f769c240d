"""/version."""
