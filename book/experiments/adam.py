"""Stochastic training by Adam in one compiled loop, for objectives that draw noise."""

import jax
import jax.numpy as jnp
import optax


def train(key, init, objective, num_items, learning_rate, *, num_epochs, batch_size):
    """Minimise a mean over items by Adam; the step size falls linearly to zero.

    Parameters
    ----------
    key : jax.random key
        Source of the start, of the order of the items and of the noise.
    init : callable
        ``init(key)`` gives the parameters to start from.
    objective : callable
        ``objective(parameters, rows, key)`` gives the mean loss of some items, a scalar.
    num_items : int
        Items are ``0..num_items - 1``; what does not fill a batch is left out of an epoch.
    learning_rate : float
        First step size.
    num_epochs, batch_size : int
        Passes over the items, and items in a step.

    Returns
    -------
    parameters
        The last ones.
    """
    init_key, order_key, noise_key = jax.random.split(key, 3)
    optimizer = optax.scale_by_adam()
    parameters = init(init_key)
    num_batches = num_items // batch_size
    num_steps = num_epochs * num_batches

    def order(key):
        rows = jax.random.permutation(key, num_items)
        return rows[: num_batches * batch_size].reshape(num_batches, batch_size)

    def step(carry, inputs):
        parameters, state = carry
        rows, count = inputs
        gradient = jax.grad(objective)(parameters, rows, jax.random.fold_in(noise_key, count))
        update, state = optimizer.update(gradient, state)
        length = learning_rate * (1 - count.astype(jnp.float32) / num_steps)
        parameters = jax.tree.map(lambda p, u: p - length * u, parameters, update)
        return (parameters, state), None

    orders = jax.vmap(order)(jax.random.split(order_key, num_epochs))
    inputs = orders.reshape(num_steps, batch_size), jnp.arange(num_steps)
    (parameters, _), _ = jax.lax.scan(step, (parameters, optimizer.init(parameters)), inputs)
    return parameters
