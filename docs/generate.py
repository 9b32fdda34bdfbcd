"""Write the parts of the documentation that follow from the code.

python docs/generate.py           write docs/options.md, docs/images/rooms.svg and docs/images/architecture.svg
python docs/generate.py --check   write nothing; exit with 1 if one of them is out of date
"""

import ast
import dataclasses
import html
import sys
import typing
from collections import defaultdict
from pathlib import Path

from docstring_parser import parse_from_object

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.settings import Settings  # noqa: E402 - the repository is not an installed package

STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #1d2126; }
.small { font-size: 12px; fill: #5d6672; }
rect { fill: #ffffff; stroke: #3b82c4; }
.data rect { stroke: #8a8f98; }
path { fill: none; stroke: #8a8f98; stroke-width: 1.2; }
marker path { fill: #8a8f98; stroke: none; }
@media (prefers-color-scheme: dark) {
  text { fill: #e8e6e1; } .small { fill: #a3abb6; } rect { fill: #1c2026; }
}
</style>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 L8 4 L0 8 z"/></marker></defs>"""
ROOMS = ("training", "explanation", "evaluation", "reporting", "inference", "studies", "serving", "command_line")
"""Sub-packages of ``app``; its other modules count as one room, ``app``, and the command line as another."""


def options_page() -> str:
    """Every setting with its type, default and description, as Markdown."""
    lines = [
        "# All options",
        "",
        "Every option of `train.py`, as `--section.name value` on the command line or nested in a YAML file.",
        "Generated from the settings by `python docs/generate.py`.",
    ]
    own = [field for field in dataclasses.fields(Settings) if not dataclasses.is_dataclass(field.type)]
    lines += ["", "## Run", "", *options_table(Settings, "", own)]
    for section in dataclasses.fields(Settings):
        if dataclasses.is_dataclass(section.type):
            lines += ["", f"## {section.name}", "", *options_table(section.type, f"{section.name}.")]
    return "\n".join(lines) + "\n"


def options_table(settings: type, prefix: str, fields: list | None = None) -> list[str]:
    """A Markdown table of the fields of a settings class, nested classes included."""
    return [
        "| option | default | meaning |",
        "| --- | --- | --- |",
        *options_rows(settings, prefix, dataclasses.fields(settings) if fields is None else fields),
    ]


def options_rows(settings: type, prefix: str, fields: typing.Iterable[dataclasses.Field]) -> list[str]:
    classes = [base for base in settings.__mro__ if dataclasses.is_dataclass(base)]
    described = {p.arg_name: p.description or "" for base in classes for p in parse_from_object(base).params}
    rows = []
    for field in fields:
        if dataclasses.is_dataclass(field.type):
            rows += options_rows(field.type, f"{prefix}{field.name}.", dataclasses.fields(field.type))
            continue
        has_factory = field.default_factory is not dataclasses.MISSING
        default = field.default_factory() if has_factory else field.default
        meaning = " ".join(described[field.name].split()).replace("|", "\\|")
        rows.append(f"| `--{prefix}{field.name}` | {show(default)} | {meaning} |")
    return rows


def show(default: object) -> str:
    if default is None or default == "":
        return "–"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`".replace("|", "\\|")


def rooms_graph() -> str:
    """The imports between rooms, each room above all that it imports, as SVG."""
    imports = reduced(room_imports())
    level: dict[str, int] = {}

    def height(room: str) -> int:
        if room not in level:
            level[room] = 1 + max((height(other) for other in imports[room]), default=-1)
        return level[room]

    by_level = defaultdict(list)
    for room in sorted(imports):
        by_level[height(room)].append(room)
    width, row, box = 760, 74, (128, 34)
    top = max(by_level)
    centers = {
        room: (width * (place + 0.5) / len(rooms), (top - floor) * row + 30)
        for floor, rooms in by_level.items()
        for place, room in enumerate(rooms)
    }
    arrows = []
    for room, others in imports.items():
        for other in sorted(others):
            (x1, y1), (x2, y2) = centers[room], centers[other]
            arrows.append(arrow(x1, y1 + box[1] / 2, x2, y2 - box[1] / 2 - 2))
    boxes = [
        labelled_box(x - box[0] / 2, y - box[1] / 2, *box, room, css="data" if room in ("data", "models") else "")
        for room, (x, y) in centers.items()
    ]
    return svg(width, top * row + 60, [*arrows, *boxes], "Rooms of the code; arrows point at what a room imports")


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "app":
        return parts[0] if len(parts) > 1 else f"{parts[0]}.py"
    if len(parts) > 2 or (len(parts) == 2 and parts[1] in ROOMS):
        return f"app/{parts[1]}"
    return "app/command_line" if parts[-1] == "__main__" else "app"


def room_imports() -> dict[str, set[str]]:
    """Room → rooms that its modules import."""
    found: dict[str, set[str]] = defaultdict(set)
    files = [path for name in ("app", "data", "models") for path in (ROOT / name).rglob("*.py")]
    for path in [*files, ROOT / "train.py", ROOT / "eval.py"]:
        room = room_of(path)
        if path == ROOT / "app" / "__init__.py":
            continue  # it only offers the predictor under a shorter name
        found[room] |= set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                target = ROOT / node.module.replace(".", "/")
                if target.with_suffix(".py").is_file() or target.is_dir():
                    found[room].add(room_of(target / "_.py" if target.is_dir() else target.with_suffix(".py")))
    return {room: others - {room} for room, others in found.items()}


def reduced(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without arrows that follow from others (its transitive reduction)."""

    def reach(room: str) -> set[str]:
        return set().union(*({other} | reach(other) for other in imports[room]))

    return {
        room: {other for other in others if not any(other in reach(third) for third in others - {other})}
        for room, others in imports.items()
    }


def labelled_box(x: float, y: float, width: float, height: float, label: str, note: str = "", css: str = "") -> str:
    middle = x + width / 2
    place = f'x="{middle:g}" text-anchor="middle"'
    lines = [f'<text {place} y="{y + height / 2 + (-3 if note else 5):g}">{html.escape(label)}</text>']
    if note:
        lines.append(f'<text class="small" {place} y="{y + height / 2 + 14:g}">{html.escape(note)}</text>')
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7"/>'
    return f'<g class="{css}">{shape}{"".join(lines)}</g>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:g} {y1:g} L{x2:g} {y2:g}" marker-end="url(#tip)"/>'


def svg(width: float, height: float, parts: list[str], title: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">'
    return "\n".join([head, f"<title>{html.escape(title)}</title>", STYLE, *parts, "</svg>"]) + "\n"


def architecture() -> str:
    """The classifier, from picture and text to the answer, as SVG."""
    boxes = {
        "text": (10, 20, "text", "“what color is the circle?”", "data"),
        "encoder": (230, 20, "text encoder", "any HuggingFace encoder", ""),
        "grid": (450, 20, "context grid", "49 slots, 7×7×512", ""),
        "image": (10, 130, "picture", "resized to a square", "data"),
        "vgg": (230, 130, "VGG16", "7×7×512 feature map", ""),
        "fusion": (450, 130, "cross-attention", "positions read from slots", ""),
        "classifier": (670, 130, "position classifier", "49 answers, weighted", ""),
        "answer": (890, 130, "answer", "probabilities, “sure” or not", "data"),
    }
    size = (190, 62)
    parts = [labelled_box(x, y, *size, label, note, css) for x, y, label, note, css in boxes.values()]

    def right(a: str, b: str) -> str:
        (x1, y1, *_), (x2, y2, *_) = boxes[a], boxes[b]
        return arrow(x1 + size[0], y1 + size[1] / 2, x2 - 2, y2 + size[1] / 2)

    x, y, *_ = boxes["grid"]
    down = arrow(x + size[0] / 2, y + size[1], x + size[0] / 2, boxes["fusion"][1] - 2)
    pairs = [("text", "encoder"), ("encoder", "grid"), ("image", "vgg"), ("vgg", "fusion")]
    pairs += [("fusion", "classifier"), ("classifier", "answer")]
    parts += [*(right(a, b) for a, b in pairs), down]
    return svg(1090, 210, parts, "How the classifier answers a question about a picture")


PAGES = {
    "docs/options.md": options_page,
    "docs/images/rooms.svg": rooms_graph,
    "docs/images/architecture.svg": architecture,
}


def main(argv: list[str]) -> int:
    outdated = []
    for name, build in PAGES.items():
        path, content = ROOT / name, build()
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        outdated.append(name)
        if "--check" not in argv:
            path.write_text(content, encoding="utf-8")
            print(f"wrote {name}")
    if "--check" in argv and outdated:
        print(f"out of date: {', '.join(outdated)}; run python docs/generate.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
