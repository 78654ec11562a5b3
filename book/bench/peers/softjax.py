"""softjax: JAX; its permutahedron method, unstandardised, is the paper's operator up to scale."""

import softjax

from book.bench.peers import Calls, Case, jax_calls

PACKAGES = ("softjax",)
LIMIT = 10_000  # its pooling copies whole rows in its loop: quadratic, hours at a million


def prepare(case: Case, x, cotangent) -> Calls:
    """Jitted calls; its entropic rank projects in the log domain, so that its numbers differ."""
    if case.operator not in ("soft_rank", "soft_sort") or x.shape[-1] > LIMIT:
        return {}
    gaps = max(x.shape[-1] - 1, 1)
    options = {
        "axis": -1,
        "method": "fast_soft_sort",
        "mode": {"l2": "c0", "kl": "smooth"}[case.regularization],
        "standardize": False,
    }

    def soft_rank(values):
        return softjax.rank(values, softness=case.epsilon * gaps, descending=False, **options)

    def soft_sort(values):
        # ascending in the paper's sense: minus the descending sort of minus the values
        return -softjax.sort(-values, softness=case.epsilon / gaps, descending=True, **options)

    return jax_calls({"soft_rank": soft_rank, "soft_sort": soft_sort}[case.operator], x, cotangent)
