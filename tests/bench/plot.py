"""The picture of the figures: what the same thing costs in three ways, for a page of any colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from .results import Row

INK, OWN, OTHER = "#7a869a", "#2f81f7", "#9aa5b1"
"""readable on white and on black"""


def draw(rows: list[Row], path: Path) -> None:
    """Write an SVG, the same for the same figures."""
    by_measure: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.theirs is not None:
            bars = by_measure.setdefault(row.measure, {"azpg": row.ours})
            bars[row.against.partition(" with")[0]] = row.theirs
    chosen = (
        [(name, "ms") for name in by_measure if name.startswith("client CPU of a connect")]
        + [(name, "µs") for name in by_measure if name.startswith("wall time of a checkout")]
        + [(name, "") for name in by_measure if name.startswith(("token requests", "starts of"))]
    )
    settings: Any = {"svg.hashsalt": "azpg", "svg.fonttype": "none", "font.size": 11}
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(
            len(chosen), 1, figsize=(5, 1.25 * len(chosen)), layout="constrained"
        )
        for axis, (name, unit) in zip(axes, chosen, strict=True):
            bars = by_measure[name]
            drawn = axis.barh(list(bars), list(bars.values()), color=[OWN] + [OTHER] * len(bars))
            axis.bar_label(drawn, fmt=lambda value, unit=unit: f" {value:.3g} {unit}", color=INK)
            axis.set_title(name, loc="left", fontsize=11, color=INK)
            axis.set_xlim(right=max(bars.values()) * 1.25)
            axis.invert_yaxis()
            axis.xaxis.set_visible(False)
            axis.tick_params(left=False, labelcolor=INK)
            axis.spines[:].set_visible(False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)
