"""Hypergradients: criteria, their derivatives in hyperparameters, bounds of errors, and search."""

from diffopt.hypergradient.bound import Certificate, hypergradient_error_bound
from diffopt.hypergradient.criteria import SURE, CrossValidation, HeldOut
from diffopt.hypergradient.degrees import degrees_of_freedom, exact_sure
from diffopt.hypergradient.methods import (
    Hypergradient,
    State,
    criterion_value,
    hypergradient,
)
from diffopt.hypergradient.search import (
    History,
    SearchResult,
    grad_search,
    grid_search,
    lam_max,
    random_search,
)

__all__ = [
    "SURE",
    "Certificate",
    "CrossValidation",
    "HeldOut",
    "History",
    "Hypergradient",
    "SearchResult",
    "State",
    "criterion_value",
    "degrees_of_freedom",
    "exact_sure",
    "grad_search",
    "grid_search",
    "hypergradient",
    "hypergradient_error_bound",
    "lam_max",
    "random_search",
]
