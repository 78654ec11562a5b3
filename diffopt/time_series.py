r"""Classifiers of time series, with the conventions of scikit-learn.

They compare series by soft-DTW or one of its divergences. Need scikit-learn, which ``import
diffopt`` does not: the classes are loaded when they are first asked for.
"""

# mypy: disable-error-code="import-untyped"
import math

import jax
import numpy as np

from diffopt.barycenter import soft_dtw_barycenter
from diffopt.checks import check_choice, check_range
from diffopt.pairwise import LOSSES, soft_dtw_pairwise
from diffopt.soft_dtw import squared_euclidean

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_consistent_length, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "classifiers of time series need scikit-learn 1.6 or newer: pip install scikit-learn"
    ) from error

__all__ = ["TimeSeriesCentroidClassifier", "TimeSeriesNeighborClassifier"]

_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # type: ignore[attr-defined]


def _is_table(X):
    series = isinstance(X, (list, tuple)) and len(X) > 0 and np.ndim(X[0]) == 2
    return not series and getattr(X, "ndim", 2) != 3


def _check_series(X):
    X = [np.asarray(x, np.float64) for x in X]
    if not all(np.isfinite(x).all() for x in X):
        raise ValueError("X must hold finite numbers; fill or drop missing points")
    return X


class _TimeSeriesClassifier(ClassifierMixin, BaseEstimator):
    """What the classifiers share: their input, and losses to what they have kept."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _series(self, X):
        """Check series to predict for; a row of a table is a series of one feature."""
        if _is_table(X):
            return validate_data(self, X, dtype=np.float64, reset=False)[:, :, None]
        return _check_series(X)

    def _series_and_labels(self, X, y):
        """Check parameters and what to fit to; sets the classes, and gives their numbers."""
        check_choice(self.loss, LOSSES, "loss")
        check_range(self.gamma, 0, math.inf, "gamma")
        if _is_table(X):
            X, y = validate_data(self, X, y, dtype=np.float64)
            X = X[:, :, None]
        else:
            X, y = _check_series(X), column_or_1d(y, warn=True)
            check_consistent_length(X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        return X, labels

    def _losses(self, X, kept):
        with _enable_x64(True):
            return np.asarray(soft_dtw_pairwise(X, kept, **self._options()))

    def _options(self):
        cost = squared_euclidean if self.cost is None else self.cost
        return {"loss": self.loss, "gamma": self.gamma, "cost": cost}


class TimeSeriesNeighborClassifier(_TimeSeriesClassifier):
    r"""Vote of the nearest training series under soft-DTW or one of its divergences.

    Parameters
    ----------
    n_neighbors : int, default 1
        How many series vote. At a tie of votes the first class wins.
    loss : str, default "divergence"
        What is near, as in :func:`~diffopt.soft_dtw_pairwise`.
    gamma : float, default 1.0
        Temperature; 0 with the loss "soft_dtw" is DTW.
    cost : function, optional
        Cost of two points; by default :func:`~diffopt.squared_euclidean`.

    Attributes
    ----------
    classes_ : array of shape [k]
        The classes.
    series_ : array of shape [S, n, d], or list of arrays of shapes [n_s, d]
        The training series.

    Notes
    -----
    A prediction takes O(S n m) time. Blondel et al. :cite:p:`blondel2021differentiable`, section
    5. Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt import TimeSeriesNeighborClassifier
    >>> X = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0]])  # a bump, and a step
    >>> model = TimeSeriesNeighborClassifier(gamma=0.1).fit(X, ["bump", "step"])
    >>> print(*model.predict([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    bump step
    """

    def __init__(self, n_neighbors=1, *, loss="divergence", gamma=1.0, cost=None):
        self.n_neighbors = n_neighbors
        self.loss = loss
        self.gamma = gamma
        self.cost = cost

    def fit(self, X, y):
        """Keep the series.

        Parameters
        ----------
        X : array of shape [S, n] or [S, n, d], or list of arrays of shapes [n_s, d]
            The series.
        y : array of shape [S]
            Their classes.

        Returns
        -------
        TimeSeriesNeighborClassifier
            Itself.
        """
        X, labels = self._series_and_labels(X, y)
        if self.n_neighbors not in range(1, len(X) + 1):
            raise ValueError(
                f"n_neighbors must lie between 1 and the {len(X)} series, and be an integer, "
                f"got {self.n_neighbors!r}"
            )
        self.series_, self._labels = X, labels
        return self

    def predict_proba(self, X):
        """Compute the share of votes of each class, an array of shape [S, k]."""
        check_is_fitted(self)
        table = self._losses(self._series(X), self.series_)
        nearest = np.argsort(table, axis=1, kind="stable")[:, : self.n_neighbors]
        votes = self._labels[nearest][:, :, None] == np.arange(len(self.classes_))
        return votes.mean(axis=1)

    def predict(self, X):
        """Predict the class with most votes for each series, an array of shape [S]."""
        votes = self.predict_proba(X)
        return self.classes_[votes.argmax(axis=1)]


class TimeSeriesCentroidClassifier(_TimeSeriesClassifier):
    r"""Class of the nearest barycenter under soft-DTW or one of its divergences.

    Parameters
    ----------
    loss : str, default "divergence"
        What barycenters minimise, and what is near, as in
        :func:`~diffopt.soft_dtw_barycenter`.
    gamma : float, default 1.0
        Temperature.
    cost : function, optional
        Cost of two points; by default :func:`~diffopt.squared_euclidean`.
    tol, max_iter : float and int
        When the search for a barycenter stops.

    Attributes
    ----------
    classes_ : array of shape [k]
        The classes.
    centroids_ : list of k arrays of shapes [n, d]
        A barycenter of each class, as long as its longest series.
    n_iter_ : int
        The most iterations that a barycenter took.

    Notes
    -----
    An iteration takes O(S n m) time. Blondel et al. :cite:p:`blondel2021differentiable`, section 5.
    Chapter: :ref:`soft_dtw`.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt import TimeSeriesCentroidClassifier
    >>> X = np.array([[0.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0]])
    >>> model = TimeSeriesCentroidClassifier(gamma=0.1).fit(X, ["bump", "bump", "step"])
    >>> print(*model.predict([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]))
    bump step
    """

    def __init__(self, *, loss="divergence", gamma=1.0, cost=None, tol=1e-6, max_iter=100):
        self.loss = loss
        self.gamma = gamma
        self.cost = cost
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X, y):
        """Find the barycenters.

        Parameters
        ----------
        X : array of shape [S, n] or [S, n, d], or list of arrays of shapes [n_s, d]
            The series.
        y : array of shape [S]
            Their classes.

        Returns
        -------
        TimeSeriesCentroidClassifier
            Itself.
        """
        X, labels = self._series_and_labels(X, y)
        options = self._options() | {"tol": self.tol, "max_iter": self.max_iter}
        with _enable_x64(True):
            found = [
                soft_dtw_barycenter(
                    [x for x, c in zip(X, labels, strict=True) if c == k], **options
                )
                for k in range(len(self.classes_))
            ]
        self.centroids_ = [np.asarray(barycenter.value) for barycenter in found]
        self.n_iter_ = max(barycenter.num_iter for barycenter in found)
        return self

    def predict(self, X):
        """Predict the class of the nearest barycenter for each series, an array of shape [S]."""
        check_is_fitted(self)
        table = self._losses(self._series(X), self.centroids_)
        return self.classes_[table.argmin(axis=1)]
