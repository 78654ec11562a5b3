"""L-BFGS for many small problems at once: one call of the objective serves all of them."""

import numpy as np


def minimize_batch(objective, start, *, max_iter=100, ftol=1e-6, gtol=1e-6, memory=10):
    """Minimise a batch of independent functions, each with its own steps and history.

    Parameters
    ----------
    objective : callable
        Maps points of shape ``(batch, size)`` to values ``(batch,)`` and gradients
        ``(batch, size)``.
    start : numpy.ndarray
        Starting points, shape ``(batch, size)``.
    max_iter : int, optional
        How often the objective is called at most.
    ftol, gtol : float, optional
        A problem is solved when its value has decreased by less than ``ftol`` of itself in one
        step, or when no entry of its gradient exceeds ``gtol``.
    memory : int, optional
        How many steps the approximation of the Hessian remembers.

    Returns
    -------
    numpy.ndarray
        The best points found, shape ``(batch, size)``.
    """
    point = np.array(start, float)
    value, gradient = _evaluate(objective, point)
    steps = np.zeros((memory, *point.shape))
    changes = np.zeros_like(steps)
    direction = -gradient
    length = 1 / np.maximum(1.0, np.linalg.norm(gradient, axis=1))
    active = np.abs(gradient).max(axis=1) > gtol
    for _ in range(max_iter):
        if not active.any():
            break
        trial = point + np.where(active, length, 0.0)[:, None] * direction
        trial_value, trial_gradient = _evaluate(objective, trial)
        slope = np.sum(gradient * direction, axis=1)
        accepted = active & (trial_value <= value + 1e-4 * length * slope)
        length = np.where(accepted, 1.0, 0.4 * length)
        step, change = trial - point, trial_gradient - gradient
        curved = np.sum(step * change, axis=1) > 1e-10 * np.sum(change**2, axis=1)
        remember = (accepted & curved)[:, None]
        steps = np.where(remember, np.concatenate([steps[1:], step[None]]), steps)
        changes = np.where(remember, np.concatenate([changes[1:], change[None]]), changes)
        solved = accepted & (value - trial_value <= ftol * np.abs(value))
        point = np.where(accepted[:, None], trial, point)
        value = np.where(accepted, trial_value, value)
        gradient = np.where(accepted[:, None], trial_gradient, gradient)
        solved |= np.abs(gradient).max(axis=1) <= gtol
        active &= ~solved & (length > 1e-8)
        direction = np.where(accepted[:, None], -_precondition(gradient, steps, changes), direction)
    return point


def _evaluate(objective, point):
    value, gradient = objective(point)
    return np.asarray(value, float), np.asarray(gradient, float)


def _precondition(gradient, steps, changes):
    """Apply the inverse Hessian's approximation by the two-loop recursion; empty slots are 0."""
    curvature = np.sum(steps * changes, axis=2)
    inverse = np.divide(1.0, curvature, out=np.zeros_like(curvature), where=curvature > 0)
    result, weights = gradient.copy(), []
    for step, change, rho in zip(steps[::-1], changes[::-1], inverse[::-1], strict=True):
        weights.append(rho * np.sum(step * result, axis=1))
        result -= weights[-1][:, None] * change
    squares = np.sum(changes[-1] ** 2, axis=1)
    scale = np.divide(curvature[-1], squares, out=np.ones_like(squares), where=squares > 0)
    result *= scale[:, None]
    for step, change, rho, weight in zip(steps, changes, inverse, weights[::-1], strict=True):
        result += (weight - rho * np.sum(change * result, axis=1))[:, None] * step
    return result
