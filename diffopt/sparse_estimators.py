r"""Sparse linear models that choose their penalty themselves, with the conventions of scikit-learn.

The penalty minimises an estimate of the risk, by its derivative in the logarithm of the penalty:
a search takes about as many evaluations for a penalty of each feature as for one. Needs
scikit-learn, which ``import diffopt`` does not: the classes are loaded when they are first asked
for.
"""

# mypy: disable-error-code="import-untyped"
import dataclasses
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import check_choice, check_positive
from diffopt.hypergradient import SURE, History, grad_search, hypergradient
from diffopt.hypergradient.criteria import Criterion, Fits, Measure, _register
from diffopt.sparse_linear import SVM, ElasticNet, Lasso, SparseLogistic, as_design

try:
    import scipy.sparse
    from scipy.special import expit
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, is_classifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import check_cv
    from sklearn.utils.multiclass import check_classification_targets, type_of_target
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "estimators that choose their penalty need scikit-learn 1.6 or newer: "
        "pip install scikit-learn"
    ) from error

__all__ = ["ElasticNetHO", "LassoHO", "SVMHO", "SparseLogisticHO"]

_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # type: ignore[attr-defined]
_FIRST_TOL = 1e-6  # of the duality gap, where the search begins


@_register(("X", "y", "train", "test"))
@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Splits(Criterion):
    """Mean over splits of the mean loss of what each holds out.

    The last fit takes all items and is not judged: it is the model, and solved along with them.
    """

    X: Any
    y: Any
    train: Any  # [F, n], weights
    test: Any  # [F, n], weights, zero in the last row
    squeeze = False

    def fits(self):
        return Fits(self.X, self.y, self.train)

    def measure(self):
        zero = jnp.zeros((), self.y.dtype)
        return Measure(self.X, self.y, self.test, jnp.zeros_like(self.test), zero)


