"""Boxes and arrows on a page measured in millimetres: what the diagrams are drawn with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from .style import pick

WIDTH = 160.0  # of the page, millimetres
#: fill and edge by the role of a box
ROLES: dict[str, tuple[str, str]] = {
    "data": ("#FFFFFF", "#555555"),
    "frozen": ("#E4E4E4", "#666666"),
    "trained": ("#D5E8F5", "#0072B2"),
    "noise": ("#FBE7C2", "#C07F00"),
    "output": ("#D3EFE4", "#009E73"),
    "removed": ("#FFFFFF", "#BBBBBB"),
    "marked": ("#F6D9CC", "#D55E00"),
    "plain": ("#F7F7F7", "#999999"),
}


@dataclass(frozen=True)
class Box:
    """A drawn box: its middle (x, y) and size, millimetres."""

    x: float
    y: float
    width: float
    height: float

    def at(self, side: str, shift: float = 0.0) -> tuple[float, float]:
        """The middle of a side ("left", "right", "top", "bottom"), moved along it by ``shift``."""
        return {
            "left": (self.x - self.width / 2, self.y + shift),
            "right": (self.x + self.width / 2, self.y + shift),
            "top": (self.x + shift, self.y + self.height / 2),
            "bottom": (self.x + shift, self.y - self.height / 2),
        }[side]


class Canvas:
    """A page ``WIDTH`` by ``height`` millimetres, y upwards. Texts are "English|Italian", or one for both."""

    def __init__(self, height: float, language: str) -> None:
        self.language = language
        self.figure: Figure = plt.figure(figsize=(WIDTH / 25.4, height / 25.4))
        self.figure.set_layout_engine("none")
        self.ax = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set(xlim=(0, WIDTH), ylim=(0, height))
        self.ax.set_axis_off()

    def say(self, text: str) -> str:
        """The page's language of a text."""
        english, _, italian = text.partition("|")
        return pick(self.language, english, italian or english)

    def box(
        self, x: float, y: float, width: float, height: float, text: str, role: str = "plain", size: float = 7.0
    ) -> Box:
        """A rounded box with its middle at (x, y). The first line is bold when others follow; "~" breaks a name."""
        fill, edge = ROLES[role]
        corner, inner = (x - width / 2 + 1, y - height / 2 + 1), (width - 2, height - 2)
        line = {"fc": fill, "ec": edge, "lw": 0.8, "ls": "--" if role == "removed" else "-", "zorder": 2}
        self.ax.add_patch(FancyBboxPatch(corner, *inner, boxstyle="round,pad=1,rounding_size=1.6", **line))
        first, _, rest = self.say(text).partition("\n")
        colour = "#999999" if role == "removed" else "#111111"
        look = {"ha": "center", "fontsize": size, "color": colour, "zorder": 3, "linespacing": 1.2}
        if not rest:
            self.ax.text(x, y, first.replace("~", "\n"), va="center", **look)
            return Box(x, y, width, height)
        lines, step = 1 + rest.count("\n") + 1, size * 0.3528 * 1.22  # points to millimetres
        top = y + step * (lines - 1) / 2
        self.ax.text(x, top, first, va="center", weight="bold", **look)
        self.ax.text(x, y - step / 2, rest, va="center", **(look | {"fontsize": size - 0.6}))
        return Box(x, y, width, height)

    def arrow(self, *points: tuple[float, float], role: str = "data", dashed: bool = False) -> None:
        """An arrow along straight pieces through the points; the head is at the last."""
        colour = ROLES[role][1]
        look = {"color": colour, "lw": 1.0, "ls": (0, (3, 2)) if dashed else "-", "zorder": 1.5}
        for start, end in zip(points[:-2], points[1:-1], strict=True):
            self.ax.plot([start[0], end[0]], [start[1], end[1]], solid_capstyle="round", **look)
        head = {"arrowstyle": "-|>", "mutation_scale": 7, "shrinkA": 0, "shrinkB": 0}
        self.ax.add_patch(FancyArrowPatch(*points[-2:], **head, **look))

    def text(self, x: float, y: float, text: str, size: float = 6.5, **look: object) -> None:
        """Text with its middle at (x, y)."""
        self.ax.text(
            x, y, self.say(text), **({"ha": "center", "va": "center", "fontsize": size, "linespacing": 1.2} | look)
        )

    def circle(self, x: float, y: float, text: str) -> Box:
        """A small round operator, such as a sum."""
        self.ax.plot(x, y, "o", ms=11, mfc="white", mec="#555555", mew=0.8, zorder=2)
        self.ax.text(x, y, text, ha="center", va="center", fontsize=8, zorder=3)
        return Box(x, y, 4.4, 4.4)

    def legend(self, y: float, entries: Sequence[tuple[str, str]]) -> None:
        """Roles and their names in a row at the bottom."""
        x = 8.0
        for role, name in ((role, self.say(text)) for role, text in entries):
            fill, edge = ROLES[role]
            ls = "--" if role == "removed" else "-"
            self.ax.add_patch(plt.Rectangle((x - 2, y - 1.3), 4, 2.6, fc=fill, ec=edge, lw=0.7, ls=ls))
            self.ax.text(x + 3.5, y, name, ha="left", va="center", fontsize=6.3)
            x += 14 + 1.25 * len(name)
