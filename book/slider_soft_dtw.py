"""A figure that a reader can move: expected alignments under a slider over gamma.

Inline SVG and a few lines of script, like `book.slider`: no library, no network, plain form
controls, the colours of the page, and the first position where there is no script.
"""

import json

import numpy as np
from IPython.display import HTML

SIDE, EDGE = 240, 34  # a panel, and the margin of the table in it
CAPTION = """<b>Move the temperature.</b> Left: the expected alignment of two series, drawn along
the edges; the darker a cell, the likelier it is on the way. Right: the series y (grey), and the
series that minimises soft-DTW to it, started at y (coloured): the warmer, the flatter."""


def gamma_slider(x, y, gammas, alignments, minimisers, *, start=0, caption=CAPTION):
    """Draw the expected alignment of two series and a minimiser, moved by a slider.

    Parameters
    ----------
    x, y : arrays of shape (n,) and (m,)
        The series that are aligned.
    gammas : array of shape (k,)
        The positions of the slider.
    alignments : array of shape (k, n, m)
        The expected alignment at each of them.
    minimisers : array of shape (k, m)
        The series that minimises soft-DTW to `y` at each of them.
    start : int
        The first position.
    caption : str
        HTML below the figure.

    Returns
    -------
    IPython.display.HTML
    """
    minimisers = np.asarray(minimisers)
    low, high = float(np.min(y)), float(np.max(y))
    lines = [_curve(z, low, high) for z in minimisers]
    data = {
        "g": [f"{gamma:.2g}" for gamma in gammas],
        "e": [np.round(np.ravel(a), 2).tolist() for a in np.asarray(alignments)],
        "l": lines,
    }
    html = TEMPLATE
    for key, text in {
        "TABLE": _table(x, y, data["e"][start]),
        "LINE": _line(_curve(y, low, high), lines[start]),
        "DATA": json.dumps(data, separators=(",", ":")),
        "CAPTION": caption,
        "LAST": str(len(data["g"]) - 1),
        "START": str(start),
        "GAMMA": data["g"][start],
    }.items():
        html = html.replace(f"@{key}@", text)
    return HTML(html)


def _curve(z, low, high):
    """Points of a polyline over the width of a panel."""
    across = np.linspace(12, SIDE - 12, len(z))
    up = SIDE - 20 - (SIDE - 60) * (np.asarray(z, float) - low) / (high - low)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))


def _table(x, y, weights):
    """The cells of the expected alignment, and the series along its left and upper edge."""
    n, m = len(x), len(y)
    wide, high = (SIDE - EDGE) / m, (SIDE - EDGE) / n
    cells = "".join(
        f'<rect class="e" x="{EDGE + wide * (k % m):.1f}" y="{EDGE + high * (k // m):.1f}" '
        f'width="{wide:.1f}" height="{high:.1f}" style="fill-opacity:{weight}"/>'
        for k, weight in enumerate(weights)
    )
    upper, left = (
        [
            (EDGE + size * (i + 0.5), EDGE - 6 - 24 * (v - np.min(z)) / np.ptp(z))
            for i, v in enumerate(np.asarray(z, float))
        ]
        for z, size in ((y, wide), (x, high))
    )
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in upper)
    turned = " ".join(f"{b:.1f},{a:.1f}" for a, b in left)
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="A table of cells, darker along '
        f'the way from the upper left to the lower right corner.">{cells}'
        f'<polyline class="s" points="{points}"/><polyline class="s" points="{turned}"/></svg>'
    )


def _line(series, minimiser):
    """The series and its minimiser."""
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="A series, and the flatter series '
        f'that minimises soft-DTW to it."><polyline class="y" points="{series}"/>'
        f'<polyline class="z" points="{minimiser}"/></svg>'
    )


TEMPLATE = """<figure class="gamma-slider" id="gamma-slider">
<style>
.text_html:has(.gamma-slider){background:none!important;color:inherit!important;
padding:0!important}
.gamma-slider{--a:#0072B2;--b:#D55E00;margin:1rem 0;color:inherit}
html[data-theme="dark"] .gamma-slider{--a:#56B4E9;--b:#E69F00}
#gamma-slider figcaption{color:inherit;text-align:left;font-weight:inherit;letter-spacing:normal}
.gamma-slider .bar{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:.5rem 0}
.gamma-slider svg{flex:1 1 180px;max-width:300px;margin:0 auto}
.gamma-slider polyline{fill:none;stroke:currentColor;stroke-width:1.5}
.gamma-slider .y{stroke-width:5;opacity:.35}
.gamma-slider .z{stroke:var(--b);stroke-width:2.5}
.gamma-slider .e{fill:var(--a);stroke:currentColor;stroke-opacity:.12}
.gamma-slider input[type=range]{flex:1 1 200px;width:auto;min-width:0;margin:0;
accent-color:var(--b)}
.gamma-slider output{display:inline;padding:0;min-width:6em;font-variant-numeric:tabular-nums}
.gamma-slider label{cursor:pointer;margin:0;width:auto}
</style>
<div class="bar">
<label for="gamma-range">temperature</label>
<input id="gamma-range" type="range" min="0" max="@LAST@" value="@START@">
<output for="gamma-range" aria-live="polite">γ = @GAMMA@</output>
</div>
<div class="bar">@TABLE@@LINE@</div>
<noscript>The slider needs a script; the figure shows its first position.</noscript>
<figcaption>@CAPTION@</figcaption>
<script type="application/json">@DATA@</script>
<script>
(function () {
  const root = document.getElementById("gamma-slider");
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const range = root.querySelector("input[type=range]");
  const cells = Array.from(root.querySelectorAll(".e"));
  function draw() {
    const k = +range.value;
    cells.forEach((cell, i) => { cell.style.fillOpacity = data.e[k][i]; });
    root.querySelector(".z").setAttribute("points", data.l[k]);
    root.querySelector("output").textContent = "γ = " + data.g[k];
    range.setAttribute("aria-valuetext", "gamma " + data.g[k]);
  }
  root.addEventListener("input", draw);
})();
</script>
</figure>
"""