class _SearchEstimator(BaseEstimator):
    """What the estimators share: checks of the data, the splits, the search."""

    criterion = "cv"
    sigma: Any = None
    per_feature = False
    _slope = 1.0  # of the loss, by the residual of a model without features

    def __init__(self, cv=5, fit_intercept=True, start=None, max_iter=50, tol=1e-10):
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.start = start
        self.max_iter = max_iter
        self.tol = tol

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Choose the penalty, and fit the model with it to all items.

        Parameters
        ----------
        X : array or sparse matrix of shape [n, p]
            The features.
        y : array of shape [n]
            The targets.
        sample_weight : array of shape [n], optional
            Weights of the items, in the fits and in the losses of what is held out; one of 2
            counts as two rows.

        Returns
        -------
        object
            Itself.
        """
        self._check_parameters()
        numeric = not is_classifier(self)
        options = {"accept_sparse": ("csc", "csr"), "dtype": np.float64, "y_numeric": numeric}
        X, y = validate_data(self, X, y, **options)
        weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        train, test = self._splits(X, y, weights)
        targets = self._targets(y, train)
        X, mean = self._design(X, weights)
        grid, bounds = self._scales(X, targets, weights)
        with _enable_x64(True):
            if self.criterion == "sure":
                criterion: Any = SURE(X, targets, self.sigma)
            else:
                data = jnp.asarray(targets), jnp.asarray(train), jnp.asarray(test)
                criterion = _Splits(as_design(X), *data)
            best = self._search(criterion, grid, bounds)
            options = {"tol": self.tol, "init": best.state, "max_iter": 10_000}
            found = hypergradient(criterion, self._model(), best.lam, **options)
            found = jax.device_get(found)
        place = 0 if self.criterion == "sure" else -1
        self._keep(best.lam, found.coef[place], float(found.intercept[place]), mean)
        before = best.history.value[: (self.max_iter + 1) // 2].min()
        if not best.converged and before > best.value + 1e-3 * abs(best.value):
            self._warn(
                f"the search still improved after {self.n_iter_} evaluations: raise max_iter"
            )
        if not found.converged.all():
            self._warn(f"the solver stopped at a gap of {found.gap.max():.1e}: raise tol")
        return self

    def _warn(self, message):
        warnings.warn(f"{type(self).__name__}: {message}", ConvergenceWarning, stacklevel=3)

    def _check_parameters(self):
        check_choice(self.criterion, ("cv", "sure"), "criterion")
        for name in ("tol", "max_iter"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.criterion == "sure" and not (self.sigma is not None and self.sigma > 0):
            raise ValueError(
                "sigma must be the standard deviation of the noise, a positive number, for "
                f"criterion='sure', got {self.sigma!r}; criterion='cv' needs none"
            )

    def _splits(self, X, y, weights):
        """Weights [F, n] of what is fitted and of what is judged, the fit to all items last."""
        if self.criterion == "sure":
            if np.ptp(weights) > 0:
                raise ValueError("sample_weight must be constant for criterion='sure'; use 'cv'")
            return weights[None], weights[None]
        train: list[Any] = []
        test: list[Any] = []
        for fitted, held_out in check_cv(self.cv, y, classifier=is_classifier(self)).split(X, y):
            for rows, places in ((train, fitted), (test, held_out)):
                rows.append(np.zeros_like(weights))
                rows[-1][places] = weights[places]
                if not rows[-1].sum() > 0:
                    raise ValueError(
                        "cv must leave weight in each training and each held-out set, got a set "
                        "whose sample_weight is zero; take fewer folds"
                    )
            test[-1] /= rows[-1].sum()
        if not train:
            raise ValueError("cv must give one split at least; make a list of what gives them once")
        nothing = np.zeros_like(weights)
        return np.array([*train, weights]), np.array([*test, nothing]) / len(test)

    def _targets(self, y, train):
        return y.astype(np.float64)

    def _design(self, X, weights):
        """Centre what is dense: this changes the intercept alone, and helps the solver."""
        if not self.fit_intercept or scipy.sparse.issparse(X):
            return X, np.zeros(X.shape[1])
        mean = np.average(X, axis=0, weights=weights)
        return X - mean, mean

    def _scales(self, X, y, weights):
        """Where the search may go: hyperparameters to try first, and their bounds."""
        residual = y - np.average(y, weights=weights) if self.fit_intercept else y
        top = np.abs(X.T @ (weights * residual)).max() / weights.sum() * self._slope or 1.0
        return top * np.geomspace(1, 1e-3, 20), (1e-4 * top, top)

    def _search(self, criterion, grid, bounds):
        """Search from the best of a coarse grid, for one number before one per feature."""
        options = {"tol": self.tol, "bounds": bounds, "first_tol": max(_FIRST_TOL, self.tol)}
        model, tried, state = self._model(), [], None
        for lam in grid if self.start is None else [self._check_start(grid[0], bounds)]:
            tried.append(grad_search(criterion, model, lam, max_iter=1, init=state, **options))
            state = tried[-1].state
        best = min(tried, key=lambda found: found.value)
        options["max_iter"] = self.max_iter
        if best.lam.ndim == 0 or not self.per_feature:
            best = grad_search(criterion, model, best.lam, init=best.state, **options)
            tried.append(best)
        if self.per_feature:
            lam = np.broadcast_to(best.lam, criterion.X.shape[1:])
            best = grad_search(criterion, model, lam, init=best.state, **options)
            tried.append(best)
        self.history_ = _join([found.history for found in tried], best.lam.shape)
        self.n_iter_ = len(self.history_.value)
        return best

    def _check_start(self, like, bounds):
        """Return where the search starts, within the bounds."""
        start, wide = np.asarray(self.start, float), (self.n_features_in_,)
        if start.shape != like.shape and not (self.per_feature and start.shape == wide):
            raise ValueError(
                f"start must have shape {like.shape}, or one for each feature with per_feature="
                f"True, got {start.shape}"
            )
        check_positive(start, "start")
        return np.clip(start, *bounds)

    def _keep(self, lam, coef, intercept, mean):
        self.lam_ = float(lam) if lam.ndim == 0 else lam
        self.coef_, self.intercept_ = coef, intercept - float(mean @ coef)

    def _scores(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return X @ np.ravel(self.coef_) + self.intercept_


def _join(histories, shape):
    """Join histories of searches, one after another."""
    wide = lambda x: x.reshape(-1, *(1,) * len(shape)) if x.ndim == 1 else x
    lam = np.concatenate([np.broadcast_to(wide(h.lam), (len(h.lam), *shape)) for h in histories])
    value, slope, gap, time = (np.concatenate([h[k] for h in histories]) for k in range(1, 5))
    starts = np.cumsum([0, *(h.time[-1] for h in histories[:-1])])
    return History(
        lam, value, slope, gap, time + np.repeat(starts, [len(h.lam) for h in histories])
    )


def _mean_square(X, weights, centred=False):
    """Mean over the columns of their weighted mean squares, or variances."""
    squares = X.multiply(X) if scipy.sparse.issparse(X) else X**2
    shares = weights / weights.sum()
    means = squares.T @ shares - ((X.T @ shares) ** 2 if centred else 0)
    return float(np.mean(means)) or 1.0


class _Regressor(RegressorMixin, _SearchEstimator):
    """What the regressors share."""

    def predict(self, X):
        """Predict the targets, an array of shape [n]."""
        return self._scores(X)


class LassoHO(_Regressor):
    r"""The Lasso, with the penalty, or one for each feature, that predicts best.

    .. math::

        \hat\beta(\lambda) = \operatorname*{argmin}_{\beta, b} \; \frac{1}{2n} \sum_{i=1}^n
        (y_i - x_i^\top \beta - b)^2 + \sum_{j=1}^p \lambda_j |\beta_j|, \qquad
        \hat\lambda \in \operatorname*{argmin}_\lambda \; \mathcal{C}(\hat\beta(\lambda))

    Parameters
    ----------
    cv : int, splitter of scikit-learn, or iterable of pairs (train, test), default 5
        What is held out, in turn: :math:`\mathcal{C}` is the mean over these sets of the mean
        squared error. One pair, or ``ShuffleSplit(1)``, is a held-out set.
    criterion : {"cv", "sure"}, default "cv"
        ``"sure"`` takes Stein's unbiased estimate of the risk instead, which holds nothing out.
    sigma : float, optional
        Standard deviation of the noise, for ``"sure"``.
    per_feature : bool, default False
        Whether every feature gets its own penalty, in a second search. These are many: hold out
        enough, and stop early.
    fit_intercept : bool, default True
        Whether to fit b, which is not penalised.
    start : float, or array of shape [p], optional
        Where the search starts; by default the best of 20 penalties, from the largest that makes
        sense to 1e-3 times that.
    max_iter : int, default 50
        Bound on the number of evaluations of a search, from there on.
    tol : float, default 1e-10
        Tolerance of the duality gaps in the end, relative to the objective of the coefficient 0.

    Attributes
    ----------
    lam_ : float, or array of shape [p]
        The penalty, of the objective with 1/(2n), as scikit-learn's ``alpha``.
    coef_, intercept_ : array of shape [p], and float
        The model, fitted to all items.
    history_ : History
        Every penalty that was tried, and the criterion there.
    n_iter_ : int
        How many those are.
    n_features_in_, feature_names_in_
        Number of features, and their names, if those were given as strings.

    Raises
    ------
    ValueError
        If a parameter or the data are not of the form that is described here.

    Notes
    -----
    An evaluation solves all fits as one batch, from the solutions of the one before, and one
    linear system of the size s of the support for each: O(K (n p + n s^2 + s^3)) for K sets, for
    any number of penalties. Everything is computed in double precision. The criterion need not be
    convex: what is found is a local minimum, not above the best of the penalties tried first.

    Bertrand et al. :cite:p:`bertrand2020implicit`, sections 2 and 4;
    Bertrand et al. :cite:p:`bertrand2022implicit`, section 4. Chapter: :ref:`lasso`.

    Examples
    --------
    With an orthonormal design, and targets 4 and 1 to fit, 3 and 0 held out, soft thresholding by
    one is best:

    >>> import numpy as np
    >>> from diffopt import LassoHO
    >>> X, y = np.tile(np.eye(2), (2, 1)), np.array([4.0, 1.0, 3.0, 0.0])
    >>> model = LassoHO(cv=[([0, 1], [2, 3])], fit_intercept=False).fit(X, y)
    >>> print(np.round(model.lam_, 3), model.coef_.round(3))
    0.5 [2.5 0. ]
    """

    def __init__(
        self, *, cv=5, criterion="cv", sigma=None, per_feature=False, fit_intercept=True,
        start=None, max_iter=50, tol=1e-10,
    ):  # fmt: skip
        super().__init__(cv, fit_intercept, start, max_iter, tol)
        self.criterion = criterion
        self.sigma = sigma
        self.per_feature = per_feature

    def _model(self):
        return Lasso(self.fit_intercept)


class ElasticNetHO(_Regressor):
    r"""The elastic net, with the pair of penalties that predicts best.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \frac{1}{2n} \sum_{i=1}^n
        (y_i - x_i^\top \beta - b)^2 + \lambda \|\beta\|_1 + \frac{\rho}{2} \|\beta\|^2

    Parameters
    ----------
    cv, criterion, sigma, fit_intercept, max_iter, tol
        As for :class:`LassoHO`.
    start : pair of floats, optional
        Where the search starts; by default the best of a grid of 40.

    Attributes
    ----------
    lam_, ridge_ : floats
        The penalties :math:`\lambda` and :math:`\rho`. scikit-learn's ``alpha`` is their sum, and
        ``l1_ratio`` the share of the first.
    coef_, intercept_, history_, n_iter_, n_features_in_, feature_names_in_
        As for :class:`LassoHO`.

    Raises
    ------
    ValueError
        If a parameter or the data are not of the form that is described here.

    Notes
    -----
    Cost and caveats are those of :class:`LassoHO`; two penalties need no more evaluations than
    one. Bertrand et al. :cite:p:`bertrand2022implicit`, section 4. Chapter: :ref:`lasso`.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt import ElasticNetHO
    >>> X, y = np.tile(np.eye(2), (2, 1)), np.array([4.0, 1.0, 1.0, 0.0])
    >>> model = ElasticNetHO(cv=[([0, 1], [2, 3])], fit_intercept=False).fit(X, y)
    >>> lam, ridge = model.lam_, model.ridge_  # (4 - 2 lam) / (1 + 2 ridge) is 1
    >>> print(np.round((4 - 2 * lam) / (1 + 2 * ridge), 2))
    1.0
    """

    def __init__(
        self, *, cv=5, criterion="cv", sigma=None, fit_intercept=True, start=None, max_iter=50,
        tol=1e-10,
    ):  # fmt: skip
        super().__init__(cv, fit_intercept, start, max_iter, tol)
        self.criterion = criterion
        self.sigma = sigma

    def _model(self):
        return ElasticNet(self.fit_intercept)

    def _scales(self, X, y, weights):
        lams, (low, high) = super()._scales(X, y, weights)
        size = _mean_square(X, weights, centred=self.fit_intercept)
        grid = [(lam, ridge * size) for ridge in np.geomspace(1, 1e-3, 4) for lam in lams[::2]]
        return np.array(grid), ((low, 1e-6 * size), (high, 10 * size))

    def _keep(self, lam, coef, intercept, mean):
        super()._keep(lam[0], coef, intercept, mean)
        self.ridge_ = float(lam[1])


class _BinaryClassifier(ClassifierMixin, _SearchEstimator):
    """What the classifiers share: two classes, and the sign of a score."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _targets(self, y, train):
        """Set the classes; return the targets -1 and 1."""
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        self.classes_, places = np.unique(y, return_inverse=True)
        if len(self.classes_) > 2:
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {kind}. "
                f"OneVsRestClassifier({type(self).__name__}()) takes y with more classes"
            )
        shares = train @ (places == 1) / train.sum(axis=1)
        if not (shares[-1] > 0 and shares[-1] < 1):
            raise ValueError("y must hold two classes whose weight is positive, got one class")
        if not np.all((shares > 0) & (shares < 1)):
            raise ValueError(
                "cv must leave both classes in each training set; take fewer folds, or "
                "StratifiedKFold"
            )
        return 2.0 * places - 1

    def _keep(self, lam, coef, intercept, mean):
        super()._keep(lam, coef, intercept, mean)
        self.coef_, self.intercept_ = self.coef_[None], np.array([self.intercept_])

    def decision_function(self, X):
        """Compute the scores, an array of shape [n]; above 0 the second class is predicted."""
        return self._scores(X)

    def predict(self, X):
        """Predict the classes, an array of shape [n]."""
        places = (self._scores(X) > 0).astype(int)
        return self.classes_[places]


