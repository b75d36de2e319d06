"""Curves of latency over load, as SVG that any browser shows; both axes logarithmic."""

import math
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 760, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 30, 60
_COLOURS = ("#c2410c", "#1d4ed8", "#15803d")
_X = (20_000.0, 20_480_000.0)
_Y = (1.0, 300.0)


def picture(curves: dict[str, list[tuple[float, float]]]) -> str:
    """The SVG of curves by name: calls/s and milliseconds."""
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="13">'
    )
    parts = [opening, f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>']
    for load in (20_000, 100_000, 1_000_000, 10_000_000):
        parts.append(_line(_x(load), _y(_Y[0]), _x(load), _y(_Y[1])))
        parts.append(_text(_x(load), _HEIGHT - _BOTTOM + 20, f"{load:,}", "middle"))
    for late in (1, 3, 10, 30, 100, 300):
        parts.append(_line(_x(_X[0]), _y(late), _x(_X[1]), _y(late)))
        parts.append(_text(_LEFT - 8, _y(late) + 4, f"{late}", "end"))
    parts.append(
        _text(_WIDTH / 2, _HEIGHT - 12, "calls/s, one in five of which changes a state", "middle")
    )
    parts.append(
        _text(
            8,
            18,
            "ms for 99 of 100 changes; 100 nodes; each database has 32 cores and 1 GB/s of WAL",
        )
    )
    for points, colour in zip(curves.values(), _COLOURS, strict=True):
        seen = [(_x(load), _y(min(late, _Y[1]))) for load, late in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in seen)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
    for place, (name, colour) in enumerate(zip(curves, _COLOURS, strict=True)):
        height = _TOP + 22 + 20 * place
        parts.append(
            f'<line x1="{_LEFT + 12}" x2="{_LEFT + 40}" y1="{height - 4}" y2="{height - 4}" '
            f'stroke="{colour}" stroke-width="2.5"/>'
        )
        parts.append(_text(_LEFT + 48, height, name))
    return "\n".join([*parts, "</svg>", ""])


def _x(load: float) -> float:
    share = math.log(load / _X[0]) / math.log(_X[1] / _X[0])
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _y(late: float) -> float:
    share = math.log(late / _Y[0]) / math.log(_Y[1] / _Y[0])
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#d4d4d8"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="#18181b">{escape(text)}</text>'
    )
