"""Faults made for real, and a count of every message: `python -m tests.chaos --help`, or `nox -s chaos`.

It needs no clock of its own and no luck: a publisher notes what Redis accepted, clients note what they saw
in which order, and the two are compared. See docs/reliability.md for what came of it.
"""
