"""One strict setting for every test: no silent promotion of types or ranks, float64 by default."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

enable_x64 = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


@pytest.fixture(params=[True, False], ids=["x64", "x32"])
def x64(request):
    """Run the test with 64-bit types on, then off; the value says which."""
    with enable_x64(request.param):
        yield request.param
