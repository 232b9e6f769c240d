"""Models, and everything around them that needs no service: no sockets, no HTTP, no queue.

Each subpackage is a room of its own; `[tool.importlinter]` in pyproject.toml says which may use which.
"""
