"""Kernels: one sequential core, two implementations, chosen by platform.

On a CPU a kernel runs as native code, compiled by numba and called by XLA in place
(:mod:`diffopt.kernels.bridge`). Everywhere else, and where numba is missing, it runs as parallel
XLA operations (:mod:`diffopt.kernels.parallel`). :func:`set_backend` forces one or the other.
"""

import contextlib
import functools
import importlib.util
import inspect
import operator
import os

import jax
import jax._src.dispatch
import jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding, PartitionSpec

__all__ = ["Kernel", "get_backend", "set_backend", "use_backend"]

# How a batch is partitioned depends on the devices: JAX must know them when it lowers a kernel, and
# may not reuse the result for others. The first of these has no public name.
_NEED_DEVICES = getattr(jax._src.dispatch, "prim_requires_devices_during_lowering", None)
_CACHEABLE = "cacheable" in inspect.signature(mlir.register_lowering).parameters
_BACKENDS = ("auto", "native", "xla")
_backend = os.environ.get("DIFFOPT_KERNELS", "auto")
if _backend not in _BACKENDS:
    raise ValueError(f"DIFFOPT_KERNELS must be one of {_BACKENDS}, got {_backend!r}")


def get_backend():
    """Return the backend of the kernels: ``"auto"``, ``"native"`` or ``"xla"``.

    Examples
    --------
    >>> from diffopt import kernels
    >>> kernels.get_backend()
    'auto'
    """
    return _backend


def set_backend(backend):
    """Choose how kernels run on a CPU, and forget what has been compiled before.

    Parameters
    ----------
    backend : {"auto", "native", "xla"}
        ``"auto"`` runs the native kernels on a CPU where numba is installed, the XLA ones
        otherwise. ``"native"`` is the same, but raises where numba is missing. ``"xla"`` always
        runs the parallel XLA implementation, as a GPU does. The environment variable
        ``DIFFOPT_KERNELS`` sets the initial choice.

    Raises
    ------
    ValueError
        If `backend` is none of the three.
    ImportError
        If `backend` is ``"native"`` and numba is not installed.
    """
    global _backend
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be one of {_BACKENDS}, got {backend!r}")
    if backend == "native" and not _has_numba():
        raise ImportError('backend "native" needs numba: pip install numba')
    if backend != _backend:
        _backend = backend
        jax.clear_caches()


@contextlib.contextmanager
def use_backend(backend):
    """Context manager which sets the backend of the kernels and restores it at the end.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> from diffopt import kernels, soft_rank
    >>> with kernels.use_backend("xla"):
    ...     print(soft_rank(jnp.array([5.0, 1.0, 2.0])))
    [3. 1. 2.]
    """
    previous = get_backend()
    set_backend(backend)
    try:
        yield
    finally:
        set_backend(previous)


@functools.cache
def _has_numba():
    return importlib.util.find_spec("numba") is not None


