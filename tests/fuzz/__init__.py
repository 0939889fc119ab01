"""Throws mutated bytes at everything that reads what others wrote.

``python -m tests.fuzz TARGET`` runs until something is wrong, or for ``--seconds``.
"""
