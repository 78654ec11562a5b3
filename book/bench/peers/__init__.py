"""One small file per library.

Each has ``PACKAGES`` (distributions whose versions are recorded) and
``prepare(case, x, cotangent)``. The latter returns ``{"value": call, "value+gradient": call}``,
calls without arguments that are timed as they are and wait for their result, or ``{}`` where the
library lacks the operator. ``value+gradient`` returns the pair (value, vector-Jacobian product).
"""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

OURS = "diffopt"
ALL = (OURS, "fast_soft_sort", "torchsort", "softjax", "scikit_learn", "scipy")
Calls = dict[str, Callable[[], Any]]


class Case(NamedTuple):
    """What is measured: an operator, its regularisation and strength."""

    operator: str
    regularization: str
    epsilon: float


def load() -> tuple[dict[str, ModuleType], dict[str, str]]:
    """Import every adapter; those whose library is missing come back with the reason."""
    found, missing = {}, {}
    for name in ALL:
        try:
            found[name] = importlib.import_module(f"book.bench.peers.{name}")
        except ImportError as error:
            missing[name] = str(error)
    return found, missing


def jax_calls(function: Callable, x: np.ndarray, cotangent: np.ndarray) -> Calls:
    """Jitted calls of a JAX function, its inputs already on the device."""
    import jax

    x, cotangent = jax.device_put((x, cotangent))

    @jax.jit
    def both(x, cotangent):
        value, pull = jax.vjp(function, x)
        return value, pull(cotangent)[0]

    value = jax.jit(function)
    return {
        "value": lambda: value(x).block_until_ready(),
        "value+gradient": lambda: jax.block_until_ready(both(x, cotangent)),
    }
