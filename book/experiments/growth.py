"""Time and memory of an operator against its size, each series in a process of its own.

A chapter gives a module with ``METHODS``, a dict of functions of one array. A series is one
method and one of the `OPERATIONS` over growing sizes; it ends where the memory or the time is
used up. The process is made to fail before the machine runs out of memory.
"""

import ctypes
import gc
import importlib
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ("value", "gradient", "second_order")


def operation(function, name):
    """Build the value of an operator, or a gradient or Hessian product of a squared loss of it."""
    if name == "value":
        return lambda values, targets: function(values)

    def loss(values, targets):
        return 0.5 * jnp.sum((function(values) - targets) ** 2)

    gradient = jax.grad(loss)
    if name == "gradient":
        return gradient
    return lambda values, targets: jax.jvp(lambda v: gradient(v, targets), (values,), (targets,))[1]


def memory(key):
    """Read an entry of this process's memory in bytes: ``"VmRSS"`` now, ``"VmHWM"`` the peak."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{key}:")[1].split()[0])


def measure(function, batch, n, limit_bytes):
    """Measure a jitted function of values and targets, unless its plan exceeds the memory.

    Returns
    -------
    dict
        ``compile_s``; ``seconds``, the best of some calls; ``compiled_bytes``, the temporaries
        that XLA plans; ``peak_bytes``, what resident memory grew by while running (on Linux), or
        the peak of the device so far.
    """
    rng = np.random.default_rng(0)
    values = jnp.asarray(rng.normal(size=(batch, n)))
    targets = jnp.asarray(rng.permuted(np.tile(np.arange(1.0, n + 1), (batch, 1)), axis=1))
    start = time.perf_counter()
    compiled = jax.jit(function).lower(values, targets).compile()
    result = {"compile_s": time.perf_counter() - start}
    result["compiled_bytes"] = int(compiled.memory_analysis().temp_size_in_bytes)
    if result["compiled_bytes"] > limit_bytes:
        return result | {"failed": _too_large(limit_bytes)}
    host = jax.default_backend() == "cpu" and sys.platform.startswith("linux")
    if host:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # give freed memory back, so that growth is counted
        Path("/proc/self/clear_refs").write_text("5")  # forget the earlier peak
        before = memory("VmRSS")
    times = []
    while len(times) < 3 or (sum(times) < 0.5 and len(times) < 300):
        start = time.perf_counter()
        jax.block_until_ready(compiled(values, targets))
        times.append(time.perf_counter() - start)
        if sum(times) > 10:
            break
    device = jax.devices()[0].memory_stats() or {}
    peak = memory("VmHWM") - before if host else device.get("peak_bytes_in_use")
    result["peak_bytes"] = peak
    result["seconds"] = min(times)
    return result


def worker(module, method, name, batch, sizes, limit_s, limit_bytes):
    """Measure a series in this process, and print a line of JSON for each size."""
    jax.config.update("jax_enable_x64", True)
    function = operation(importlib.import_module(module).METHODS[method], name)
    if jax.default_backend() == "cpu" and sys.platform.startswith("linux"):
        limit = memory("VmData") + int(limit_bytes)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    for n in sizes:
        result = measure(function, batch, n, limit_bytes)
        if result.get("seconds", 0) > limit_s:
            result["failed"] = f"takes more than {limit_s} s"
        print(json.dumps(result), flush=True)
        if "failed" in result:
            break


def series(module, method, name, batch, sizes, limit_s=10, limit_bytes=4e9, timeout=300):
    """Run `worker` in a process of its own.

    Returns
    -------
    dict of int to dict
        What `measure` gives for each size; ``failed`` holds the reason where there is one.
    """
    arguments = (module, method, name, batch, list(sizes), limit_s, limit_bytes)
    environment = {**os.environ, "JAX_PLATFORMS": jax.config.jax_platforms or ""}
    code = f"from book.experiments.growth import worker; worker(*{arguments!r})"
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            timeout=timeout,
        )
        output, reason = done.stdout, _reason(done.stderr.decode(), done.returncode, limit_bytes)
    except subprocess.TimeoutExpired as error:
        output, reason = error.stdout or b"", f"the series took more than {timeout} s"
    lines = [json.loads(line) for line in output.decode().splitlines() if line.startswith("{")]
    results = dict(zip(sizes, lines, strict=False))
    for n in sizes[len(lines) :]:
        results[n] = {"failed": lines[-1].get("failed", reason) if lines else reason}
    return results


def _reason(errors, code, limit_bytes):
    signs = (
        "RESOURCE_EXHAUSTED",
        "bad_alloc",
        "MemoryError",
        "out of memory",
        "Unable to allocate",
    )
    if code < 0 or any(sign in errors for sign in signs):
        return _too_large(limit_bytes)
    return (errors.strip().splitlines() or ["failed"])[-1][:160]


def _too_large(limit_bytes):
    return f"needs more than {limit_bytes / 1e9:.0f} GB"
