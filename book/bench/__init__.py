"""Fair timings of every operator against the libraries one would use instead.

``python -m book.bench`` (or ``make bench``) prints the table and writes ``book/results``.
"""
