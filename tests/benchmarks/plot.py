"""The picture of the figures: what the same thing costs in two or three ways."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from .results import Row

INK, OWN, OTHER = "#7a869a", "#2f81f7", "#9aa5b1"
"""readable on white and on black"""

DRAWN = ("client CPU of a connect", "wall time of a checkout", "token requests", "starts of")


def draw(rows: list[Row], path: Path) -> None:
    """Write an SVG, the same for the same figures."""
    panels: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.theirs is not None and row.measure.startswith(DRAWN):
            panels.setdefault(row.measure, {})[row.against.partition(" with")[0]] = row
    settings: Any = {"svg.hashsalt": "azpg", "svg.fonttype": "none", "font.size": 11}
    with mpl.rc_context(settings):
        figure, axes = plt.subplots(
            len(panels), 1, figsize=(5, 1.5 * len(panels)), layout="constrained"
        )
        for axis, (measure, others) in zip(axes, panels.items(), strict=True):
            first = next(iter(others.values()))
            names = ["azpg", *(name.replace("`", "") for name in others)]
            values = [first.ours, *(row.theirs or 0 for row in others.values())]
            bars = axis.barh(names, values, color=[OWN] + [OTHER] * len(others))
            axis.bar_label(
                bars, labels=[f" {value:.3g} {first.unit}" for value in values], color=INK
            )
            title = textwrap.fill(measure.replace("`", ""), 52)
            axis.annotate(
                title, (0.01, 1.06), xycoords=("figure fraction", "axes fraction"), color=INK
            )
            axis.set_xlim(right=max(values) * 1.3)
            axis.invert_yaxis()
            axis.xaxis.set_visible(False)
            axis.tick_params(left=False, labelcolor=INK)
            axis.spines[:].set_visible(False)
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)
