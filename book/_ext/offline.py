"""Make the HTML work without a network: local MathJax, no thebe, and a few links to elsewhere."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

from docutils import nodes

# From the package sphinx-mathjax-offline: TeX in, CommonHTML out, its fonts, and what a reader's
# context menu may ask for.
MATHJAX_FILES = ("tex-chtml-full.js", "a11y", "ui", "output/chtml/fonts", "sre/mathmaps/base.json")
MATHJAX_FILES += ("sre/mathmaps/en.json", "sre/mathmaps/nemeth.json")

# The outside names that docstrings refer to. They are links, not requests: no inventory is fetched.
PYTHON = {
    "None": "constants.html#None",
    "TypeError": "exceptions.html#TypeError",
    "ValueError": "exceptions.html#ValueError",
    "bool": "stdtypes.html#boolean-type-bool",
    "float": "functions.html#float",
    "int": "functions.html#int",
    "str": "stdtypes.html#str",
    "tuple": "stdtypes.html#tuple",
}


def elsewhere(name: str) -> str | None:
    """The address of a name of Python, JAX or NumPy."""
    if name in PYTHON:
        return f"https://docs.python.org/3/library/{PYTHON[name]}"
    if name.startswith("jax."):
        return f"https://docs.jax.dev/en/latest/_autosummary/{name}.html"
    if name.startswith("numpy."):
        return f"https://numpy.org/doc/stable/reference/generated/{name}.html"
    return None


def mathjax_source() -> Path:
    """The folder of MathJax in the installed package (its name is no Python identifier)."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise RuntimeError("pip install sphinx-mathjax-offline: the book's MathJax comes from it")
    return Path(spec.origin).parent / "static" / "mathjax"


def use_local_scripts(app, config):
    """Point Sphinx at the copied MathJax and take sphinx-thebe, which needs a network, out."""
    config.mathjax_path = "mathjax/tex-chtml-full.js"
    for listeners in app.events.listeners.values():
        listeners[:] = [x for x in listeners if not x.handler.__module__.startswith("sphinx_thebe")]
    css = app.registry.css_files
    css[:] = [entry for entry in css if "thebe" not in entry[0]]


def copy_mathjax(app, exception):
    """Copy what a page can ask of MathJax into the HTML."""
    if exception is not None or app.builder.format != "html":
        return
    source, target = mathjax_source(), Path(app.outdir) / "_static" / "mathjax"
    for name in MATHJAX_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        elif (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def resolve_elsewhere(app, env, node, contnode):
    """Link an outside name."""
    address = elsewhere(node.get("reftarget", "")) if node.get("refdomain") == "py" else None
    if address is None:
        return None
    link = nodes.reference("", "", internal=False, refuri=address)
    link += contnode
    return link


def setup(app):
    """Connect the four steps."""
    app.connect("config-inited", use_local_scripts, priority=900)
    app.connect("missing-reference", resolve_elsewhere)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
