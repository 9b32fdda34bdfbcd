"""Diagrams of the documentation as SVG, readable on light and dark pages."""

import html
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

Point = tuple[float, float]
Node = str | tuple[str, str, int]
"""A room, or the point where an arrow (from, to) passes a level that lies between its ends."""

STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #1d2126; text-anchor: middle; }
.name { font-weight: 600; }
.small { font-size: 12px; fill: #5d6672; }
rect { fill: #ffffff; stroke: #3b82c4; }
.data rect { stroke: #8a8f98; }
.cell rect, rect.cell { stroke: #ffffff; stroke-width: 0.6; }
path { fill: none; stroke: #8a8f98; stroke-width: 1.3; }
marker path { fill: #8a8f98; stroke: none; }
circle.sum { fill: #ffffff; stroke: #3b82c4; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e6e1; } .small { fill: #a3abb6; } rect, circle.sum { fill: #1c2026; }
  .cell rect, rect.cell { stroke: #1c2026; }
}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 0 L8 4 L0 8 z"/></marker></defs>"""
BLUES = ("#3b82c4", "#7fb2e0", "#b9d6ee", "#9cc4e6", "#5b9bd4")
"""Shades of the cells of a grid."""


def svg(width: float, height: float, parts: Iterable[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    return "\n".join([head, f"<title>{html.escape(title)}</title>", STYLE, *parts, "</svg>"]) + "\n"


def label(x: float, y: float, text: str, css: str = "") -> str:
    return f'<text class="{css}" x="{x:g}" y="{y:g}">{html.escape(text)}</text>'


def box(x: float, y: float, width: float, height: float, name: str, note: str = "", css: str = "") -> str:
    """A rounded box with a name and a note, around the centre ``(x, y)``."""
    corner = f'x="{x - width / 2:g}" y="{y - height / 2:g}"'
    lines = [label(x, y + (-2 if note else 5), name, "name")]
    if note:
        lines.append(label(x, y + 15, note, "small"))
    return f'<g class="{css}"><rect {corner} width="{width:g}" height="{height:g}" rx="7"/>{"".join(lines)}</g>'


def arrow(*points: Point) -> str:
    """A line through points with a tip at its end."""
    first, *rest = (f"{x:g} {y:g}" for x, y in points)
    return f'<path d="M{first} L{" ".join(rest)}" marker-end="url(#tip)"/>'


def falling_curve(points: list[Point]) -> str:
    """A smooth line from top to bottom, vertical at each of its points, with a tip at its end."""
    path = f"M{points[0][0]:g} {points[0][1]:g}"
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (y1 + y2) / 2
        path += f" C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {y2:g}"
    return f'<path d="{path}" marker-end="url(#tip)"/>'


def layered_graph(edges: dict[str, set[str]], notes: dict[str, str], title: str) -> str:
    """A graph without cycles in levels; every arrow points down (Sugiyama et al. 1981).

    Args:
        edges: node → nodes that its arrows point at.
        notes: a few words for each node.
    """
    levels, routes = levels_of(edges), []
    rows: dict[int, list[Node]] = defaultdict(list)
    for node, level in levels.items():
        rows[level].append(node)
    for node, others in edges.items():
        for other in sorted(others):
            passed = range(levels[node] - 1, levels[other], -1)
            routes.append([node, *((node, other, level) for level in passed), other])
            for level in passed:
                rows[level].append((node, other, level))
    width, high, gap, top = 184, 46, 84, max(rows)
    xs = place(rows, routes, width + 24)
    shift = width / 2 + 6 - min(x for node, x in xs.items() if isinstance(node, str))
    at = {node: (xs[node] + shift, (top - level) * gap + high / 2 + 6) for level, row in rows.items() for node in row}
    arrows = []
    for route in routes:
        (start, bottom), (end, top_edge) = at[route[0]], at[route[-1]]
        between = [(x, y + side) for x, y in (at[point] for point in route[1:-1]) for side in (-high / 2, high / 2)]
        points = [(start, bottom + high / 2), *between, (end, top_edge - high / 2 - 1)]
        arrows.append(falling_curve(points))
    boxes = [
        box(*at[node], width, high, node, notes.get(node, ""), "" if node not in ("data", "models") else "data")
        for node in levels
    ]
    size = max(x for x, _ in at.values()) + width / 2 + 6, top * gap + high + 12
    return svg(*size, [*arrows, *boxes], title)


def levels_of(edges: dict[str, set[str]]) -> dict[str, int]:
    """The level of each node, above all that it points at; those that nothing points at are on the top one."""
    found: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in found:
            found[node] = 1 + max((height(other) for other in edges[node]), default=-1)
        return found[node]

    top = max(map(height, edges))
    pointed_at = set().union(*edges.values())
    return {node: found[node] if node in pointed_at else top for node in sorted(edges)}


def place(rows: dict[int, list[Node]], routes: list[list[Node]], gap: float) -> dict[Node, float]:
    """Where each node of each row lies: near its neighbours, in an order with few crossings (barycentre method)."""
    neighbours: dict[Node, list[Node]] = defaultdict(list)
    for route in routes:
        for one, other in pairwise(route):
            neighbours[one].append(other)
            neighbours[other].append(one)
    xs = {node: index * gap for row in rows.values() for index, node in enumerate(row)}
    for sweep in range(24):
        for level in sorted(rows, reverse=sweep % 2 == 0):
            wanted = {node: sum(map(xs.get, neighbours[node])) / max(len(neighbours[node]), 1) for node in rows[level]}
            rows[level].sort(key=lambda node: (wanted[node], str(node)))
            last: float | None = None
            for node, before in zip(rows[level], [None, *rows[level]], strict=False):
                needed = gap if isinstance(node, str) and isinstance(before, str) else gap * 0.6
                xs[node] = wanted[node] if last is None else max(wanted[node], last + needed)
                last = xs[node]
            drift = sum(xs[node] - wanted[node] for node in rows[level]) / len(rows[level])
            for node in rows[level]:
                xs[node] -= drift
    return xs


def grid(x: float, y: float, cell: float, colors: Iterable[str], side: int = 7) -> str:
    """A square of ``side`` × ``side`` cells with its top left corner at ``(x, y)``."""
    cells = [
        f'<rect class="cell" x="{x + column * cell:g}" y="{y + row * cell:g}" width="{cell:g}" height="{cell:g}" '
        f'style="fill:{color}"/>'
        for (row, column), color in zip(((r, c) for r in range(side) for c in range(side)), colors, strict=True)
    ]
    return f'<g class="cell">{"".join(cells)}</g>'


def architecture() -> str:
    """The classifier, from picture and text to the answer."""
    upper, lower = 66, 226
    words = ["what", "color", "is", "the", "circle", "?"]
    slots = [BLUES[index * len(words) // 49 % len(BLUES)] for index in range(49)]
    texture = [BLUES[(3 * index + index // 7) % len(BLUES)] for index in range(49)]
    found = ["#3b82c4" if index in (32, 33, 39, 40) else "#dbe8f4" for index in range(49)]
    heights = (84, 66, 50, 38, 28)
    blocks = [
        f'<rect x="{232 + 26 * number}" y="{lower - height / 2:g}" width="20" height="{height}" rx="3"/>'
        for number, height in enumerate(heights)
    ]
    picture = [
        f'<g class="data"><rect x="45" y="{lower - 42}" width="84" height="84" rx="4"/></g>',
        f'<path d="M52 {lower - 6} L84 {lower - 6} L68 {lower - 36} z" style="fill:#2850dc;stroke:none"/>',
        f'<circle cx="105" cy="{lower + 20}" r="15" style="fill:#ebcd28"/>',
    ]
    answers = [("yellow", 58), ("orange", 12), ("green", 5)]
    bars = [
        f'<rect class="cell" x="996" y="{lower - 34 + 26 * number}" width="{length}" height="14" '
        f'style="fill:{"#3b82c4" if number == 0 else "#b9d6ee"}"/>'
        + label(966, lower - 22 + 26 * number, name, "small")
        for number, (name, length) in enumerate(answers)
    ]
    parts = [
        box(90, upper, 172, 50, "text", "“what color is the circle?”", "data"),
        box(300, upper, 160, 50, "text encoder", "any HuggingFace model"),
        grid(428, upper - 42, 12, slots),
        label(572, upper - 4, "7×7 context:", "small") + label(572, upper + 12, "49 slots of text", "small"),
        *picture,
        label(87, lower + 64, "picture", "name"),
        *blocks,
        label(294, lower + 64, "VGG16", "name") + label(294, lower + 80, "or another backbone", "small"),
        grid(428, lower - 42, 12, texture),
        label(470, lower + 64, "7×7 map:", "small") + label(470, lower + 80, "49 positions", "small"),
        box(668, lower, 152, 50, "cross-attention", "starts at zero"),
        f'<circle class="sum" cx="784" cy="{lower}" r="11"/>' + label(784, lower + 5, "+"),
        grid(828, lower - 42, 12, found),
        label(870, lower + 64, "positions pooled,", "small") + label(870, lower + 80, "or a mixture of them", "small"),
        *bars,
        label(1000, lower + 64, "answer", "name"),
        arrow((177, upper), (217, upper)),
        arrow((381, upper), (424, upper)),
        arrow((133, lower), (226, lower)),
        arrow((362, lower), (424, lower)),
        arrow((514, lower), (589, lower)),
        arrow((470, upper + 44), (470, upper + 72), (668, upper + 72), (668, lower - 27)),
        label(712, lower - 50, "keys, values", "small"),
        label(558, lower - 8, "queries", "small"),
        arrow((745, lower), (771, lower)),
        arrow((796, lower), (824, lower)),
        arrow((528, lower), (528, lower + 46), (784, lower + 46), (784, lower + 13)),
        label(668, lower + 64, "residual", "small"),
        arrow((916, lower), (938, lower)),
    ]
    return svg(1070, 320, parts, "How the classifier answers a question about a picture")


def contexts() -> str:
    """Contexts of every kind, whose slots the map of a picture or of a video reads in turn."""
    rows = [
        ("text", "“has it grown?”", "text encoder", "any HuggingFace model"),
        ("second picture", "the earlier X-ray", "image encoder", "shared, or one of its own"),
        ("sound", "WAV, FLAC, OGG, MP3", "audio encoder", "AST, Wav2Vec2, Whisper …"),
        ("columns of a table", "age 61, sex F", "one vector a column", "numbers, categories"),
        ("features", "vectors made elsewhere", "as they are", "standardized"),
    ]
    gap, high, lower = 66, 50, 420
    shades = [[BLUES[(index * step // 7 + step) % len(BLUES)] for index in range(49)] for step in (6, 3, 5, 2, 4)]
    parts = []
    for number, ((name, note, encoder, about), colors) in enumerate(zip(rows, shades, strict=True)):
        y = 34 + gap * number
        parts += [
            box(96, y, 180, high, name, note, "data"),
            box(318, y, 180, high, encoder, about),
            grid(444, y - 21, 6, colors),
            arrow((187, y), (226, y)),
            arrow((409, y), (440, y)),
            arrow((488, y), (540, y), (540, lower - gap - 12), (716, lower - gap - 12), (716, lower - 27)),
        ]
    texture = [BLUES[(3 * index + index // 7) % len(BLUES)] for index in range(49)]
    parts += [
        label(598, 30, "49 slots each;", "small") + label(598, 46, "a learned token", "small"),
        label(598, 62, "for a missing one", "small"),
        box(96, lower, 180, high, "picture or video", "frames on a sheet", "data"),
        box(318, lower, 180, high, "image encoder", "one pass a frame"),
        label(466, lower + 44, "7×7 map; frames pooled", "small"),
        label(466, lower + 60, "by attention over time", "small"),
        grid(444, lower - 21, 6, texture),
        box(716, lower, 180, high, "cross-attention", "one context after the other"),
        arrow((187, lower), (226, lower)),
        arrow((409, lower), (440, lower)),
        arrow((488, lower), (624, lower)),
        label(556, lower - 8, "queries", "small"),
        label(774, lower - 42, "keys, values", "small"),
        arrow((807, lower), (846, lower)),
        box(906, lower, 116, high, "classifier", "the answer"),
    ]
    return svg(972, 492, parts, "Contexts of every kind, read one after the other by cross-attention")
