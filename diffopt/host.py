"""Solvers on the host: any Python function as a solver for JAX. Chapter: :ref:`perturbed`."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["host_argmax"]


def host_argmax(fn, *, shape=None, workers=1, progress=None):
    """Make a solver for JAX out of a function of NumPy arrays: scipy, networkx, a MIP solver.

    Under ``vmap`` all instances go to the host in one call.

    Parameters
    ----------
    fn : function
        From the scores of one instance, a NumPy array or a pytree of them, to its answer.
    shape : function, optional
        From the scores to a pytree of ``jax.ShapeDtypeStruct``, those of an answer. By default the
        answer is like the scores.
    workers : int, default 1
        Threads that solve instances. With one, calls of `fn` never overlap, even when JAX calls
        from several threads; with more, `fn` has to be thread-safe.
    progress : function, optional
        Called as ``progress(done, total)`` after each instance of a batch, from one thread at a
        time.

    Returns
    -------
    function
        ``argmax_fn(theta)``, for one instance; works under ``jit`` and ``vmap``.

    Raises
    ------
    TypeError
        If `fn` is not a function, or `workers` is not an integer.
    RuntimeError
        When called: if `fn` fails on an instance or returns another shape. The message names the
        instance by its place in the batch.

    Notes
    -----
    A call from XLA to Python and back, about 0.1 ms, is paid once for a batch. A batch that is
    sharded over devices is gathered. Chapter: :ref:`perturbed`.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from diffopt import host_argmax
    >>> solve = host_argmax(lambda theta: np.eye(len(theta), dtype=theta.dtype)[theta.argmax()])
    >>> print(solve(jnp.array([0.1, 2.0, 1.0])))
    [0. 1. 0.]
    """
    if not callable(fn):
        raise TypeError(f"fn must be a function of NumPy arrays, got {fn!r}")
    if not isinstance(workers, int) or workers < 1:
        raise TypeError(f"workers must be a positive integer, got {workers!r}")
    lock = threading.Lock()

    def argmax_fn(theta):
        like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype), theta)
        wanted = like if shape is None else shape(theta)

        def call(theta):
            return _solve_batch(fn, theta, like, wanted, workers, progress, lock)

        theta = jax.lax.stop_gradient(theta)
        return jax.pure_callback(call, wanted, theta, vmap_method="broadcast_all")

    return argmax_fn


def _solve_batch(fn, theta, like, wanted, workers, progress, lock):
    """Solve all instances of a batch on the host."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, theta))
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    batch = leaves[0].shape[: leaves[0].ndim - len(shapes[0])]
    rows = [leaf.reshape(-1, *shape) for leaf, shape in zip(leaves, shapes, strict=True)]
    total = len(rows[0])
    outputs = jax.tree.map(lambda s: np.empty((total, *s.shape), s.dtype), wanted)
    done, count = 0, threading.Lock()

    def solve(i):
        nonlocal done
        answer = _solve_one(
            fn, jax.tree.unflatten(structure, [r[i] for r in rows]), wanted, i, batch
        )
        for output, part in zip(jax.tree.leaves(outputs), answer, strict=True):
            output[i] = part
        if progress is not None:
            with count:
                done += 1
                progress(done, total)

    if workers == 1:
        with lock:
            for i in range(total):
                solve(i)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(solve, range(total)))
    return jax.tree.map(lambda x: x.reshape(batch + x.shape[1:]), outputs)


def _solve_one(fn, theta, wanted, i, batch):
    """Solve one instance and check its answer; errors name the instance."""
    place = tuple(map(int, np.unravel_index(i, batch))) if batch else ()
    name = f"instance {place} of a batch {batch}" if batch else "the instance"
    try:
        answer = fn(theta)
    except Exception as error:
        raise RuntimeError(
            f"host solver failed on {name}: {type(error).__name__}: {error}"
        ) from error
    found, expected = (str(jax.tree.structure(tree)) for tree in (answer, wanted))
    if found != expected:
        raise RuntimeError(f"host solver on {name} returned {found}, not {expected}; pass shape=")
    parts = [np.asarray(part) for part in jax.tree.leaves(answer)]
    for part, spec in zip(parts, jax.tree.leaves(wanted), strict=True):
        if part.shape != spec.shape:
            raise RuntimeError(
                f"host solver on {name} returned shape {part.shape}, not {spec.shape}; pass shape="
            )
    return parts
