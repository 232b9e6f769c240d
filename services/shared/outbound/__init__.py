"""Calls to addresses that a client names: the one place from which they leave, kept away from what is not public."""
