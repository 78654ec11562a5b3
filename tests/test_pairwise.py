"""Tables of losses against one pair at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import diffopt.pairwise
from diffopt import half_squared_euclidean, sakoe_chiba, soft_dtw_pairwise
from diffopt.pairwise import LOSSES

rng = np.random.default_rng(0)
XS = jnp.asarray(rng.normal(size=(4, 5, 2)))
RAGGED = [XS[0], XS[1, :3], XS[2, :1]]


@pytest.mark.parametrize("loss", LOSSES)
def test_against_one_pair_at_a_time(loss):
    options = {} if loss.startswith("mean_cost") else {"gamma": 0.3}
    for xs, ys in ((XS, RAGGED), (RAGGED, None), (XS, None)):
        found = soft_dtw_pairwise(xs, ys, loss=loss, cost=half_squared_euclidean, **options)
        for i, x in enumerate(xs):
            for j, y in enumerate(xs if ys is None else ys):
                expected = LOSSES[loss](x, y, cost=half_squared_euclidean, **options)
                assert_allclose(found[i, j], expected, rtol=1e-12, atol=1e-12)


def test_tiles_and_progress(monkeypatch):
    whole = soft_dtw_pairwise(XS, RAGGED)
    monkeypatch.setattr(diffopt.pairwise, "_CELLS", 5 * 25)
    seen = []
    tiled = soft_dtw_pairwise(XS, RAGGED, progress=lambda *now: seen.append(now))
    assert_array_equal(tiled, whole)
    assert seen == [(5, 19), (10, 19), (12, 19), (16, 19), (19, 19)]


def test_limits_of_the_temperature():
    hard = soft_dtw_pairwise(XS, loss="soft_dtw", gamma=0.0)
    assert_allclose(hard, soft_dtw_pairwise(XS, loss="sharp", gamma=1e-5), rtol=1e-9, atol=1e-12)
    flat = soft_dtw_pairwise(XS, loss="sharp_divergence", gamma=np.inf)
    assert_allclose(flat, soft_dtw_pairwise(XS, loss="mean_cost_divergence"), rtol=1e-12)


def test_a_band_is_of_the_alignment_of_two_series():
    band = sakoe_chiba(5, 5, 1)
    found = soft_dtw_pairwise(XS, XS[:2], gamma=0.3, band=band)
    one = LOSSES["divergence"](XS[3], XS[1], gamma=0.3, band=band)
    assert_allclose(found[3, 1], one, rtol=1e-12)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: soft_dtw_pairwise([]), "xs must hold at least one"),
        (lambda: soft_dtw_pairwise(XS, XS[..., :1]), "as many features, got 2 and 1"),
        (lambda: soft_dtw_pairwise(XS, [XS[0, 0]]), "ys must be arrays of shape"),
        (lambda: soft_dtw_pairwise(XS, loss="l2"), "loss must be one of"),
        (lambda: soft_dtw_pairwise(XS, gamma=-1.0), "gamma must lie"),
    ],
)
def test_wrong_use_names_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call()
