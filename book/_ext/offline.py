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

# The only outside names that docstrings refer to; a page without a network still builds.
ELSEWHERE = {
    "ArrayLike": "https://docs.jax.dev/en/latest/_autosummary/jax.typing.ArrayLike.html",
    "Array": "https://docs.jax.dev/en/latest/_autosummary/jax.Array.html",
    "jax.Array": "https://docs.jax.dev/en/latest/_autosummary/jax.Array.html",
    "jax.typing.ArrayLike": "https://docs.jax.dev/en/latest/_autosummary/jax.typing.ArrayLike.html",
    "NamedTuple": "https://docs.python.org/3/library/typing.html#typing.NamedTuple",
    "TypeError": "https://docs.python.org/3/library/exceptions.html#TypeError",
    "ValueError": "https://docs.python.org/3/library/exceptions.html#ValueError",
    **{
        name: f"https://docs.python.org/3/library/{page}"
        for name, page in {
            "None": "constants.html#None",
            "bool": "stdtypes.html#boolean-type-bool",
            "callable": "functions.html#callable",
            "float": "functions.html#float",
            "int": "functions.html#int",
            "str": "stdtypes.html#str",
            "tuple": "stdtypes.html#tuple",
        }.items()
    },
}


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
    """Link the few outside names of :data:`ELSEWHERE`."""
    if node.get("refdomain") != "py" or node.get("reftarget") not in ELSEWHERE:
        return None
    link = nodes.reference("", "", internal=False, refuri=ELSEWHERE[node["reftarget"]])
    link += contnode
    return link


def setup(app):
    """Connect the four steps."""
    app.connect("config-inited", use_local_scripts, priority=900)
    app.connect("missing-reference", resolve_elsewhere)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