class SparseLogisticHO(_BinaryClassifier):
    r"""Sparse logistic regression, with the penalty, or one for each feature, that predicts best.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \frac1n \sum_{i=1}^n
        \log\bigl(1 + e^{-y_i (x_i^\top \beta + b)}\bigr) + \sum_{j=1}^p \lambda_j |\beta_j|

    Parameters
    ----------
    cv, per_feature, fit_intercept, start, max_iter, tol
        As for :class:`LassoHO`, with the mean logistic loss in place of the squared error; an
        integer `cv` stratifies.

    Attributes
    ----------
    classes_ : array of shape [2]
        The classes; several of them take ``OneVsRestClassifier``, with a penalty for each.
    lam_ : float, or array of shape [p]
        The penalty; scikit-learn's ``C`` is ``1 / (lam_ * n)``.
    coef_, intercept_ : arrays of shapes [1, p] and [1]
        The model, fitted to all items.
    history_, n_iter_, n_features_in_, feature_names_in_
        As for :class:`LassoHO`.

    Raises
    ------
    ValueError
        If a parameter or the data are not of the form that is described here.

    Notes
    -----
    Cost and caveats are those of :class:`LassoHO`. Bertrand et al.
    :cite:p:`bertrand2022implicit`, section 4. Chapter: :ref:`nonsmooth_learning`.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt import SparseLogisticHO
    >>> X = np.tile([[-1.0], [1.0]], (8, 1))
    >>> y = np.tile(["no", "yes", "no", "yes", "no", "yes", "yes", "no"], 2)
    >>> model = SparseLogisticHO(cv=4).fit(X, y)
    >>> print(model.predict([[-2.0], [2.0]]), model.predict_proba([[1.0]]).round(2))
    ['no' 'yes'] [[0.3 0.7]]
    """

    def __init__(
        self, *, cv=5, per_feature=False, fit_intercept=True, start=None, max_iter=50, tol=1e-10,
    ):  # fmt: skip
        super().__init__(cv, fit_intercept, start, max_iter, tol)
        self.per_feature = per_feature

    _slope = 0.5

    def _model(self):
        return SparseLogistic(self.fit_intercept)

    def predict_proba(self, X):
        """Predict the probabilities of the classes, an array of shape [n, 2]."""
        scores = self._scores(X)
        return expit(np.stack([-scores, scores], axis=1))


