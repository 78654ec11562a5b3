"""Checks of arguments, made when a function is called or traced."""

import operator

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "as_float",
    "as_mask",
    "check_axis",
    "check_choice",
    "check_positive",
    "check_range",
    "check_shape",
    "working_dtype",
]


def as_float(x, name):
    """Return `x` as an array of a floating type; integers become the default one."""
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be an array of real numbers, got {x!r}") from None
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x
    if jnp.issubdtype(x.dtype, jnp.integer) or x.dtype == bool:
        return x.astype(jnp.result_type(float))
    raise TypeError(f"{name} must be an array of real numbers, got dtype {x.dtype}")


def check_axis(x, axis, name):
    """Return `axis` as a non-negative integer."""
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {axis!r}") from None
    if x.ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got a scalar; wrap it in [ ]")
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"axis must index the {x.ndim} dimensions of {name}, got {axis}")
    return axis % x.ndim


def check_choice(value, choices, name):
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_range(value, low, high, name):
    """Raise if `value` is known, not traced, and no number in [low, high]."""
    if not isinstance(value, jax.core.Tracer):
        known = np.asarray(value)
        if known.dtype.kind in "USO":
            raise TypeError(f"{name} must be a number in [{low}, {high}], got {value!r}")
        if not ((known >= low) & (known <= high)).all():
            raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")


def check_positive(value, name):
    """Raise if `value` is known, not traced, and not positive."""
    if not isinstance(value, jax.core.Tracer) and not (np.asarray(value) > 0).all():
        raise ValueError(f"{name} must be positive, got {value}; take a small number")


def check_shape(x, shape, name, like):
    """Return `x` broadcast to `shape`, that of the argument `like`."""
    try:
        return jnp.broadcast_to(x, shape)
    except ValueError:
        raise ValueError(
            f"{name} must broadcast to the shape of {like}, {shape}, got {x.shape}"
        ) from None


def working_dtype(dtype):
    """Return the type to compute in: single precision at least."""
    return jnp.dtype(dtype) if jnp.dtype(dtype).itemsize >= 4 else jnp.dtype(jnp.float32)


def as_mask(where, shape, like):
    """Return a boolean mask of the given shape."""
    where = jnp.asarray(where)
    if where.dtype != bool:
        raise TypeError(
            f"where must be a boolean mask, got dtype {where.dtype}; compare, say x > 0"
        )
    return check_shape(where, shape, "where", like)
