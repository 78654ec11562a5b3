"""Prediction maps on the simplex: one scalar equation a row, and derivatives in closed form.

Each map is decided by one number a row, a threshold, which is the root of a decreasing function.
All rows are solved at once by a safeguarded Newton method in plain XLA operations: no sort is
needed. Where the function is convex, Newton's iterates rise towards the root and need no
safeguard; where it is piecewise linear besides, they reach it in finitely many steps.

Data lie along the last axis. A score of minus infinity takes no part, and without any other the
result is zero. Derivatives are written in terms of the probabilities p alone, and so can be
differentiated again.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from diffopt.kernels import simplices
from diffopt.kernels.simplices import exp_weights, total

__all__ = ["center", "entmax", "label_loss", "normmax", "renyimax", "squared_normmax", "total"]

_MAX_ITER = 200  # of a bisection in double precision, and to spare
_TINY = 1e-30  # an order of 1 + _TINY is 1


def center(theta):
    """Subtract each row's maximum; where that is infinite, only the maximal scores take part."""
    top = jax.lax.stop_gradient(theta.max(-1, keepdims=True, initial=-jnp.inf))
    all_dropped, infinite = top == -jnp.inf, jnp.where(top == jnp.inf, top, jnp.nan)
    return jnp.where(theta == infinite, 0, theta - jnp.where(all_dropped, 0, top))


def _normalize(x):
    mass = total(x)
    return x / jnp.where(mass == 0, 1, mass)


def _count(u):
    return jnp.maximum(total((u > -jnp.inf).astype(u.dtype)), 1)


def _solve(function, low, high, convex):
    """Root of a decreasing function by Newton from `low`, with bisection unless it is `convex`.

    `function` gives its value and the Newton step. A step must stay in the bracket and be at most
    half of the last one; otherwise the bracket is halved.
    """
    epsilon = jnp.finfo(low.dtype).eps

    def improve(state):
        t, low, high, last, _, count = state
        value, step = function(t)
        low, high = jnp.where(value >= 0, t, low), jnp.where(value <= 0, t, high)
        good = (t + step >= low) & (t + step <= high) & (convex | (2 * abs(step) <= last))
        new = jnp.where(good, t + step, low + (high - low) / 2)
        moved = abs(new - t)
        going = (moved > epsilon * abs(t)) & (abs(value) > 4 * epsilon)
        return jnp.where(going, new, t), low, high, moved, going.any(), count + 1

    start = (low, low, high, high - low, jnp.any(low < high), 0)
    return jax.lax.while_loop(lambda s: s[4] & (s[5] < _MAX_ITER), improve, start)[0]


def _positive_power(a, r):
    """Powers of the positive entries; zero elsewhere, also for r <= 0. A NaN stays."""
    inside = a > 0
    return jnp.where(inside, jnp.where(inside, a, 1) ** r, jnp.where(a <= 0, 0, a))


# --- Tsallis entropies ----------------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def entmax(theta, alpha, kind):
    r"""Maximise :math:`\langle\theta, p\rangle` minus the Tsallis negentropy of order alpha >= 1.

    `kind` is the order where that is 1, 1.5 or 2 and known when compiling, else 0.
    """
    if kind == 1:
        return exp_weights(theta, jnp.ones((1,) * theta.ndim, theta.dtype), False)
    u = center(theta)
    if kind == 0:
        return _normalize(_deformed(u, jnp.maximum(alpha - 1, _TINY)))
    power, z = (1, u) if kind == 2 else (2, u / 2)

    def function(t):
        a = jnp.maximum(z - t, 0)
        norm = total(a) if power == 1 else jnp.sqrt(total(a * a))
        slope = total((a > 0).astype(a.dtype)) if power == 1 else total(a) / norm
        return norm - 1, (norm - 1) / slope

    count = _count(u)
    t = _solve(function, -jnp.ones_like(count), -(count ** (-1 / power)), True)
    return _normalize(jnp.maximum(z - t, 0) ** power)


@jax.custom_jvp
def label_loss(theta, y):
    """Logistic loss of one-hot rows y, and what is zero only where y is one-hot; of size 1 each."""
    return simplices.label_loss(theta, y)