class SVMHO(_BinaryClassifier):
    r"""The linear support vector machine, with the weight of the losses that predicts best.

    .. math::

        \operatorname*{argmin}_{\beta, b} \; \tfrac12 \|\beta\|^2 + \tfrac12 b^2
        + C \sum_{i=1}^n (1 - y_i (x_i^\top \beta + b))_+

    Parameters
    ----------
    cv, max_iter, tol
        As for :class:`LassoHO`, with the mean of a smoothed hinge in place of the squared error;
        an integer `cv` stratifies.
    fit_intercept : bool, default True
        Whether to fit b, which is penalised as if a feature were one, as in ``LinearSVC``.
    start : float, optional
        Where the search starts; by default the best of 12 weights.

    Attributes
    ----------
    classes_ : array of shape [2]
        The classes; several of them take ``OneVsRestClassifier``, with a weight for each.
    C_ : float
        The weight of the losses, as scikit-learn's ``C``; it is multiplied by ``sample_weight``.
    coef_, intercept_ : arrays of shapes [1, p] and [1]
        The model, fitted to all items.
    history_, n_iter_, n_features_in_, feature_names_in_
        As for :class:`LassoHO`.

    Raises
    ------
    ValueError
        If a parameter or the data are not of the form that is described here.

    Notes
    -----
    An evaluation costs O(K (n p + p m^2 + m^3)) for K sets and m items on the margin; caveats are
    those of :class:`LassoHO`. Bertrand et al. :cite:p:`bertrand2022implicit`, section 4.
    Chapter: :ref:`nonsmooth_learning`.

    Examples
    --------
    >>> import numpy as np
    >>> from diffopt import SVMHO
    >>> X, y = np.array([[-3.0], [-2.0], [-1.0], [1.0], [2.0], [3.0]]), np.repeat([0, 1], 3)
    >>> print(SVMHO(cv=3).fit(X, y).predict([[-5.0], [5.0]]))
    [0 1]
    """

    def __init__(
        self, *, cv=5, fit_intercept=True, start=None, max_iter=50, tol=1e-10,
    ):  # fmt: skip
        super().__init__(cv, fit_intercept, start, max_iter, tol)

    def _model(self):
        return SVM()

    def _design(self, X, weights):
        if self.fit_intercept:
            ones = np.ones((X.shape[0], 1))
            X = scipy.sparse.hstack([X, ones]) if scipy.sparse.issparse(X) else np.hstack([X, ones])
        return X, np.zeros(self.n_features_in_)

    def _scales(self, X, y, weights):
        size = _mean_square(X, weights) * X.shape[1]
        low, high = 1 / (size * weights.sum()), 1e2 / size
        return np.geomspace(low, high, 12), (1e-2 * low, 1e1 * high)

    def _keep(self, lam, coef, intercept, mean):
        p = self.n_features_in_
        super()._keep(lam, coef[:p], coef[p:].sum(), mean)
        self.C_ = self.__dict__.pop("lam_")
