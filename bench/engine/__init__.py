"""The engine beside its peers and the commit before it: `python -m bench.engine`, described in `__main__`."""
