"""Designs: the matrix of features, dense, or sparse in compressed columns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float

__all__ = ["SparseDesign", "as_design", "matvec", "rmatvec"]


@dataclasses.dataclass(frozen=True, repr=False)
class SparseDesign:
    """A sparse matrix in compressed columns, as JAX arrays; made by `as_design`.

    Attributes
    ----------
    data : array of shape [nnz]
        The stored entries, column by column. Derivatives in the design are derivatives in these.
    rows, columns : int arrays of shape [nnz]
        The row and the column of each.
    starts : int array of shape [p + 1]
        Where each column starts.
    num_rows : int
        The number n of rows.
    """

    data: jax.Array
    rows: jax.Array
    columns: jax.Array
    starts: jax.Array
    num_rows: int

    @property
    def shape(self):
        """The numbers of rows and columns."""
        return self.num_rows, self.starts.shape[-1] - 1

    @property
    def ndim(self):
        """Two."""
        return 2

    @property
    def dtype(self):
        """The type of the entries."""
        return self.data.dtype

    def astype(self, dtype):
        """Change the type of the entries."""
        return SparseDesign(
            self.data.astype(dtype), self.rows, self.columns, self.starts, self.num_rows
        )

    def __repr__(self):
        return f"SparseDesign(shape={self.shape}, nnz={self.data.shape[-1]}, dtype={self.dtype})"


jax.tree_util.register_dataclass(
    SparseDesign,
    data_fields=["data", "rows", "columns", "starts"],
    meta_fields=["num_rows"],
)


def as_design(X, name="X"):
    """Return a matrix as an array of floats of shape [n, p], or as a `SparseDesign`.

    Parameters
    ----------
    X : array, SparseDesign, or sparse matrix of SciPy, of shape [n, p]
        The features.
    name : str, default "X"
        What an error calls it.

    Returns
    -------
    array or SparseDesign
        The same matrix.

    Raises
    ------
    TypeError, ValueError
        If `X` is not a matrix of real numbers.

    Examples
    --------
    >>> import scipy.sparse
    >>> from diffopt.sparse_linear import as_design
    >>> as_design(scipy.sparse.eye(3))
    SparseDesign(shape=(3, 3), nnz=3, dtype=float32)
    """
    if isinstance(X, SparseDesign):
        return X
    if hasattr(X, "tocsc"):
        X = X.tocsc(copy=True)
        X.sum_duplicates()
        places = np.repeat(np.arange(X.shape[1]), np.diff(X.indptr))
        rows, columns, starts = (jnp.asarray(x, jnp.int32) for x in (X.indices, places, X.indptr))
        return SparseDesign(as_float(X.data, name), rows, columns, starts, int(X.shape[0]))
    X = as_float(X, name)
    if X.ndim != 2:
        raise ValueError(f"{name} must have shape [n, p], got {X.shape}; use vmap for a batch")
    return X


def matvec(X, v):
    """Compute ``X @ v`` for v of shape [p]."""
    if isinstance(X, SparseDesign):
        return jnp.zeros(X.num_rows, v.dtype).at[X.rows].add(X.data * v[X.columns])
    return X @ v


def rmatvec(X, u):
    """Compute ``X.T @ u`` for u of shape [n]."""
    if isinstance(X, SparseDesign):
        zeros = jnp.zeros(X.shape[1], u.dtype)
        return zeros.at[X.columns].add(X.data * u[X.rows], indices_are_sorted=True)
    return u @ X
