"""The soft ranks that the experiments of the chapter `sorting` compare."""

import jax
import jax.numpy as jnp

from diffopt.sorting import soft_rank


def all_pairs_rank(values, epsilon=1.0, descending=False):
    """Compute soft ranks from sigmoids of all differences, O(n^2) (Qin et al., 2010)."""
    difference = (values[..., :, None] - values[..., None, :]) / epsilon
    difference = -difference if descending else difference
    return 0.5 + jax.nn.sigmoid(difference).sum(-1)


def sinkhorn_rank(values, epsilon=1e-2, descending=False):
    """Compute soft ranks from 1 by entropic transport, O(n^2) (Cuturi et al., 2019; ott-jax)."""
    from ott.tools import soft_sort

    signed = -values if descending else values
    wide = signed.astype(float)  # ott mixes precisions when x64 is on and the values are float32
    return (1.0 + soft_sort.ranks(wide, axis=-1, epsilon=epsilon)).astype(values.dtype)


OURS = ("soft_rank_l2", "soft_rank_kl")
OTHERS = ("all_pairs", "sinkhorn")
METHODS = {
    "soft_rank_l2": lambda values: soft_rank(values, regularization="l2"),
    "soft_rank_kl": lambda values: soft_rank(values, regularization="kl"),
    "all_pairs": all_pairs_rank,
    "sinkhorn": sinkhorn_rank,
    "jax_sort": lambda values: jnp.sort(values, axis=-1),
}
