"""Sparse linear models: designs, convex problems, solvers, and derivatives of solutions."""

from diffopt.sparse_linear.design import SparseDesign, as_design
from diffopt.sparse_linear.models import (
    SVM,
    SVR,
    ElasticNet,
    Lasso,
    Model,
    SimplexSVR,
    SparseLogistic,
)
from diffopt.sparse_linear.problem import Problem, Solution, solve

__all__ = [
    "SVM",
    "SVR",
    "ElasticNet",
    "Lasso",
    "Model",
    "Problem",
    "SimplexSVR",
    "Solution",
    "SparseDesign",
    "SparseLogistic",
    "as_design",
    "solve",
]
