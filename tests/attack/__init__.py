"""Attacks on a whole local stack: what an outsider could send, what came back, and how other clients fared meanwhile.

`python -m tests.attack --help`, or `make attack`. `kinds` has a file for each kind of attack and a function for
each row of the table. To add an attack, add a function with `@attack(...)`.
"""
