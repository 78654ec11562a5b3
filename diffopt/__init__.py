"""Differentiable optimisation: discrete and constrained decisions as layers with gradients."""

from diffopt.isotonic import isotonic_kl, isotonic_l2
from diffopt.permutahedron import project_permutahedron
from diffopt.sorting import (
    hard_rank_epsilon,
    soft_least_trimmed_squares,
    soft_median,
    soft_quantile,
    soft_rank,
    soft_sort,
    soft_top_k,
    soft_top_k_loss,
    spearman_loss,
)

__all__ = [
    "hard_rank_epsilon",
    "isotonic_kl",
    "isotonic_l2",
    "project_permutahedron",
    "soft_least_trimmed_squares",
    "soft_median",
    "soft_quantile",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
    "soft_top_k_loss",
    "spearman_loss",
]
__version__ = "0.1.0"


def __getattr__(name):
    """Load what needs scikit-learn only when it is asked for."""
    if name == "FenchelYoungClassifier":
        from diffopt.classifier import FenchelYoungClassifier

        return FenchelYoungClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
