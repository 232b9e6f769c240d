"""Libraries that the processes share; each subpackage is one of them."""
