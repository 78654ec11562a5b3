"""A figure that a reader can move: soft ranks of three values under a slider over epsilon.

Inline SVG and thirty lines of script, no library, no network. The slider and the switch are plain
form controls, so the keyboard works; texts and lines take the colour of the page, so a dark page
works; without a script the first position stays.
"""

import itertools
import json

import numpy as np
from IPython.display import HTML

SIDE, SCALE = 220, 58  # the square that holds the hexagon, and its unit
BASIS = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])  # of the plane sum = 6
CAPTION = """<b>Move the strength.</b> The hexagon holds all soft ranks of three items; its corners
are the six orders, and the line in it is the path of the soft ranks of (5, 1, 2). The dots on the
right are these ranks, and the tiles their Jacobian: the item 5 keeps its rank, and gets no
gradient, until it joins a block."""


def soft_rank_slider(values, epsilons, ranks, jacobians, *, start=0, caption=CAPTION):
    """Draw three linked views of the soft ranks of three values, moved by a slider.

    Parameters
    ----------
    values : array of shape (3,)
        What is ranked.
    epsilons : array of shape (m,)
        The positions of the slider.
    ranks, jacobians : dict
        For each of ``"l2"`` and ``"kl"`` arrays of shape (m, 3) and (m, 3, 3).
    start : int
        The first position.
    caption : str
        HTML below the figure.

    Returns
    -------
    IPython.display.HTML
    """
    ranks, jacobians = ({k: np.asarray(v) for k, v in d.items()} for d in (ranks, jacobians))
    frames = {
        name: [
            {
                "p": _plane(r).tolist(),
                "r": np.round(r, 3).tolist(),
                "j": (np.round(j, 2) + 0.0).ravel().tolist(),
            }
            for r, j in zip(ranks[name], jacobians[name], strict=True)
        ]
        for name in ("l2", "kl")
    }
    data = {"e": [f"{e:.2f}" for e in epsilons], "f": frames}
    first = frames["l2"][start]
    html = TEMPLATE
    for key, text in {
        "PANELS": _hexagon(ranks, first) + _ranks(values, first) + _jacobian(first),
        "DATA": json.dumps(data, separators=(",", ":")),
        "CAPTION": caption,
        "LAST": str(len(epsilons) - 1),
        "START": str(start),
        "EPSILON": data["e"][start],
    }.items():
        html = html.replace(f"@{key}@", text)
    return HTML(html)


def _plane(points):
    """Map points of the plane ``sum = 6`` to SVG coordinates."""
    u = (np.asarray(points) - 2.0) @ BASIS.T
    return np.round(SIDE / 2 + SCALE * u * [1, -1], 1) + 0.0


def _points(points):
    return " ".join(f"{a:g},{b:g}" for a, b in _plane(points))


def _hexagon(paths, frame):
    """The permutahedron of (3, 2, 1), and on it the path of each regularisation."""
    corners = np.array(list(itertools.permutations([1, 2, 3])), float)
    round_trip = np.argsort(np.arctan2(*((corners - 2) @ BASIS.T).T))
    labels = "".join(
        f'<text x="{a:g}" y="{b + 4:g}">{"".join(f"{c:.0f}" for c in corner)}</text>'
        for corner, (a, b) in zip(corners, _plane(2 + 1.18 * (corners - 2)), strict=True)
    )
    lines = "".join(
        f'<polyline class="p {name}" points="{_points(path)}"/>' for name, path in paths.items()
    )
    x, y = frame["p"]
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="A hexagon; its corners are the '
        'six orders of three items, and a dot marks the soft ranks.">'
        f'<polygon points="{_points(corners[round_trip])}"/>{lines}<g class="t">{labels}</g>'
        f'<circle class="dot" r="6" cx="{x:g}" cy="{y:g}"/></svg>'
    )


def _ranks(values, frame):
    """A row for each item, with a dot at its soft rank."""
    rows = "".join(
        f'<text x="4" y="{54 + 56 * i}">{value:g}</text>'
        f'<line x1="45" x2="205" y1="{50 + 56 * i}" y2="{50 + 56 * i}"/>'
        f'<circle class="r" r="7" cx="{60 + 65 * (rank - 1):g}" cy="{50 + 56 * i}"/>'
        f'<text class="n" x="{60 + 65 * (rank - 1):g}" y="{36 + 56 * i}">{rank:.2f}</text>'
        for i, (value, rank) in enumerate(zip(values, frame["r"], strict=True))
    )
    ticks = "".join(
        f'<line class="k" x1="{a}" x2="{a}" y1="24" y2="180"/><text class="n" x="{a}" y="202">'
        f"{rank}</text>"
        for rank, a in ((1, 60), (2, 125), (3, 190))
    )
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="Three lines from 1 to 3 with a '
        'dot at the soft rank of each value.">'
        f'<text x="4" y="14">value and soft rank</text>{ticks}{rows}</svg>'
    )


