"""The HTTP API: a folder for each group of it, and `http` for what all of them need before a request is understood."""
