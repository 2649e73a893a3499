"""Inline SVG curves over the steps of a run. Lines stretch with the page; numbers and dots do not.

Colours come from the page's style sheet by class, as in :mod:`common.report.charts`.
"""

from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

MOST_POINTS = 400  # of a line; a longer one is drawn through the means of neighbours
_HEIGHT = 200

Point = tuple[float, float]


def thin_out(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Return at most ``most`` points, each the mean of its neighbours."""
    if len(points) <= most:
        return list(points)
    cuts = [len(points) * k // most for k in range(most + 1)]
    groups = (points[a:b] for a, b in zip(cuts, cuts[1:], strict=False))
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def round_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return at most ``most`` + 1 round values from ``low`` to ``high``."""
    span = (high - low) or 1.0
    power = 10.0
    while power > span:
        power /= 10
    while power * 10 <= span:
        power *= 10
    step = next(s for s in (power / 5, power / 2, power, 2 * power, 5 * power, 10 * power) if span / s <= most)
    first = -(-low // step)
    ticks = [step * (first + k) for k in range(most + 2)]
    return [round(tick, 10) for tick in ticks if tick <= high + 1e-9]


def draw_curves(
    lines: Sequence[tuple[str, str, Sequence[Point]]],
    title: str,
    form: Callable[[float], str],
    *,
    dots: Sequence[tuple[str, Point]] = (),
    level: tuple[str, float] | None = None,
) -> Markup:
    """Draw ``lines`` (label, class, points by step), ``dots`` with a label each, and a dashed ``level`` with its label.

    The upright axis begins at 0. Returns "" when there is nothing to draw.
    """
    points = [point for _, _, line in lines for point in line] + [point for _, point in dots]
    if not points:
        return Markup("")
    last = max(max(x for x, _ in points), 1)
    high = max([y for _, y in points] + ([level[1]] if level else [])) * 1.08 or 1.0

    def at(point: Point) -> tuple[float, float]:
        return 100 * point[0] / last, 100 - 100 * point[1] / high

    parts = [
        f'<line class="grid" x1="0" x2="100%" y1="{at((0, tick))[1]:.2f}%" y2="{at((0, tick))[1]:.2f}%"/>'
        f'<text x="-8" y="{at((0, tick))[1]:.2f}%" dy="4" text-anchor="end">{escape(form(tick))}</text>'
        for tick in round_ticks(0, high)
    ]
    parts += [
        f'<text x="{100 * tick / last:.2f}%" y="{_HEIGHT + 18}" text-anchor="middle">{tick:,.0f}</text>'
        for tick in round_ticks(0, last)
        if tick == int(tick)
    ]
    if level:
        y = at((0, level[1]))[1]
        parts.append(f'<line class="level" x1="0" x2="100%" y1="{y:.2f}%" y2="{y:.2f}%"/>')
        parts.append(f'<text x="100%" y="{y:.2f}%" dy="-5" text-anchor="end">{escape(level[0])}</text>')
    paths = []
    for _, kind, line in lines:
        places = " ".join(f"{x:.3f},{y:.3f}" for x, y in map(at, thin_out(line)))
        paths.append(f'<polyline class="curve {kind}" points="{places}"/>')
    parts.append(
        f'<svg viewBox="0 0 100 100" width="100%" height="100%" preserveAspectRatio="none">{"".join(paths)}</svg>'
    )
    parts += [
        f'<circle class="dot finetuned" cx="{at(point)[0]:.2f}%" cy="{at(point)[1]:.2f}%" r="4">'
        f"<title>{escape(label)}</title></circle>"
        for label, point in dots
    ]
    return Markup(
        f'<div class="curves"><svg role="img" height="{_HEIGHT}" width="100%"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg></div>"
    )