@functools.partial(label_loss.defjvp, symbolic_zeros=True)
def _label_loss_jvp(primals, tangents):
    theta, y = primals
    loss, odd = label_loss(theta, y)
    moved = jnp.zeros_like(loss)
    if not isinstance(tangents[0], SymbolicZero):
        p = entmax(theta, jnp.ones((), theta.dtype), 1)
        moved = moved + ((p - y) * tangents[0]).sum(-1, keepdims=True)
    if not isinstance(tangents[1], SymbolicZero):
        slope = jnp.where(y > 0, jnp.log(jnp.where(y > 0, y, 1)) + 1 - center(theta), 0)
        moved = moved + (slope * tangents[1]).sum(-1, keepdims=True)
    return (loss, odd), (moved, jnp.zeros_like(odd))


def _deformed(u, eta):
    r"""Ratios to the largest probability, :math:`e^{-w}`: :math:`[1 + \eta u e^{\eta w}]^{1/\eta}`.

    With S the sum of the probabilities, :math:`(S^\eta - 1)/\eta` is convex in
    :math:`e^{-\eta w}` for eta <= 1, a norm, and linear in w for eta = 0: its Newton step is taken.
    """
    most = 0.9 * jnp.log(jnp.finfo(u.dtype).max)

    def ratios(w):
        x = jnp.maximum(eta * jnp.exp(jnp.minimum(eta * w, most)) * u, -1)
        return x, jnp.exp(jnp.log1p(x) / eta)

    def function(w):
        x, ratio = ratios(w)
        inside = x > -1
        mass = total(ratio)
        slope = total(jnp.where(inside, ratio / jnp.where(inside, 1 + x, 1), 0)) / mass
        value = jnp.log(mass) - w
        return value, -jnp.log1p(jnp.expm1(-eta * value) / slope) / eta

    count = _count(u)
    return ratios(_solve(function, jnp.zeros_like(count), jnp.log(count), False))[1]


@functools.partial(entmax.defjvp, symbolic_zeros=True)
def _entmax_jvp(kind, primals, tangents):
    theta, alpha = primals
    p = entmax(theta, alpha, kind)
    dtheta, dalpha = tangents
    if kind == 1:
        if isinstance(dtheta, SymbolicZero):
            return p, jnp.zeros_like(p)
        moved = jnp.where(p > 0, dtheta, 0)
        return p, p * (moved - (p * moved).sum(-1, keepdims=True))
    weights = _sensitivity(p, alpha, kind)
    moved = jnp.zeros_like(p)
    if not isinstance(dtheta, SymbolicZero):
        moved = moved + weights * jnp.where(weights > 0, dtheta, 0)
    if not isinstance(dalpha, SymbolicZero):
        moved = moved + _bend(p, alpha) * dalpha
    mass = total(weights)
    return p, moved - weights * (total(moved) / jnp.where(mass == 0, 1, mass))


def _sensitivity(p, alpha, kind):
    """Powers 2 - alpha on the support: the inverse of the entropy's second derivative."""
    if kind == 2:
        return jnp.sign(p)
    if kind == 1.5:
        return _positive_power(p, 0.5)
    inside = p > 0
    limit = -0.4 * jnp.log(jnp.finfo(p.dtype).tiny)
    power = (2 - alpha) * jnp.log(jnp.where(inside, p, 1))
    return jnp.where(inside, jnp.exp(jnp.minimum(power, limit)), jnp.where(p <= 0, 0, p))


def _bend(p, alpha):
    """Derivative of p in alpha at a fixed threshold."""
    inside = p > 0
    log = jnp.log(jnp.where(inside, p, 1))
    return jnp.where(inside, -p * log**2 * remainder(jnp.maximum(alpha - 1, _TINY) * log), 0)


def remainder(v):
    r"""Compute :math:`(e^{-v} - 1 + v) / v^2` without cancellation at zero."""
    small = abs(v) < 0.25
    near, far = jnp.where(small, v, 0), jnp.where(small, 1, v)
    series = jnp.zeros_like(v)
    for k in range(13, 1, -1):
        series = (1 - near * series) / k
    return jnp.where(small, series, (jnp.expm1(-far) + far) / far**2)


# --- entropies made of norms, of logarithms of norms ----------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def normmax(theta, q):
    r"""Maximise :math:`\langle\theta, p\rangle - \|p\|_q` over the simplex.

    p is proportional to :math:`[\theta - t]_+^{1/(q-1)}`, with t such that the dual norm of
    :math:`[\theta - t]_+` is one; that norm is convex in t.
    """
    u, dual = center(theta), 1.0 if q == jnp.inf else q / (q - 1)

    def function(t):
        a = jnp.maximum(u - t, 0)
        power = _positive_power(a, dual - 1)
        norm = total(power * a) ** (1 / dual)
        return norm - 1, (norm - 1) * norm ** (dual - 1) / total(power)

    count = _count(u)
    t = _solve(function, -jnp.ones_like(count), -(count ** (-1 / dual)), True)
    return _normalize(_positive_power(1 - u / t, dual - 1))


