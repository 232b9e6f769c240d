"""Attacks on a whole local stack: what a stranger could send, what came back, how everybody else fared meanwhile.

`python -m tests.attack --help`, or `make attack`. One file per kind of attack under `kinds`, one function per line of
the table. A new attack is one more function with `@attack(...)`.
"""
