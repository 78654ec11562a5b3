"""Sparse linear models: designs, convex problems, solvers, and derivatives of solutions."""

from diffopt.sparse_linear.block_models import (
    group_lasso,
    multinomial_logistic,
    multitask_lasso,
)
from diffopt.sparse_linear.blocks import BlockProblem, BlockSolution, solve_blocks
from diffopt.sparse_linear.design import SparseDesign, as_design
from diffopt.sparse_linear.fit import fit
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
    "BlockProblem",
    "BlockSolution",
    "ElasticNet",
    "Lasso",
    "Model",
    "Problem",
    "SimplexSVR",
    "Solution",
    "SparseDesign",
    "SparseLogistic",
    "as_design",
    "fit",
    "group_lasso",
    "multinomial_logistic",
    "multitask_lasso",
    "solve",
    "solve_blocks",
]
