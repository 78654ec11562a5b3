"""One core and one thread for everybody, set before NumPy, JAX, numba and torch load."""

import os
import sys

FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
COUNTERS = ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR", "VECLIB")


def single_thread() -> None:
    """Pin this process to one core and every numerical library to one thread."""
    loaded = {"jax", "numpy", "numba", "torch"} & set(sys.modules)
    if loaded:
        raise RuntimeError(f"set the threads before importing {sorted(loaded)}")
    os.environ.update({f"{name}_NUM_THREADS": "1" for name in COUNTERS})
    os.environ.update(NPROC="1", JAX_PLATFORMS="cpu", XLA_FLAGS=FLAGS)
    os.environ["JAX_CPU_ENABLE_ASYNC_DISPATCH"] = "false"  # every call is waited for anyway
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