def _jacobian(frame):
    """Nine tiles with the entries of the Jacobian."""
    top = max(0.2, *map(abs, frame["j"]))
    tiles = "".join(
        f'<rect class="j" x="{24 + 58 * (i % 3)}" y="{26 + 58 * (i // 3)}" width="56" height="56" '
        f'style="fill:var({"--b" if entry < 0 else "--a"});'
        f'fill-opacity:{0.75 * abs(entry) / top:.2f}"/>'
        f'<text class="m n" x="{52 + 58 * (i % 3)}" y="{59 + 58 * (i // 3)}">{entry:.2f}</text>'
        for i, entry in enumerate(frame["j"])
    )
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="The three by three Jacobian of '
        'the soft ranks.">'
        f'<text x="24" y="14">their Jacobian</text>{tiles}</svg>'
    )


TEMPLATE = """<figure class="eps-slider" id="eps-slider">
<style>
.text_html:has(.eps-slider){background:none!important;color:inherit!important;padding:0!important}
.eps-slider{--a:#0072B2;--b:#D55E00;margin:1rem 0;color:inherit}
html[data-theme="dark"] .eps-slider{--a:#56B4E9;--b:#E69F00}
#eps-slider figcaption{color:inherit;text-align:left;font-weight:inherit;letter-spacing:normal}
.eps-slider .bar{display:flex;flex-wrap:wrap;gap:.5rem 1rem;align-items:center;margin:.5rem 0}
.eps-slider svg{flex:1 1 150px;max-width:260px;margin:0 auto;font-size:13px}
.eps-slider text{fill:currentColor;stroke:none}
.eps-slider .t,.eps-slider .n{text-anchor:middle}
.eps-slider polygon{fill:currentColor;fill-opacity:.06;stroke:currentColor}
.eps-slider .p{fill:none;stroke-width:2}
.eps-slider .l2{stroke:var(--a)}.eps-slider .kl{stroke:var(--b);stroke-dasharray:5 3;opacity:.3}
.eps-slider line{stroke:currentColor;opacity:.5}.eps-slider .k{opacity:.2}
.eps-slider .dot,.eps-slider .r{fill:var(--c,var(--a))}
.eps-slider .j{stroke:currentColor;stroke-opacity:.25}
.eps-slider input[type=range]{flex:1 1 200px;width:auto;min-width:0;margin:0;
accent-color:var(--c,var(--a))}
.eps-slider output{display:inline;padding:0;min-width:5.5em;font-variant-numeric:tabular-nums}
.eps-slider fieldset{border:0;padding:0;margin:0;display:flex;gap:1rem}
.eps-slider label{cursor:pointer;margin:0;width:auto}
</style>
<div class="bar">
<label for="eps-range">strength</label>
<input id="eps-range" type="range" min="0" max="@LAST@" value="@START@">
<output for="eps-range" aria-live="polite">ε = @EPSILON@</output>
<fieldset aria-label="regularisation">
<label><input type="radio" name="eps-reg" value="l2" checked> L2</label>
<label><input type="radio" name="eps-reg" value="kl"> KL</label>
</fieldset>
</div>
<div class="bar">@PANELS@</div>
<noscript>The slider needs a script; the paths in the hexagon show all its positions.</noscript>
<figcaption>@CAPTION@</figcaption>
<script type="application/json">@DATA@</script>
<script>
(function () {
  const root = document.getElementById("eps-slider");
  const data = JSON.parse(root.querySelector('script[type="application/json"]').textContent);
  const range = root.querySelector("input[type=range]");
  const all = (s) => Array.from(root.querySelectorAll(s));
  function draw() {
    const name = root.querySelector("input[type=radio]:checked").value;
    const f = data.f[name][+range.value], e = data.e[+range.value];
    root.style.setProperty("--c", name === "l2" ? "var(--a)" : "var(--b)");
    all(".p").forEach((p) => { p.style.opacity = p.classList.contains(name) ? 1 : 0.3; });
    const dot = root.querySelector(".dot");
    dot.setAttribute("cx", f.p[0]);
    dot.setAttribute("cy", f.p[1]);
    all(".r").forEach((c, i) => {
      const at = 60 + 65 * (f.r[i] - 1), text = c.nextElementSibling;
      c.setAttribute("cx", at);
      text.setAttribute("x", at);
      text.textContent = f.r[i].toFixed(2);
    });
    const top = Math.max(0.2, ...f.j.map(Math.abs));
    all(".j").forEach((r, i) => {
      r.style.fill = f.j[i] < 0 ? "var(--b)" : "var(--a)";
      r.style.fillOpacity = 0.75 * Math.abs(f.j[i]) / top;
      r.nextElementSibling.textContent = f.j[i].toFixed(2);
    });
    root.querySelector("output").textContent = "ε = " + e;
    range.setAttribute("aria-valuetext", "epsilon " + e + ", soft ranks " + f.r.join(", "));
  }
  root.addEventListener("input", draw);
})();
</script>
</figure>
"""
