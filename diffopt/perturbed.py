r"""Perturbed optimizers: any solver as a layer, by averaging over noise.

For a solver :math:`y^*(\theta) \in \operatorname*{argmax}_{y \in \mathcal{Y}} \langle y,
\theta\rangle` and noise Z,

.. math::

    F_\sigma(\theta) = \mathbb{E} \max_{y \in \mathcal{Y}}\,\langle y, \theta + \sigma Z\rangle,
    \qquad y_\sigma(\theta) = \mathbb{E}\, y^*(\theta + \sigma Z) = \nabla F_\sigma(\theta)

are smooth, and calls of the solver estimate them and their derivatives. Nothing is asked of the
solver itself: it may be a black box on the host (:func:`~diffopt.host_argmax`). Berthet et al.
:cite:p:`berthet2020learning`. Chapter: :ref:`perturbed`.

The three functions here share their options. Scores `theta` and solutions may be pytrees. An entry
of `theta` at minus infinity is never perturbed and has no gradient; solvers take it as forbidden.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffopt.checks import as_float, as_mask, check_choice, check_positive, working_dtype
from diffopt.estimators import (
    Law,
    centered,
    jacobian_moments,
    linear_control,
    linear_fit,
    log_weight,
    mean_max,
    perturb,
    safe_dot,
    scores,
    weighted_mean,
)
from diffopt.host import host_argmax
from diffopt.noise import as_noise, check_sampling, draw, group_size
from diffopt.oracles import grid_shortest_path

__all__ = [
    "PerturbedInfo",
    "grid_shortest_path",
    "host_argmax",
    "perturbed_argmax",
    "perturbed_fenchel_young_loss",
    "perturbed_max",
]


class PerturbedInfo(NamedTuple):
    """How good an estimate is, and what it cost.

    To divide the standard error by c, take :math:`c^2` times as many samples.
    """

    standard_error: Any
    """Standard error of each entry of the result; NaN where there is one group of samples only."""
    num_samples: int
    """Calls of the solver for each instance."""
    num_groups: int
    """Groups of samples that are independent of each other."""
    derivative_error: Any = None
    """Standard error of the estimated derivative in `theta`, with ``return_info="derivative"``: of
    each entry of the Jacobian of a mean answer, of the gradient of a maximum or a loss. With the
    linear baseline and Sobol nets it is on the safe side."""


def perturbed_argmax(argmax_fn, *, sigma=1.0, num_samples=100, noise="gumbel", **options):
    r"""Build the mean of a solver's answers to perturbed scores, with its derivatives.

    .. math::

        y_\sigma(\theta) = \mathbb{E}\,\operatorname*{argmax}_{y \in \mathcal{Y}} \;
        \langle y, \theta + \sigma Z\rangle

    Parameters
    ----------
    argmax_fn : function
        The solver: from the scores of one instance, an array or a pytree, to an answer, an array or
        pytree of numbers. It is mapped over samples by ``vmap`` and never differentiated.
    sigma : positive float or scalar array, default 1
        Scale of the noise; may be traced and differentiated.
    num_samples : int, default 100
        Calls of the solver for each instance.
    noise : {"gumbel", "normal", "logistic", "laplace"}, pair, or Noise
        Distribution of Z. A pair is ``(sample, log_density)``, as in
        :class:`~diffopt.noise.Noise`; there the scores of an instance are one vector.
    sampling : {"independent", "antithetic", "sobol"}
        How samples are drawn: each alone; in pairs that mirror each other, with an even
        `num_samples`; or as scrambled Sobol nets, four of them where `num_samples` is a multiple
        of four, best for powers of two. All are unbiased.
    baseline : bool or "linear", default True
        Subtract from each answer the mean over all samples independent of it, in derivatives only.
        If there are none, the answer without noise is taken, by one more call. ``"linear"``
        subtracts also a linear function of the noise, fitted to the samples independent of it, in
        the Jacobian of a mean answer in `theta`; it is unbiased, and pays where there are more
        samples than scores, above all with Sobol nets.
    multiplicative : bool, default False
        Perturb to :math:`\theta_i \, e^{\sigma Z_i - \sigma^2/2}`, of mean :math:`\theta_i`: scores
        keep their signs. Normal noise only; a score of 0 stays.
    batch_ndim : int, default 0
        Number of leading axes of every array of `theta` and of the answers that are batches. Each
        instance has its own noise.
    chunk_size : int, optional
        Solve this many samples at a time, a divisor of `num_samples`. Memory does not grow with
        `num_samples`; a derivative takes three passes over the samples.
    sharding : jax.sharding.NamedSharding, optional
        Of the array of samples, ``(num_samples, n)``: its first axis may be split over devices,
        along automatic axes of a mesh.
    return_info : bool or "derivative", default False
        Return ``(answer, info)``, with the standard error of every entry in a
        :class:`PerturbedInfo`. ``"derivative"`` gives also that of the derivative in `theta`, for a
        mean answer an array as large as its Jacobian. (For the gradient of a function of the answer
        of a large problem, split the samples over a few keys and compare.)

    Returns
    -------
    function
        ``f(key, theta, *, where=None)``. The mean answer has the structure and shapes of an answer,
        in the floating types of `theta`. A mask `where`, one array or a pytree like `theta`, turns
        the other scores into minus infinity.

    Raises
    ------
    TypeError
        If an argument has the wrong type, or an option is unknown.
    ValueError
        If `sigma` is not positive, a number does not fit `num_samples`, or a choice is none.

    Notes
    -----
    `num_samples` calls of the solver. With the density :math:`p \propto e^{-\nu}` of Z,

    .. math::

        \partial y_\sigma(\theta) = \frac1\sigma\,\mathbb{E}\,
        y^*(\theta + \sigma Z)\, \nabla\nu(Z)^\top ,

    and likewise in `sigma` and for higher orders, estimated without bias by the samples of the
    value, in forward and reverse mode. With a baseline the estimate is exactly zero where all
    samples have the same answer, as they have for small `sigma` away from ties. Berthet et al.
    :cite:p:`berthet2020learning`, proposition 3.1. Chapter: :ref:`perturbed`.

    Examples
    --------
    With Gumbel noise, the perturbed argmax is the softmax:

    >>> import jax, jax.numpy as jnp
    >>> from diffopt import oracles, perturbed_argmax
    >>> f = perturbed_argmax(oracles.argmax, sigma=0.5, num_samples=4096, sampling="sobol")
    >>> theta = jnp.array([0.3, 0.0, -0.4])
    >>> gap = f(jax.random.key(0), theta) - jax.nn.softmax(theta / 0.5)
    >>> print(bool(abs(gap).max() < 0.005))
    True
    """
    setup = _Setup(argmax_fn, sigma, num_samples, noise, **options)

    def perturbed(key, theta, *, where=None):
        return setup.over_batch(functools.partial(_argmax, setup), key, theta, where)

    return perturbed


def perturbed_max(argmax_fn, *, sigma=1.0, num_samples=100, noise="gumbel", **options):
    r"""Build the mean of the maxima under perturbed scores, a smooth maximum.

    .. math::

        F_\sigma(\theta) = \mathbb{E}\,\max_{y \in \mathcal{Y}} \;
        \langle y, \theta + \sigma Z\rangle

    Parameters
    ----------
    argmax_fn : function
        The solver; its answers have the structure and shapes of `theta`.
    sigma, num_samples, noise, **options
        As in :func:`perturbed_argmax`.

    Returns
    -------
    function
        ``f(key, theta, *, where=None)``, a number for each instance.

    Raises
    ------
    TypeError, ValueError
        As in :func:`perturbed_argmax`; and if an answer has not the shape of `theta`.

    Notes
    -----
    `num_samples` calls of the solver. The gradient in `theta` is the mean answer, that in `sigma`
    is :math:`\mathbb{E}\langle y^*(\theta + \sigma Z), Z\rangle`, and the Hessian is the Jacobian
    of :func:`perturbed_argmax`. Berthet et al. :cite:p:`berthet2020learning`, section 2. Chapter:
    :ref:`perturbed`.

    Examples
    --------
    With Gumbel noise, it is a log-sum-exp plus Euler's constant:

    >>> import jax, jax.numpy as jnp
    >>> from diffopt import oracles, perturbed_max
    >>> f = perturbed_max(oracles.argmax, num_samples=4096, sampling="sobol")
    >>> theta = jnp.array([0.3, 0.0, -0.4])
    >>> gap = f(jax.random.key(0), theta) - jax.nn.logsumexp(theta) - jnp.euler_gamma
    >>> print(bool(abs(gap) < 0.01))
    True
    """
    setup = _Setup(argmax_fn, sigma, num_samples, noise, **options)

    def perturbed(key, theta, *, where=None):
        return setup.over_batch(functools.partial(_max, setup), key, theta, where)

    return perturbed


def perturbed_fenchel_young_loss(
    argmax_fn, *, sigma=1.0, num_samples=100, noise="gumbel", **options
):
    r"""Build the Fenchel-Young loss of a perturbed optimizer: value and gradient, both unbiased.

    .. math::

        L_\sigma(\theta; y) = F_\sigma(\theta) + \sigma\,\Omega(y) - \langle\theta, y\rangle
        = \mathbb{E}\,\langle y^*(\theta + \sigma Z) - y, \; \theta + \sigma Z\rangle \ge 0 ,

    where the second form, the mean regret of the answer y, holds for y in :math:`\mathcal{Y}`.

    Parameters
    ----------
    argmax_fn : function
        The solver; its answers have the structure and shapes of `theta`.
    sigma, num_samples, noise, **options
        As in :func:`perturbed_argmax`.

    Returns
    -------
    function
        ``loss(key, theta, y, *, where=None)``, a number for each instance. The target y has the
        structure of `theta`. Where it is a mean of answers the value lacks a constant, and the
        gradient in `theta` is right.

    Raises
    ------
    TypeError, ValueError
        As in :func:`perturbed_argmax`; and if an answer or y has not the shape of `theta`.

    Notes
    -----
    `num_samples` calls of the solver, one being enough to train. The gradient in `theta` is the
    mean answer minus y, bounded for any `sigma`; nothing is differentiated. No sample contributes a
    negative value. Berthet et al. :cite:p:`berthet2020learning`, section 4. Chapter:
    :ref:`perturbed`.

    Examples
    --------
    With Gumbel noise and one-hot labels, it is the cross-entropy:

    >>> import jax, jax.numpy as jnp
    >>> from diffopt import oracles, perturbed_fenchel_young_loss
    >>> loss = perturbed_fenchel_young_loss(oracles.argmax, num_samples=4096, sampling="sobol")
    >>> theta, y = jnp.array([0.3, 0.0, -0.4]), jnp.array([0.0, 1.0, 0.0])
    >>> gap = loss(jax.random.key(0), theta, y) + jax.nn.log_softmax(theta)[1]
    >>> print(bool(abs(gap) < 0.01))
    True
    """
    setup = _Setup(argmax_fn, sigma, num_samples, noise, **options)

    def loss(key, theta, y, *, where=None):
        y = jax.tree.map(lambda leaf: as_float(leaf, "y"), y)
        _check_like(y, theta, "y")
        return setup.over_batch(functools.partial(_loss, setup), key, theta, where, y)

    return loss


# ------------------------------------------------------------------------------------- one instance


def _argmax(setup, key, theta):
    instance = _Instance(setup, theta)

    def summary(z, p, y, y_centered):
        mean = weighted_mean(instance.log_weight(z), y, y_centered)
        if setup.baseline == "linear":
            score = instance.scores(z)
            fit = setup.linear_fit(instance, z, score, y_centered)
            mean += linear_control(instance.theta, score, y_centered, *fit)
        return mean

    def moments(z, y_centered):
        score = instance.scores(z)
        if setup.baseline == "linear":
            y_centered = y_centered - setup.linear_fit(instance, z, score, y_centered)[0]
        return jacobian_moments(score, y_centered, setup.size)

    mean, error, jacobian = setup.estimate(key, instance, summary, lambda z, p, y: y, moments)
    answer, error = (_unflatten(x, instance.answer, instance.dtype) for x in (mean, error))
    if jacobian is not None:
        jacobian = _unflatten_matrix(jacobian, instance.answer, instance.like, instance.dtype)
    return setup.with_info(answer, error, jacobian)


def _max(setup, key, theta):
    instance = _Instance(setup, theta)
    _check_like(instance.answer, theta, "the answer of argmax_fn")

    def summary(z, p, y, y_centered):
        return mean_max(setup.law, instance.theta, instance.sigma, z, y, y_centered)[None]

    def values(z, p, y):
        return setup.with_gradients(safe_dot(y, p)[:, None], instance, z, y)

    return setup.number(instance, *setup.estimate(key, instance, summary, values))


def _loss(setup, key, theta, y):
    instance = _Instance(setup, theta)
    _check_like(instance.answer, theta, "the answer of argmax_fn")
    target = _flatten(y, instance.theta.dtype)

    def regret(p, y):
        return safe_dot(y - target[None], p)[:, None]

    def summary(z, p, y, y_centered):
        smooth = mean_max(setup.law, instance.theta, instance.sigma, z, y, y_centered)
        linear = (target * instance.mean_of_perturbed(z)).sum()
        return jax.lax.stop_gradient(regret(p, y).mean(0)) + _only_tangent(smooth - linear)

    def values(z, p, y):
        return setup.with_gradients(regret(p, y), instance, z, y)

    return setup.number(instance, *setup.estimate(key, instance, summary, values))


def _only_tangent(x):
    return jnp.where(jnp.isfinite(x), x - jax.lax.stop_gradient(x), 0)


class _Instance:
    """The scores of one instance as a vector, and the solver on many such vectors."""

    def __init__(self, setup, theta):
        self.law = setup.law
        self.dtype = jnp.result_type(*jax.tree.leaves(theta))
        dtype = working_dtype(self.dtype)
        self.theta = _flatten(theta, dtype)
        self.sigma = jnp.asarray(setup.sigma).astype(dtype)
        self.like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), theta)
        self.answer = jax.eval_shape(setup.argmax_fn, self.like)

        def solve_one(p):
            return _flatten(setup.argmax_fn(_unflatten(p, self.like, dtype)), dtype)

        self.solve = jax.vmap(solve_one)

    def log_weight(self, z):
        return log_weight(self.law, self.theta, self.sigma, z)

    def scores(self, z):
        return scores(self.law, self.theta, self.sigma, z)

    def gradients(self, z, y):
        """Gradient of the maximum for each sample."""
        if not self.law.multiplicative:
            return y
        return y * jnp.exp(self.sigma * z - self.sigma**2 / 2)

    def mean_of_perturbed(self, z):
        """Mean of the perturbed scores, exact where the mean of the noise is known."""
        theta = jnp.where(jnp.isfinite(self.theta), self.theta, 0)
        if self.law.multiplicative:
            return theta
        mean = self.law.noise.mean
        return theta + self.sigma * (z.mean(0) if mean is None else mean)


def _flatten(tree, dtype):
    return jnp.concatenate([jnp.ravel(leaf).astype(dtype) for leaf in jax.tree.leaves(tree)])


def _unflatten(vector, like, dtype):
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(vector.astype(dtype), ends)
    parts = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(structure, parts)


def _unflatten_matrix(matrix, rows, columns, dtype):
    """Turn a matrix into the structure of a Jacobian."""
    leaves, structure = jax.tree.flatten(rows)
    parts = jnp.split(matrix, np.cumsum([leaf.size for leaf in leaves])[:-1])
    by_row = jax.vmap(lambda row: _unflatten(row, columns, dtype))
    blocks = [
        jax.tree.map(lambda x, leaf=leaf: x.reshape(*leaf.shape, *x.shape[1:]), by_row(part))
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, blocks)


def _check_like(tree, theta, name):
    found, wanted = (jax.tree.map(jnp.shape, t) for t in (tree, theta))
    if found != wanted:
        raise ValueError(f"{name} must have the shape of theta, {wanted}, got {found}")


# --------------------------------------------------------------------------------- options, samples


@dataclasses.dataclass(frozen=True, eq=False)
class _Setup:
    """What the three functions share: the options, their checks, and the estimate itself."""

    argmax_fn: Callable
    sigma: Any
    num_samples: int
    noise: Any
    sampling: str = "independent"
    baseline: bool | str = True
    multiplicative: bool = False
    batch_ndim: int = 0
    chunk_size: int | None = None
    sharding: Any = None
    return_info: bool | str = False

    def __post_init__(self):
        if not callable(self.argmax_fn):
            raise TypeError(f"argmax_fn must be a function of theta, got {self.argmax_fn!r}")
        if jnp.shape(self.sigma) != ():
            raise ValueError(f"sigma must be a scalar, got shape {jnp.shape(self.sigma)}")
        check_positive(self.sigma, "sigma")
        for name, least in (("num_samples", 1), ("batch_ndim", 0)):
            _check_integer(getattr(self, name), name, least)
        if self.chunk_size is not None:
            _check_integer(self.chunk_size, "chunk_size", 1)
            if self.num_samples % self.chunk_size:
                raise ValueError(
                    f"chunk_size must divide num_samples, {self.num_samples}, got {self.chunk_size}"
                )
        if self.multiplicative and self.noise != "normal":
            raise ValueError(f"multiplicative noise must be 'normal', got {self.noise!r}")
        check_sampling(self.sampling, self.law.noise, self.chunk_size or self.num_samples)
        check_choice(self.baseline, (True, False, "linear"), "baseline")
        check_choice(self.return_info, (True, False, "derivative"), "return_info")
        if self.baseline == "linear":
            self.check_linear()

    def check_linear(self):
        """Raise unless a linear function of the noise can be fitted and has a known mean."""
        if self.multiplicative or self.law.noise.mean is None:
            raise ValueError("baseline 'linear' needs additive noise of a known mean")
        if self.num_samples // self.chunks == self.size:
            raise ValueError(
                "baseline 'linear' needs two independent groups of samples in a chunk; take "
                f"another sampling than {self.sampling!r}, or other sizes"
            )

    @functools.cached_property
    def law(self):
        return Law(as_noise(self.noise), self.multiplicative)

    @property
    def chunks(self):
        return 1 if self.chunk_size is None else self.num_samples // self.chunk_size

    @property
    def size(self):
        """Samples in a group."""
        if self.sampling == "sobol" and self.chunks > 1:
            return self.chunk_size
        return group_size(self.sampling, self.num_samples)

    def over_batch(self, one, key, theta, where, *rest):
        """Apply `one` to each instance, with a key of its own."""
        theta = jax.tree.map(lambda leaf: as_float(leaf, "theta"), theta)
        leaves = jax.tree.leaves(theta)
        batches = {leaf.shape[: self.batch_ndim] for leaf in leaves}
        if len(batches) != 1 or min(leaf.ndim for leaf in leaves) < self.batch_ndim:
            raise ValueError(
                f"theta must have {self.batch_ndim} leading axes of batches in common, got shapes "
                f"{[leaf.shape for leaf in leaves]}; change batch_ndim"
            )
        if where is not None:
            theta = _mask(theta, where)
        if self.batch_ndim:
            key = jax.random.split(key, batches.pop())
        for _ in range(self.batch_ndim):
            one = jax.vmap(one)
        return one(key, theta, *rest)

    def samples(self, key, instance):
        """Draw noise, perturb and solve; return noise, perturbed scores and answers."""
        groups = self.num_samples // self.chunks // self.size
        theta, sigma = jax.lax.stop_gradient((instance.theta, instance.sigma))
        shape = groups, self.size, theta.size, theta.dtype
        z = draw(self.law.noise, self.sampling, key, *shape)
        if self.sharding is not None:
            z = jax.lax.with_sharding_constraint(z, self.sharding)
        p = perturb(self.law, theta, sigma, z)
        return z, p, jax.lax.stop_gradient(instance.solve(p))

    def linear_fit(self, instance, z, score, y_centered):
        sigma = jax.lax.stop_gradient(instance.sigma)
        return linear_fit(self.law.noise, sigma, z, score, y_centered, self.size)

    def estimate(self, key, instance, summary, values, moments=None):
        """Mean over samples, its standard error, and that of its Jacobian where it is wanted.

        `summary` makes the estimate of one chunk, with its derivatives, `values` gives the value of
        each sample, and `moments` the sums over groups of estimates of the Jacobian.
        """
        groups = self.num_samples // self.size
        if self.return_info != "derivative":
            moments = None

        def means(z, p, y):
            return jax.lax.stop_gradient((y.mean(0), values(z, p, y).mean(0)))

        def estimate(samples, mean):
            z, p, y = samples
            base = mean[0]
            if groups == 1 and self.baseline:
                base = jax.lax.stop_gradient(instance.solve(instance.theta[None])[0])
            y_centered = centered(y, base, groups, self.size) if self.baseline else y
            each = values(z, p, y).reshape(-1, self.size, mean[1].size).mean(1)
            spread = jnp.square(each - mean[1][None]).mean(0)
            squares = None if moments is None else moments(z, y_centered)
            return summary(z, p, y, y_centered), jax.lax.stop_gradient((spread, squares))

        if self.chunks == 1:
            samples = self.samples(key, instance)
            found, (spread, squares) = estimate(samples, means(*samples))
        else:
            keys = jax.random.split(key, self.chunks)
            mean = _mean_over(keys, lambda key: means(*self.samples(key, instance)))
            step = jax.checkpoint(lambda key: estimate(self.samples(key, instance), mean))
            found, (spread, squares) = _mean_over(keys, step)
        of_mean = lambda variance: jnp.sqrt(variance / (groups - 1 or jnp.nan))
        if squares is not None:
            mean, square = (total * self.chunks / groups for total in squares)
            squares = of_mean(jnp.maximum(square - jnp.square(mean), 0))
        return found, of_mean(spread), squares

    def with_gradients(self, numbers, instance, z, y):
        """Numbers, one for each sample, and beside them their gradients where errors are wanted."""
        if self.return_info != "derivative":
            return numbers
        return jnp.concatenate([numbers, instance.gradients(z, y)], 1)

    def number(self, instance, mean, error, _):
        """Return the first entry, a number; the errors of the others are those of its gradient."""
        mean, error = mean[0].astype(instance.dtype), error.astype(instance.dtype)
        gradient = None
        if self.return_info == "derivative":
            gradient = _unflatten(error[1:], instance.like, instance.dtype)
        return self.with_info(mean, error[0], gradient)

    def with_info(self, result, error, derivative_error):
        """Return the result, or the result and its info."""
        if not self.return_info:
            return result
        groups = self.num_samples // self.size
        return result, PerturbedInfo(error, self.num_samples, groups, derivative_error)


def _mean_over(keys, function):
    """Mean of a function of a key, one key after the other."""
    shapes = jax.eval_shape(function, keys[0])
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    step = lambda total, key: (jax.tree.map(jnp.add, total, function(key)), None)
    total, _ = jax.lax.scan(step, zero, keys)
    return jax.tree.map(lambda x: x / len(keys), total)


def _mask(theta, where):
    """Set the scores outside the mask to minus infinity."""
    if str(jax.tree.structure(where)) != str(jax.tree.structure(theta)):
        where = jax.tree.map(lambda leaf: where, theta)
    forbid = lambda leaf, kept: jnp.where(as_mask(kept, leaf.shape, "theta"), leaf, -jnp.inf)
    return jax.tree.map(forbid, theta, where)


def _check_integer(value, name, least):
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
