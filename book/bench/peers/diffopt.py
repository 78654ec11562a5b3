"""This library."""

from functools import partial

from book.bench.peers import Calls, Case, jax_calls
from diffopt.isotonic import isotonic_l2
from diffopt.sorting import soft_rank, soft_sort

PACKAGES = ("jax", "jaxlib", "numba", "numpy")
OPERATORS = {"soft_rank": soft_rank, "soft_sort": soft_sort}


def prepare(case: Case, x, cotangent) -> Calls:
    """Jitted calls with the inputs on the device."""
    if case.operator == "isotonic_l2":
        return jax_calls(isotonic_l2, x, cotangent)
    options = {"epsilon": case.epsilon, "regularization": case.regularization}
    return jax_calls(partial(OPERATORS[case.operator], **options), x, cotangent)