class Kernel:
    """An operation on the last axis of its operands, with a native and an XLA implementation.

    Each operand has shape ``[*batch, n]``, or ``[n]`` when the whole batch shares it; results have
    shape ``[*batch, n]``, with n that of the first operand, or of those in `like`. Under ``vmap``
    it becomes one call on a larger batch, and a sharded batch stays sharded. It has no derivative
    of its own, except a linear kernel, which is told the flags of its transpose.

    Parameters
    ----------
    name : str
        Name of the function in :mod:`diffopt.kernels.native` or a module beside it.
    parallel : callable
        The XLA implementation for one row: operands of shape [n], then `flags`.
    result_dtypes : callable
        From the operands' dtypes to the results' dtypes.
    transpose_flags : callable, optional
        For a kernel which is linear in its first operand: from its flags to its transpose's.
    tangent : callable, optional
        For such a kernel that depends on its second operand too: the derivative of the result in
        that, ``tangent(operands, tangent of the second, flags)``.
    like : tuple of int, optional
        The operand from which each result has its n.
    """

    def __init__(
        self, name, parallel, result_dtypes, transpose_flags=None, tangent=None, like=None
    ):
        self.name, self.parallel, self.result_dtypes = name, parallel, result_dtypes
        self.like = like
        self.transpose_flags, self.tangent = transpose_flags, tangent
        self.primitive = Primitive(f"diffopt_{name}")
        self.primitive.multiple_results = True
        self.primitive.def_impl(self._run_eagerly)
        self.primitive.def_abstract_eval(self._result_types)
        batching.primitive_batchers[self.primitive] = self._batch
        mlir.register_lowering(self.primitive, mlir.lower_fun(self._run_parallel, True))
        options = {"cacheable": False} if _CACHEABLE else {}
        run_on_cpu = mlir.lower_fun(self._run_on_cpu, True)
        mlir.register_lowering(self.primitive, run_on_cpu, platform="cpu", **options)
        if _NEED_DEVICES is not None:
            _NEED_DEVICES.add(self.primitive)
        if transpose_flags is not None:
            ad.primitive_jvps[self.primitive] = self._jvp
            ad.primitive_transposes[self.primitive] = self._transpose

    def __call__(self, *operands, flags=()):
        """Apply the kernel; `flags` are static integers."""
        results = self.primitive.bind(*operands, flags=flags)
        return results[0] if len(results) == 1 else results

    def _run_eagerly(self, *operands, flags):
        return _jit(self.primitive)(*operands, flags=flags)

    def _result_types(self, *operands, flags):
        batch = max((x.shape[:-1] for x in operands), key=len)
        dtypes = self.result_dtypes(*[x.dtype for x in operands])
        sizes = [operands[i].shape[-1] for i in self.like or (0,) * len(dtypes)]
        return [jax.core.ShapedArray((*batch, n), d) for n, d in zip(sizes, dtypes, strict=True)]

    def _run_parallel(self, *operands, flags):
        rank = max(x.ndim for x in operands)
        run = functools.partial(self.parallel, flags=flags)
        for _ in range(rank - 1):
            run = jax.vmap(run, [0 if x.ndim == rank else None for x in operands])
        results = run(*operands)
        return results if isinstance(results, tuple) else (results,)

    def _run_on_cpu(self, *operands, flags):
        if get_backend() == "xla" or not _has_numba():
            return self._run_parallel(*operands, flags=flags)
        results = self._result_types(*operands, flags=flags)
        kinds = [(x.shape[-1], x.dtype) for x in results]
        run = functools.partial(_call_native, self.name, kinds)
        if flags:
            operands = (*operands, jnp.array(flags, jnp.int32))
        if _NEED_DEVICES is None or len(results[0].shape) == 1:
            return run(*operands)
        return _by_batch(run, operands, results)

    def _batch(self, operands, axes, *, flags):
        pairs = list(zip(operands, axes, strict=True))
        size = next(x.shape[a] for x, a in pairs if a is not None)
        inner = max((_drop(x.shape, a)[:-1] for x, a in pairs), key=len)
        batched = [_to_batch(x, a, (size, *inner)) for x, a in pairs]
        results = self.primitive.bind(*batched, flags=flags)
        return results, [0] * len(results)

    def _jvp(self, primals, tangents, *, flags):
        (result,) = self.primitive.bind(*primals, flags=flags)
        terms = []
        if not isinstance(tangents[0], ad.Zero):
            terms += self.primitive.bind(tangents[0], *primals[1:], flags=flags)
        if self.tangent is not None and not isinstance(tangents[1], ad.Zero):
            (x, z, *rest), dz = primals, tangents[1]
            x, z, dz = (jnp.broadcast_to(v, result.shape) for v in (x, z, dz))
            terms.append(self.tangent((x, z, *rest), dz, flags))
        zero = ad.Zero(jax.typeof(result).to_tangent_aval())
        return [result], [functools.reduce(operator.add, terms) if terms else zero]

    def _transpose(self, cotangents, x, *rest, flags):
        if isinstance(cotangents[0], ad.Zero):
            return [ad.Zero(x.aval)] + [None] * len(rest)
        flags = self.transpose_flags(flags)
        (result,) = self.primitive.bind(cotangents[0], *rest, flags=flags)
        if result.ndim > x.aval.ndim:  # the whole batch shares x
            result = result.sum(axis=range(result.ndim - 1))
        return [result] + [None] * len(rest)


@functools.cache
def _jit(primitive):
    return jax.jit(primitive.bind, static_argnames="flags")


def _call_native(name, kinds, *operands):
    from diffopt.kernels import bridge

    batch = max((x.shape[:-1] for x in operands), key=len)
    results = [jax.ShapeDtypeStruct((*batch, n), dtype) for n, dtype in kinds]
    target = bridge.target(name, [x.dtype for x in operands], [dtype for _, dtype in kinds])
    return tuple(jax.ffi.ffi_call(target, results)(*operands))


def _by_batch(run, operands, results):
    """Call `run`, which the partitioner cannot look into, and let it shard the batch."""
    batch = " ".join(f"b{i}" for i in range(len(results[0].shape) - 1))

    def dims(x):
        core = f"n{x.shape[-1]}"
        return f"{batch} {core}" if len(x.shape) > 1 else core

    cores = dict.fromkeys(f"n{x.shape[-1]}" for x in operands)  # in order of appearance
    rule = " -> ".join(", ".join(map(dims, xs)) for xs in (operands, results))

    def partition(mesh, operands, results):
        return mesh, run, tuple(map(_whole_rows, results)), tuple(map(_whole_rows, operands))

    sharded = custom_partitioning(lambda *xs: run(*xs))
    sharded.def_partition(partition, sharding_rule=rule, need_replication_factors=tuple(cores))
    return sharded(*operands)


def _whole_rows(x):
    batch = (*x.sharding.spec, *[None] * x.ndim)[: x.ndim - 1]
    return NamedSharding(x.sharding.mesh, PartitionSpec(*batch, None))


def _drop(shape, axis):
    return shape if axis is None else (*shape[:axis], *shape[axis + 1 :])


def _to_batch(x, axis, batch):
    """Give an operand the leading axes `batch`, or leave it alone where all of them share it."""
    if axis is None and x.ndim == 1:
        return x
    x = x[None] if axis is None else jnp.moveaxis(x, axis, 0)
    if x.ndim == 2:
        x = x.reshape(x.shape[0], *[1] * (len(batch) - 1), x.shape[-1])
    return jnp.broadcast_to(x, (*batch, x.shape[-1]))
