"""Plots as inline SVG: curves over training, and bars with 95 % intervals.

Colours are written as CSS variables of the page, so that one drawing serves light and dark, and
curves carry their names at their ends instead of a legend. Holds no numbers of its own; matplotlib
is imported when a plot is drawn.
"""

import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from evaluation.page import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-ins that matplotlib accepts; the SVG gets the page's variable of that name instead.
INK, MUTED, GRID = "#010101", "#020202", "#030303"
BLUE, ORANGE, GREEN, FLOOR = "#040404", "#050505", "#060606", "#070707"
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    BLUE: "blue",
    ORANGE: "orange",
    GREEN: "green",
    FLOOR: "floor",
}
MAX_POINTS = 300  # of a curve; more cannot be told apart at this width
LABEL_GAP = 0.075  # least distance of two names at the right edge, as a share of the height
WIDE, SMALL = (5.6, 3.1), (3.6, 2.1)  # inches
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": MUTED,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
}


@dataclass(frozen=True)
class Curve:
    """One line: points are (step, value) in the order they were logged."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str


@dataclass(frozen=True)
class Bar:
    """One bar from zero with its interval; low and high may be None."""

    name: str
    value: float
    low: float | None
    high: float | None
    label: str
    color: str = FLOOR


@dataclass(frozen=True)
class BarGroup:
    """Bars that are compared with each other, under a name unless it is empty."""

    name: str
    bars: list[Bar] = field(default_factory=list)


def curves(
    lines: Sequence[Curve],
    *,
    tokens_per_step: int,
    y_label: str,
    references: dict[str, float] | None = None,
    size: tuple[float, float] = WIDE,
    from_zero: bool = False,
) -> Html:
    """Lines over the tokens seen; references are dashed horizontal lines with their names."""
    references = references or {}
    last_step = max(step for line in lines for step, _ in line.points)
    factor, unit = _token_unit(last_step * tokens_per_step)

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes(
            (0.1, 0.19, 0.72, 0.68) if size == WIDE else (0.15, 0.22, 0.82, 0.64)
        )
        for value in references.values():
            axes.axhline(value, color=MUTED, linewidth=0.9, dashes=(4, 3))
        ends = dict(references)
        for line in lines:
            points = thin(line.points)
            steps = [step * tokens_per_step / factor for step, _ in points]
            values = [value for _, value in points]
            marker = "o" if len(points) < 12 else None
            axes.plot(steps, values, color=line.color, linewidth=1.8, marker=marker, markersize=3.5)
            if line.name:
                ends[line.name] = values[-1]
        axes.set_xlim(0, last_step * tokens_per_step / factor)
        if from_zero:
            axes.set_ylim(bottom=0)
        axes.margins(y=0.08)
        _finish(axes, grid="y")
        axes.set_xlabel(f"{unit} seen", loc="right")
        axes.set_title(y_label, loc="left", fontsize=9, color=MUTED, x=-0.1)
        colors = dict.fromkeys(references, MUTED) | {line.name: line.color for line in lines}
        _name_ends(axes, ends, colors)

    return _svg(draw, size)


def bars(groups: Sequence[BarGroup], *, x_label: str) -> Html:
    """Groups of horizontal bars, the value at each bar's end and whiskers for the interval."""
    num_bars = sum(len(group.bars) for group in groups)
    num_names = sum(bool(group.name) for group in groups)
    height = 0.65 + 0.27 * num_bars + 0.4 * num_names

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.24, 0.5 / height, 0.62, 1 - 0.55 / height))
        place, ticks, names = 0.0, [], []
        for group in groups:
            if group.name:
                _name_group(axes, group.name, place)
                place += 1.0
            for bar in group.bars:
                _draw_bar(axes, bar, place)
                ticks.append(place)
                names.append(bar.name)
                place += 1.0
            place += 0.5
        axes.set_yticks(ticks, names)
        axes.set_ylim(place - 0.7, -0.6)
        axes.set_xlim(0, max(axes.get_xlim()[1], 1))  # bars that are all zero get a scale too
        _finish(axes, grid="x")
        axes.set_xlabel(x_label)

    return _svg(draw, (WIDE[0], height))


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list:
    """At most `limit` points: the means of equal runs of them; the last step stays the last."""
    per_bin = -(-len(points) // limit)
    if per_bin == 1:
        return list(points)
    bins = [points[i : i + per_bin] for i in range(0, len(points), per_bin)]
    return [(one[-1][0], sum(value for _, value in one) / len(one)) for one in bins]


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the same order and with the same mean."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    shift = sum(moved[i] - places[i] for i in order) / max(len(order), 1)
    return [place - shift for place in moved]


def _token_unit(tokens: float) -> tuple[float, str]:
    units = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand"))
    return next(((f, f"{name} tokens") for f, name in units if tokens >= f), (1, "tokens"))


def _draw_bar(axes: "Axes", bar: Bar, place: float) -> None:
    axes.barh(place, bar.value, height=0.62, color=bar.color)
    end = bar.value
    if bar.low is not None and bar.high is not None:
        axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1.1)
        axes.plot([bar.low, bar.high], [place, place], "|", color=INK, markersize=5)
        end = max(end, bar.high)
    axes.annotate(
        bar.label, (end, place), xytext=(6, 0), textcoords="offset points", va="center", color=INK
    )


def _name_group(axes: "Axes", name: str, place: float) -> None:
    """Write a group's name above its bars, at the left edge of the drawing."""
    axes.annotate(
        name,
        (0, place),
        xycoords=("figure fraction", "data"),
        va="center",
        color=INK,
        weight="bold",
        annotation_clip=False,
    )


def _finish(axes: "Axes", *, grid: str) -> None:
    """A transparent ground, grid lines across one axis, and few ticks with plain numbers."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.patch.set_alpha(0)
    axes.grid(axis=grid)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis) if grid == "y" else (axes.xaxis,):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _name_ends(axes: "Axes", ends: dict[str, float], colors: dict[str, str]) -> None:
    """Write each line's name to the right of its last value, names apart from each other."""
    bottom, top = axes.get_ylim()
    height = top - bottom or 1.0
    places = spread([(value - bottom) / height for value in ends.values()], LABEL_GAP)
    for name, place in zip(ends, places, strict=True):
        axes.annotate(
            name, (1.02, place), xycoords="axes fraction", va="center", color=colors[name]
        )


def _svg(draw, size: tuple[float, float]) -> Html:
    """Draw into a transparent figure and return it as an element of the page."""
    import matplotlib
    from matplotlib.figure import Figure

    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "report"}):
        figure = Figure(figsize=size)
        figure.patch.set_alpha(0)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=nothing)
    return Html(_inline(buffer.getvalue()))


def _inline(text: str) -> str:
    """The svg element alone, without addresses, without ids nobody refers to, in page colours."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<style.*?</style>| font-family: [^;]*;", "", text, flags=re.DOTALL)
    for color, name in VARIABLES.items():
        text = text.replace(color, f"var(--{name})")
    return text.replace("<svg ", '<svg role="img" ', 1)