@normmax.defjvp
def _normmax_jvp(q, primals, tangents):
    p = normmax(*primals, q)
    if q == jnp.inf:
        return p, jnp.zeros_like(p)
    dtheta = jnp.where(p > 0, tangents[0], 0)
    dtheta = dtheta - total(p * dtheta)
    top = _largest(p)  # the weights have degree one: scale p to a largest entry of one
    moved = _positive_power(p / top, 2 - q) * _norm(p / top, q) ** (q - 1) * top * dtheta
    return p, (moved - p * total(moved)) / (q - 1)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def squared_normmax(theta, q):
    r"""Maximise :math:`\langle\theta, p\rangle - \tfrac12 \|p\|_q^2` over the simplex.

    With r = 1 / (q - 1) and :math:`a = [\theta - t]_+`, p is proportional to :math:`a^r`, and
    :math:`\|a\|_{1+r}^{1-r} \sum_i a_i^r = 1`, the derivative of a convex function of t.
    """
    u, r = center(theta), 1 / (q - 1)

    def function(t):
        a = jnp.maximum(1 - u / t, 0)  # the equation has degree one in a
        power = _positive_power(a, r)
        mass, norm = total(power), total(power * a) ** (1 / (1 + r))
        slope = (1 - r) * (mass / norm**r) ** 2
        slope += r * norm ** (1 - r) * total(_positive_power(a, r - 1))
        value = -t * norm ** (1 - r) * mass - 1
        return value, value / slope

    count = _count(u)
    t = _solve(function, -jnp.ones_like(count), -(count ** (-2 / (1 + r))), False)
    return _normalize(_positive_power(1 - u / t, r))


@squared_normmax.defjvp
def _squared_normmax_jvp(q, primals, tangents):
    p = squared_normmax(*primals, q)
    dtheta = jnp.where(p > 0, tangents[0], 0)
    top = _largest(p)
    norm, diagonal = _norm(p / top, q), _positive_power(p / top, 2 - q)

    def inverse_hessian(x):
        along = (2 - q) / norm**2 * (p / top) * total(p / top * x)
        return (norm ** (q - 2) * diagonal * x - along) / (q - 1)

    moved, ones = inverse_hessian(dtheta), inverse_hessian(jnp.where(p > 0, 1, jnp.zeros_like(p)))
    mass = total(ones)
    return p, moved - ones * (total(moved) / jnp.where(mass == 0, 1, mass))


def _largest(p):
    top = jax.lax.stop_gradient(p.max(-1, keepdims=True, initial=0))
    return jnp.where(top == 0, 1, top)


def _norm(p, q):
    power = total(_positive_power(p, q))
    return jnp.where(power == 0, 1, power) ** (1 / q)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def renyimax(theta, order):
    r"""Maximise :math:`\langle\theta, p\rangle` plus the Rényi entropy of an order below one.

    With s = 1 / (1 - order), p is proportional to :math:`(b - u)^{-s}` for the b > 0 at which the
    mean of b - u under p is s - 1. The equation is solved for the logarithm of b.
    """
    u, s = center(theta), 1 / (1 - order)
    inside = u > -jnp.inf

    def function(t):
        b = jnp.exp(t)
        log = jnp.log1p(-u / b)
        weights, ratio = jnp.exp(-s * log), jnp.where(inside, jnp.exp(log), 1)
        mass = total(weights)
        mean = total(weights * ratio) / mass
        slope = (1 - s) / mean + s * total(weights / ratio) / mass
        value = jnp.log(s - 1) - jnp.log(mean) - t
        return value, value / slope

    high = jnp.full_like(_count(u), jnp.log(s - 1))
    t = _solve(function, high - jnp.log(_count(u)), high, False)
    return _normalize(jnp.exp(-s * jnp.log1p(-u / jnp.exp(t))))


@renyimax.defjvp
def _renyimax_jvp(order, primals, tangents):
    p, s = renyimax(*primals, order), 1 / (1 - order)
    dtheta = jnp.where(p > 0, tangents[0], 0)
    ratio = _positive_power(p, 2 - order) * total(_positive_power(p, order)) / (s - 1)
    pull = s * ratio - p
    mass = total(pull)
    moved = dtheta - total(pull * dtheta) / jnp.where(mass == 0, 1, mass)
    return p, s * (ratio * moved - p * total(ratio * moved))
