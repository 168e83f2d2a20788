"""The plot of the benchmarks page: the CPU time of a connect in each library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from .results import amount

if TYPE_CHECKING:
    from pathlib import Path

    from .results import Row

INK, OWN, OTHER = "#7a869a", "#2f81f7", "#9aa5b1"
"""readable on white and on black"""


def draw(rows: list[Row], path: Path) -> None:
    """Write an SVG, the same for the same figures."""
    connects = [row for row in rows if row.measure.startswith("CPU time of a connect")]
    connects = [row for row in connects if row.measure == connects[0].measure]
    bars = [("azpg", connects[0].ours), *((row.against, row.theirs or 0.0) for row in connects)]
    bars.sort(key=lambda bar: bar[1])
    settings: Any = {"svg.hashsalt": "azpg", "svg.fonttype": "none", "font.size": 12}
    with mpl.rc_context(settings):
        figure, axis = plt.subplots(figsize=(6, 0.6 * len(bars)), layout="constrained")
        colors = [OWN if name == "azpg" else OTHER for name, _ in bars]
        drawn = axis.barh([name for name, _ in bars], [value for _, value in bars], color=colors)
        labels = [f"{amount(value, connects[0].unit)}" for _, value in bars]
        axis.bar_label(drawn, labels=labels, color=INK, padding=4)
        axis.set_xlim(right=max(value for _, value in bars) * 1.15)
        axis.invert_yaxis()
        axis.xaxis.set_visible(False)
        axis.tick_params(left=False, labelcolor=INK)
        axis.spines[:].set_visible(False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)
