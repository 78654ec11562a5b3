"""google-research/fast-soft-sort: NumPy and numba, one row at a time."""

import numpy as np
from fast_soft_sort import numpy_ops

from book.bench.peers import Calls, Case

PACKAGES = ("fast-soft-sort",)
OPERATORS = {"soft_rank": numpy_ops.SoftRank, "soft_sort": numpy_ops.SoftSort}


def prepare(case: Case, x, cotangent) -> Calls:
    """NumPy calls, a Python loop over the rows."""
    if case.operator not in OPERATORS:
        return {}
    options = {"regularization_strength": case.epsilon, "regularization": case.regularization}

    def make(row):
        return OPERATORS[case.operator](row, **options)

    def value():
        return np.stack([make(row).compute() for row in x])

    def both():
        layers = [make(row) for row in x]
        values = np.stack([layer.compute() for layer in layers])
        return values, np.stack([f.vjp(g) for f, g in zip(layers, cotangent, strict=True)])

    return {"value": value, "value+gradient": both}
