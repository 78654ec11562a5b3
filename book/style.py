"""The look of the book's figures: one palette, one set of sizes, a white background.

The colours are those of Okabe and Ito, which stay apart for colour-blind readers; a figure never
relies on colour alone (line styles and markers differ too). The background is opaque white, so a
figure reads the same on a light and on a dark page, and letters are large enough for a phone.
"""

import matplotlib.pyplot as plt
import numpy as np

BLACK = "#222222"
BLUE = "#0072B2"
ORANGE = "#D55E00"
GREEN = "#009E73"
PURPLE = "#AA4499"
AMBER = "#E69F00"
SKY = "#56B4E9"
GREY = "#888888"

HARD = {"color": BLACK, "linestyle": "-", "linewidth": 1.4}
L2 = {"color": BLUE, "linestyle": "-", "linewidth": 2.0}
KL = {"color": ORANGE, "linestyle": (0, (5, 1.5)), "linewidth": 2.0}

WIDTH = 5.6  # inches: one column of the book, and letters that a phone can show


def apply() -> None:
    """Set Matplotlib's defaults for every figure of the book."""
    plt.rcParams.update(
        {
            "figure.figsize": (WIDTH, 3.2),
            "figure.dpi": 180,
            "figure.facecolor": "white",
            "figure.constrained_layout.use": True,
            "savefig.facecolor": "white",
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#555555",
            "axes.axisbelow": True,
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, PURPLE, AMBER, SKY, GREY]),
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
            "xtick.color": "#444444",
            "ytick.color": "#444444",
        }
    )


def dots(ax, names, groups) -> None:
    """Draw a dot plot: a row for each name, a dot and an error bar in it for each group.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw; the first name comes lowest.
    names : sequence of str
        The rows.
    groups : dict
        Label of the group -> means and half lengths of the bars, one of each for each name.
    """
    for k, (label, (means, errors)) in enumerate(groups.items()):
        height = np.arange(len(names)) + 0.3 * ((len(groups) - 1) / 2 - k)
        ax.errorbar(means, height, xerr=errors, fmt="osD^v"[k], ms=4.5, lw=1.2, label=label)
    ax.set(yticks=range(len(names)), yticklabels=names)
