"""Differentiable optimisation: discrete and constrained decisions as layers with gradients."""

import importlib

from diffopt.barycenter import soft_dtw_barycenter
from diffopt.fenchel_young import fenchel_young_loss, separation_margin
from diffopt.isotonic import isotonic_kl, isotonic_l2
from diffopt.lasso import elastic_net, lasso, lasso_max, lasso_path
from diffopt.nonsmooth_learning import simplex_svr, sparse_logistic, svm, svr
from diffopt.pairwise import soft_dtw_pairwise
from diffopt.permutahedron import project_permutahedron
from diffopt.perturbed import (
    host_argmax,
    perturbed_argmax,
    perturbed_fenchel_young_loss,
    perturbed_max,
)
from diffopt.projections import (
    project_box,
    project_knapsack,
    project_l1_ball,
    project_l2_ball,
    project_order_simplex,
    project_product,
    project_simplex,
)
from diffopt.regularizers import budget, entmax, fusedmax, normmax, softmax, sparsemax
from diffopt.soft_dtw import (
    alignment_entropy,
    dtw_path,
    expected_alignment,
    half_squared_euclidean,
    itakura,
    log_augmented,
    mean_cost,
    mean_cost_divergence,
    num_alignments,
    sakoe_chiba,
    sharp_divergence,
    sharp_soft_dtw,
    soft_dtw,
    soft_dtw_divergence,
    soft_dtw_from_cost,
    squared_euclidean,
)
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
from diffopt.structured import projection_loss
from diffopt.transport import project_birkhoff, project_transport, solve_transport

__all__ = [
    "alignment_entropy",
    "budget",
    "dtw_path",
    "elastic_net",
    "entmax",
    "expected_alignment",
    "fenchel_young_loss",
    "fusedmax",
    "half_squared_euclidean",
    "hard_rank_epsilon",
    "host_argmax",
    "isotonic_kl",
    "isotonic_l2",
    "itakura",
    "lasso",
    "lasso_max",
    "lasso_path",
    "log_augmented",
    "mean_cost",
    "mean_cost_divergence",
    "normmax",
    "num_alignments",
    "perturbed_argmax",
    "perturbed_fenchel_young_loss",
    "perturbed_max",
    "project_birkhoff",
    "project_box",
    "project_knapsack",
    "project_l1_ball",
    "project_l2_ball",
    "project_order_simplex",
    "project_permutahedron",
    "project_product",
    "project_simplex",
    "project_transport",
    "projection_loss",
    "sakoe_chiba",
    "separation_margin",
    "sharp_divergence",
    "sharp_soft_dtw",
    "simplex_svr",
    "soft_dtw",
    "soft_dtw_barycenter",
    "soft_dtw_divergence",
    "soft_dtw_from_cost",
    "soft_dtw_pairwise",
    "soft_least_trimmed_squares",
    "soft_median",
    "soft_quantile",
    "soft_rank",
    "soft_sort",
    "soft_top_k",
    "soft_top_k_loss",
    "softmax",
    "solve_transport",
    "sparse_logistic",
    "sparsemax",
    "spearman_loss",
    "squared_euclidean",
    "svm",
    "svr",
]
__version__ = "0.1.0"


_WITH_SCIKIT_LEARN = {
    "ElasticNetHO": "sparse_estimators",
    "FenchelYoungClassifier": "classifier",
    "LassoHO": "sparse_estimators",
    "SVMHO": "sparse_estimators",
    "SparseLogisticHO": "sparse_estimators",
    "TimeSeriesCentroidClassifier": "time_series",
    "TimeSeriesNeighborClassifier": "time_series",
}


def __getattr__(name):
    """Load what needs scikit-learn only when it is asked for."""
    if name in _WITH_SCIKIT_LEARN:
        return getattr(importlib.import_module(f"diffopt.{_WITH_SCIKIT_LEARN[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
