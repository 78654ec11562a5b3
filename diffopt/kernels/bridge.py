"""From a numba kernel to a typed foreign function of XLA: no copy, no Python, no GIL at run time.

XLA calls a handler with one pointer, to an ``XLA_FFI_CallFrame``. Its layout is that of the C
header ``xla/ffi/api/c_api.h`` that jaxlib ships; read as an array of 64-bit words:

- word 1: an extension, present when XLA asks for the version of the interface (the metadata);
- words 5 to 9: the operands (their number in word 7, pointers to buffers behind word 9);
- words 10 to 14: the results, likewise.

A buffer's words are: size, extension, type, data, rank, dimensions.
"""

import hashlib
import importlib.util
import os
import re
import sys
import tempfile
import threading
from pathlib import Path

import jax
import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from diffopt.kernels import (
    alignments,
    blocks,
    chains,
    coordinates,
    designs,
    faces,
    graphs,
    jacobians,
    native,
    objectives,
    sweeps,
    vectors,
)

_MODULES = (alignments, blocks, chains, coordinates, faces, graphs, jacobians, native)
_PARTS = (designs, objectives, sweeps, vectors)  # what kernels are made of
_HANDLERS: dict = {}  # name of a target -> its compiled handler, which must stay alive
_LOCK = threading.Lock()


@intrinsic
def _as_pointer(typingctx, address, dtype):
    """Reinterpret an integer as a pointer to items of `dtype`."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(dtype.dtype)(types.int64, dtype), codegen


@numba.njit
def _words(address, count):
    return numba.carray(_as_pointer(address, np.int64), count)


@numba.njit
def _rows(buffer, dtype):
    """View a buffer of shape [..., n] as an array of shape (rows, n)."""
    words = _words(buffer, 6)
    rank = words[4]
    dims = _words(words[5], rank)
    rows = 1
    for d in range(rank - 1):
        rows *= dims[d]
    return numba.carray(_as_pointer(words[3], dtype), (rows, dims[rank - 1]))


def _api_version():
    header = Path(jax.ffi.include_dir(), "xla/ffi/api/c_api.h").read_text()
    version = dict(re.findall(r"define XLA_FFI_API_(MAJOR|MINOR) (\d+)", header))
    return int(version["MAJOR"]) | int(version["MINOR"]) << 32


def _source(name, operand_dtypes, result_dtypes):
    """Write the handler which calls the kernel `name` on the buffers of a call frame."""
    # A mask is a byte an item; numba's booleans are the same bytes.
    kinds = ["uint8" if d == np.bool_ else np.dtype(d).name for d in operand_dtypes]
    slots = [f"_rows(operands[{i}], np.{kind})" for i, kind in enumerate(kinds)]
    slots += [f"_rows(results[{i}], np.{np.dtype(d).name})" for i, d in enumerate(result_dtypes)]
    module = next(m.__name__ for m in _MODULES if hasattr(m, name))
    return f"""import numba
import numpy as np
from diffopt.kernels.bridge import _rows, _words
from {module} import {name}


@numba.cfunc("int64(int64)", cache=True)
def handler(frame):
    call = _words(frame, 15)
    if call[1] != 0 and _words(call[1], 4)[1] & 0xFFFFFFFF == 1:
        _words(_words(call[1], 4)[3], 6)[3] = {_api_version()}
        return 0
    operands = _words(call[9], {len(operand_dtypes)})
    results = _words(call[14], {len(result_dtypes)})
    {name}({", ".join(slots)})
    return 0
"""


def _load(key, source):
    """Import generated source from a file, next to which numba keeps the machine code.

    The file's name changes with all that the machine code depends on.
    """
    files = [__file__, *(str(m.__file__) for m in (*_MODULES, *_PARTS))]
    text = "".join([source, *(Path(file).read_text() for file in files)])
    digest = hashlib.sha256(f"{text}{numba.__version__}".encode()).hexdigest()[:16]
    here, home = Path(__file__).parent / "__pycache__", Path("~/.cache/diffopt").expanduser()
    for folder in (here, home, Path(tempfile.mkdtemp())):
        path = folder / f"{key}_{digest}.py"
        try:
            if not path.exists():
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.NamedTemporaryFile("w", dir=folder, delete=False) as file:
                    file.write(source)
                os.replace(file.name, path)  # at once, so that no other process reads a part
            break
        except OSError:
            continue
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module.handler


def target(name, operand_dtypes, result_dtypes):
    """Return the name of the XLA target of a native kernel, compiled for these types.

    Compiles and registers it the first time, under a lock; later calls are a dictionary lookup.
    """
    kinds = "_".join(np.dtype(d).name for d in (*operand_dtypes, *result_dtypes))
    key = f"diffopt_{name}_{kinds}"
    with _LOCK:
        if key not in _HANDLERS:
            handler = _load(key, _source(name, operand_dtypes, result_dtypes))
            jax.ffi.register_ffi_target(key, jax.ffi.pycapsule(handler.address), platform="cpu")
            _HANDLERS[key] = handler
    return key
