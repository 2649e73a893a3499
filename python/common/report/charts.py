"""Inline SVG for the page. Positions are percentages, sizes pixels: the charts fill any width undistorted.

Colours and strokes come from the page's style sheet by class, so light, dark and print are one drawing.
"""

from collections.abc import Sequence

from markupsafe import Markup, escape

BINS = 20


class Scale:
    """Maps values of [low, high] to percentages of the drawing's width, with a margin at both ends."""

    def __init__(self, low: float, high: float, margin: float = 2.0):
        self.low, self.high, self._margin = low, high, margin

    def at(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self._margin + share * (100 - 2 * self._margin), 3)

    def ticks(self) -> list[float]:
        """About five round values inside the range."""
        width = self.high - self.low
        step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5) if width / s <= 6), 1.0)
        first = int(self.low / step) - 1
        return [step * k for k in range(first, first + 12) if self.low - 1e-9 <= step * k <= self.high + 1e-9]


def interval_scale(intervals: Sequence[dict], marks: Sequence[float]) -> Scale:
    """A scale that holds all intervals and marks, with some room, inside [-1, 1]."""
    values = [value for interval in intervals for value in (interval["low"], interval["high"])] + list(marks)
    room = 0.08 * (max(values) - min(values)) or 0.05
    return Scale(max(-1.0, min(values) - room), min(1.0, max(values) + room))


def draw_interval(scale: Scale, value: float, interval: dict, marks: Sequence[float], kind: str, title: str) -> Markup:
    """One row: the interval as a bar, the value as a dot, thresholds as upright lines."""
    low, high, dot = scale.at(interval["low"]), scale.at(interval["high"]), scale.at(value)
    lines = "".join(
        f'<line class="mark mark-{k}" x1="{scale.at(mark)}%" x2="{scale.at(mark)}%" y1="0" y2="34"/>'
        for k, mark in enumerate(marks)
    )
    return Markup(
        f'<svg class="strip" role="img" height="34" width="100%"><title>{escape(title)}</title>{lines}'
        f'<rect class="range {kind}" x="{low}%" width="{max(high - low, 0.3):.3f}%" y="13" height="8" rx="4"/>'
        f'<circle class="dot {kind}" cx="{dot}%" cy="17" r="5.5"/></svg>'
    )


def draw_axis(scale: Scale, form) -> Markup:
    """The labels under rows of intervals."""
    labels = "".join(
        f'<line class="tick" x1="{scale.at(t)}%" x2="{scale.at(t)}%" y1="0" y2="4"/>'
        f'<text x="{scale.at(t)}%" y="17" text-anchor="middle">{escape(form(t))}</text>'
        for t in scale.ticks()
    )
    return Markup(f'<svg class="axis" height="20" width="100%" aria-hidden="true">{labels}</svg>')


def draw_distribution(scores: Sequence[float], kind: str, title: str, height: int = 84) -> Markup:
    """A histogram over [0, 1] in twenty bins; each bar tells its range and count."""
    counts = [0] * BINS
    for score in scores:
        counts[min(int(score * BINS + 1e-9), BINS - 1)] += 1
    tallest = max(counts)
    bars = []
    for k, count in enumerate(counts):
        if not count:
            continue
        tall = max(3.0, (height - 16) * count / tallest)
        tip = f"{5 * k} to {5 * (k + 1)} %: {count}"
        bars.append(
            f'<rect class="bar {kind}" x="{k * 100 / BINS + 0.4:.2f}%" width="{100 / BINS - 0.8:.2f}%" '
            f'y="{height - tall:.1f}" height="{tall:.1f}" rx="2"><title>{tip}</title></rect>'
            f'<text x="{(k + 0.5) * 100 / BINS:.2f}%" y="{height - tall - 4:.1f}" text-anchor="middle">{count}</text>'
        )
    return Markup(
        f'<svg class="histogram" role="img" height="{height}" width="100%"><title>{escape(title)}</title>'
        f'<line class="ground" x1="0" x2="100%" y1="{height - 0.5}" y2="{height - 0.5}"/>{"".join(bars)}</svg>'
    )


def draw_bar(share: float, kind: str) -> Markup:
    """A horizontal bar of a share of 1."""
    return Markup(
        '<svg class="meter" height="10" width="100%" aria-hidden="true">'
        '<rect class="rail" width="100%" height="10" rx="5"/>'
        f'<rect class="bar {kind}" width="{100 * share:.2f}%" height="10" rx="5"/></svg>'
    )
