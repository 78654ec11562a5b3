r"""Linear classifiers under Fenchel-Young losses, with the conventions of scikit-learn.

The model is :math:`\theta = W x + b`, its probabilities :math:`\operatorname{argmax}_{p \in
\triangle} \langle p, \theta \rangle - \Omega(p)`. Needs scikit-learn, which ``import diffopt``
does not: the class is loaded when it is first asked for.
"""

# mypy: disable-error-code="import-untyped"
import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import check_choice
from diffopt.regularizers import CostAugmented, Gini, Regularizer, Shannon, Tsallis, Zero

try:
    import scipy.optimize
    import scipy.sparse
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import check_array, check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "FenchelYoungClassifier needs scikit-learn 1.6 or newer: pip install scikit-learn"
    ) from error

__all__ = ["FenchelYoungClassifier"]

_enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64  # type: ignore[attr-defined]
_NAMES = {"gini": Gini(), "shannon": Shannon(), "tsallis15": Tsallis(1.5), "hinge": Zero()}


class FenchelYoungClassifier(ClassifierMixin, BaseEstimator):
    r"""Linear classifier trained with a Fenchel-Young loss and a squared penalty.

    .. math::

        \operatorname*{argmin}_{W, b} \; \frac1n \sum_{i=1}^n
        \bigl[ \Omega^*(W x_i + b) + \Omega(y_i) - \langle W x_i + b, y_i \rangle \bigr]
        + \frac{\lambda}{2} \|W\|^2

    Parameters
    ----------
    regularizer : {"gini", "shannon", "tsallis15", "hinge"} or object, default "gini"
        The regularisation :math:`\Omega`: one of :mod:`diffopt.regularizers` whose predictions
        are distributions, or its name. ``"gini"`` gives sparsemax, ``"shannon"`` multinomial
        logistic regression, ``"hinge"`` the support vector machine of Crammer and Singer, with
        :math:`\Omega(p) = \langle y - 1, p \rangle` and the dual solver alone.
    lam : float, default 1e-2
        Weight :math:`\lambda > 0` of the penalty; scikit-learn's ``C`` is ``1 / (lam * n)``.
    solver : {"lbfgs", "dual"}, default "lbfgs"
        L-BFGS on the objective, which should be smooth; or block-coordinate ascent on its dual
        by proximity operators, for the hinge loss and Tsallis entropies of any order.
    fit_intercept : bool, default True
        Whether to fit b, which is not penalised. The dual solver then adds a proximal term in b
        and moves its centre after each pass.
    tol : float, default 1e-6
        Stop when the duality gap, a bound on the excess of the objective, is at most `tol`.
    max_iter : int, default 1000
        Bound on the iterations of L-BFGS, or on the passes over the data.
    random_state : int, RandomState instance or None, default None
        Seed of the order in which the dual solver visits the items.

    Attributes
    ----------
    classes_ : array of shape [k]
        The classes; ``0, ..., k - 1`` if the targets were proportions.
    coef_, intercept_ : arrays of shapes [k, num_features] and [k]
        The table W and the vector b; two rows also for two classes.
    dual_gap_ : float
        Objective minus dual objective at the solution, never negative.
    objective_ : float
        Value of the objective.
    n_iter_ : int
        Number of iterations, or of passes.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : array of shape [num_features]
        Names of the features, if those were given as strings.

    Raises
    ------
    ValueError
        If a parameter or the data are not of the form that is described here.

    Notes
    -----
    With distributions :math:`p_i` as dual variables and :math:`W(p) = \frac{1}{\lambda n}
    \sum_i (y_i - p_i) x_i^\top`, the dual objective is :math:`\frac1n \sum_i [\Omega(y_i) -
    \Omega(p_i)] - \frac\lambda2 \|W(p)\|^2`, and its maximum in one :math:`p_i` the proximity
    operator of :math:`\Omega`. The duality gap is the mean loss of the scores with the
    :math:`p_i` as targets, plus :math:`\frac\lambda2 \|W - W(p)\|^2`. An intercept asks for
    :math:`\sum_i p_i = \sum_i y_i`: where that does not hold, a little mass is moved between
    classes before the gap is computed.

    One iteration or pass costs O(k) times the number of stored features, and the proximity
    operators. Everything is computed in double precision. Blondel et al.
    :cite:p:`blondel2020learning`, section 8. Chapter: :ref:`fenchel_young`.

    Examples
    --------
    Targets may be proportions, and probabilities are sparse:

    >>> import numpy as np
    >>> from diffopt import FenchelYoungClassifier
    >>> X = np.array([[-2.0], [0.0], [2.0]])
    >>> Y = np.array([[1.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]])
    >>> model = FenchelYoungClassifier("gini", lam=1e-6, tol=1e-12).fit(X, Y)
    >>> print(model.predict_proba([[-4.0], [0.0], [4.0]]).round(2))
    [[1.   0.   0.  ]
     [0.25 0.5  0.25]
     [0.   0.   1.  ]]
    """

    def __init__(
        self,
        regularizer: Any = "gini",
        *,
        lam: float = 1e-2,
        solver: str = "lbfgs",
        fit_intercept: bool = True,
        tol: float = 1e-6,
        max_iter: int = 1000,
        random_state: Any = None,
    ):
        self.regularizer = regularizer
        self.lam = lam
        self.solver = solver
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X, y, sample_weight=None):
        """Fit the model.

        Parameters
        ----------
        X : array or sparse matrix of shape [n, num_features]
            The features.
        y : array of shape [n] or [n, k]
            Labels, or a distribution over k classes for each item.
        sample_weight : array of shape [n], optional
            Weights of the items in the mean of the losses.

        Returns
        -------
        FenchelYoungClassifier
            Itself.
        """
        problem, mean = self._problem(X, y, sample_weight)
        with _enable_x64(True):
            if self.solver == "lbfgs":
                solution = solve_lbfgs(problem, tol=self.tol, max_iter=self.max_iter)
            else:
                random = check_random_state(self.random_state)
                seed = random.randint(2**31 - 1)
                solution = solve_dual(problem, tol=self.tol, max_iter=self.max_iter, seed=seed)
        if not solution.gap <= self.tol:
            warnings.warn(
                f"{self.solver} stopped after {solution.num_iter} iterations with a duality gap "
                f"of {solution.gap:.1e}, above tol = {self.tol:.1e}: raise max_iter, tol or lam",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.coef_ = solution.table.T.copy()
        self.intercept_ = solution.intercept - mean @ solution.table
        self.objective_, self.dual_gap_ = solution.value, solution.gap
        self.n_iter_ = solution.num_iter
        return self

    def _problem(self, X, y, sample_weight):
        """Check everything; return the problem, and the mean that features were centred by."""
        regularizer = self._check_parameters()
        options = {"accept_sparse": "csr", "dtype": np.float64, "multi_output": True}
        X, y = validate_data(self, X, y, order="C", **options)
        targets = self._encode(y)
        if self.regularizer == "hinge":
            regularizer = CostAugmented(1 - targets)
        weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if not weights.sum() > 0:
            raise ValueError("sample_weight must have a positive sum, got zeros only")
        weights, mean = weights / weights.sum(), np.zeros(X.shape[1])
        if self.fit_intercept and not scipy.sparse.issparse(X):
            mean = weights @ X  # to centre features changes the intercept alone
            X = X - mean
        lam = float(self.lam)
        return _Problem(X, targets, weights, regularizer, lam, self.fit_intercept), mean

    def _check_parameters(self):
        check_choice(self.solver, ("lbfgs", "dual"), "solver")
        for name in ("lam", "tol", "max_iter"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        if self.regularizer == "hinge" and self.solver != "dual":
            raise ValueError(f"solver must be 'dual' for the hinge loss, got {self.solver!r}")
        return _as_regularizer(self.regularizer)

    def _encode(self, y):
        """Set the classes; return a distribution over them for each item."""
        if y.ndim == 2 and y.shape[1] > 1:
            targets = _check_proportions(y)
            self.classes_ = np.arange(y.shape[1])
        else:
            y = column_or_1d(y, warn=True)
            check_classification_targets(y)
            self.classes_, places = np.unique(y, return_inverse=True)
            targets = np.eye(len(self.classes_))[places]
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got one class: {self.classes_}")
        return targets

    def _scores(self, X):
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_

    def decision_function(self, X):
        """Compute the scores, an array of shape [n, k]; their difference, [n], for two classes."""
        theta = self._scores(X)
        return theta[:, 1] - theta[:, 0] if len(self.classes_) == 2 else theta

    def predict_proba(self, X):
        """Predict a distribution over the classes for each item, an array of shape [n, k]."""
        theta = self._scores(X)
        with _enable_x64(True):
            return np.asarray(_as_regularizer(self.regularizer).argmax(theta))

    def predict(self, X):
        """Predict the class of the largest score for each item, an array of shape [n]."""
        places = self._scores(X).argmax(axis=1)
        return self.classes_[places]

    def score(self, X, y, sample_weight=None):
        """Compute the accuracy; for proportions, minus the mean Jensen-Shannon divergence."""
        if np.ndim(y) == 2 and np.shape(y)[1] > 1:
            divergence = jensen_shannon(_check_proportions(y), self.predict_proba(X))
            return -float(np.average(divergence, weights=sample_weight))
        return super().score(X, y, sample_weight)


def jensen_shannon(p, q):
    """Compute the Jensen-Shannon divergence, in nats, between rows of distributions."""
    middle = 0.5 * (p + q)

    def relative_entropy(p):
        ratio = np.divide(p, middle, out=np.ones_like(middle), where=p > 0)
        return np.sum(p * np.log(ratio), axis=-1)

    return 0.5 * (relative_entropy(p) + relative_entropy(q))


def _as_regularizer(regularizer):
    if isinstance(regularizer, str):
        check_choice(regularizer, tuple(_NAMES), "regularizer")
        return _NAMES[regularizer]
    if not (isinstance(regularizer, Regularizer) and regularizer.sums_to_one):
        raise ValueError(
            f"regularizer must be one of {', '.join(map(repr, _NAMES))}, or an object of "
            f"diffopt.regularizers that predicts distributions; got {regularizer!r}"
        )
    return regularizer


def _check_proportions(y):
    y = check_array(y, dtype=np.float64)
    if (y < 0).any() or not np.allclose(y.sum(axis=1), 1, rtol=0, atol=1e-6):
        raise ValueError("y must hold class labels, or rows that are distributions over classes")
    return y / y.sum(axis=1, keepdims=True)


@jax.jit
def _mean_value(regularizer, p, weights):
    return jnp.sum(weights * regularizer.value(p))


@jax.jit
def _mean_loss(regularizer, theta, y, weights):
    """Compute the mean loss without the value of y, and the predictions."""
    losses = regularizer.max(theta) - jnp.sum(theta * y, axis=-1)
    return jnp.sum(weights * losses), regularizer.argmax(theta)


class Solution(NamedTuple):
    """A solution with its certificate."""

    table: np.ndarray  # [num_features, k]
    intercept: np.ndarray  # [k]
    value: float
    gap: float
    num_iter: int


class _Problem(NamedTuple):
    features: Any  # [n, num_features], dense or CSR
    targets: np.ndarray  # [n, k]
    weights: np.ndarray  # [n], of sum one
    regularizer: Any
    lam: float
    fit_intercept: bool

    def table(self, p):
        """Compute the coefficients that belong to dual variables."""
        return self.features.T @ (self.weights[:, None] * (self.targets - p)) / self.lam

    def value_and_gradient(self, table, intercept):
        """Compute the objective, its gradients, and the predictions."""
        theta = self.features @ table + intercept
        loss, p = _mean_loss(self.regularizer, theta, self.targets, self.weights)
        loss += _mean_value(self.regularizer, self.targets, self.weights)
        value = float(loss) + self.lam / 2 * np.sum(table**2)
        p = np.asarray(p)
        gradient = self.weights[:, None] * (p - self.targets)
        return value, (self.features.T @ gradient + self.lam * table, gradient.sum(axis=0)), p

    def gap(self, table, intercept, p):
        """Compute the duality gap as a sum of terms none of which is negative."""
        if self.fit_intercept:
            p = _balance(p, self.targets, self.weights)
        theta = self.features @ table + intercept
        loss, _ = _mean_loss(self.regularizer, theta, p, self.weights)
        loss += _mean_value(self.regularizer, p, self.weights)
        return max(float(loss), 0.0) + self.lam / 2 * np.sum((table - self.table(p)) ** 2)


def _balance(p, targets, weights):
    """Move mass between classes, the same share in each row, until the means are those of y."""
    mean, wanted = weights @ p, weights @ targets
    share = np.divide(wanted, mean, out=np.ones_like(mean), where=mean > 0)
    kept = p * np.minimum(share, 1)
    missing = np.maximum(wanted - mean, 0)
    if not missing.sum() > 0:
        return p
    return kept + (p - kept).sum(axis=1, keepdims=True) * (missing / missing.sum())


def solve_lbfgs(problem, *, tol, max_iter, callback=None):
    """Minimise the objective by L-BFGS; `callback` gets each iterate as a `Solution`."""
    shape = problem.features.shape[1] + 1, problem.targets.shape[1]
    found: list[Solution] = []
    last: dict[str, Any] = {}

    def parts(point):
        point = point.reshape(shape)
        return point[:-1], point[-1]

    def objective(point):
        value, (table, intercept), p = problem.value_and_gradient(*parts(point))
        last.update(point=point.copy(), value=value, p=p)
        gradient = np.vstack([table, intercept * problem.fit_intercept])
        return value, gradient.ravel()

    def visit(intermediate_result):
        point = intermediate_result.x
        if not np.array_equal(point, last["point"]):
            objective(point)
        gap = problem.gap(*parts(point), last["p"])
        table, intercept = (part.copy() for part in parts(point))
        found.append(Solution(table, intercept, last["value"], gap, len(found) + 1))
        if callback is not None:
            callback(found[-1])
        if gap <= tol:
            raise StopIteration

    start = point = np.zeros(shape).ravel()
    for _ in range(3):  # the line search may fail near the solution: forget the history
        options = {"maxiter": max_iter - len(found), "ftol": 0, "gtol": 0, "maxcor": 20}
        options |= {"maxfun": 10 * max_iter}
        point = scipy.optimize.minimize(
            objective, point, jac=True, method="L-BFGS-B", callback=visit, options=options
        ).x
        if len(found) == max_iter or (found and found[-1].gap <= tol):
            break
    if not found:  # zero is the solution, or no step could be made from it
        (table, intercept), (value, _, p) = parts(start), problem.value_and_gradient(*parts(start))
        return Solution(table, intercept, value, problem.gap(table, intercept, p), 1)
    return min(found[-2:], key=lambda solution: solution.gap)


def solve_dual(problem, *, tol, max_iter, seed=0, callback=None):
    """Maximise the dual objective by block-coordinate ascent; options as above."""
    from diffopt.kernels.ascent import ascend

    n, k = problem.targets.shape
    rows, squares = _rows(problem.features)
    scale = 0.3 * (problem.weights @ squares)  # the proximal term is about as steep as the rest
    inverse_rho = float(problem.fit_intercept) * (scale if scale > 0 else 1.0) / problem.lam
    p, intercept = problem.targets.copy(), np.zeros(k)
    table = np.zeros((problem.features.shape[1], k))
    rng, (order, costs) = np.random.default_rng(seed), _order(problem)
    for num_iter in range(1, max_iter + 1):
        places = rng.permutation(n)
        settings = problem.lam, inverse_rho, order
        ascend(places, rows, costs, squares, problem.weights, *settings, p, table, intercept)
        table = problem.table(p)
        value = problem.value_and_gradient(table, intercept)[0]
        gap = problem.gap(table, intercept, p)
        solution = Solution(table.copy(), intercept.copy(), value, gap, num_iter)
        if callback is not None:
            callback(solution)
        if gap <= tol:
            break
        # the proximal term of the intercept moves to where the intercept is
        intercept += inverse_rho * (problem.weights @ (problem.targets - p))
    return solution


def _rows(features):
    """Give the features in compressed rows and the squared norms of those."""
    if scipy.sparse.issparse(features):
        squares = np.asarray(features.multiply(features).sum(axis=1), float).ravel()
        return (features.indptr, features.indices, features.data), squares
    starts = np.arange(len(features) + 1) * features.shape[1]
    squares = np.einsum("ij,ij->i", features, features)
    return (starts, np.zeros(0, np.int64), np.ascontiguousarray(features).ravel()), squares


def _order(problem):
    """Give the order of the Tsallis entropy and the costs, which a proximity operator knows."""
    from diffopt.kernels.ascent import NO_ENTROPY

    regularizer, shape = problem.regularizer, problem.targets.shape
    if isinstance(regularizer, Tsallis) and np.ndim(regularizer.alpha) == 0:
        return float(regularizer.alpha), np.zeros((0, shape[1]))
    if isinstance(regularizer, CostAugmented):
        return NO_ENTROPY, np.array(np.broadcast_to(regularizer.cost, shape), float)
    raise ValueError(
        "regularizer must be 'hinge' or a Tsallis entropy of one order for solver='dual', got "
        f"{regularizer!r}; solver='lbfgs' takes any"
    )
