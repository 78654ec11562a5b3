"""Sparse linear models: designs, convex problems, solvers, and derivatives of solutions."""

from diffopt.sparse_linear.design import SparseDesign, as_design
from diffopt.sparse_linear.problem import Problem, Solution, solve

__all__ = ["Problem", "Solution", "SparseDesign", "as_design", "solve"]
