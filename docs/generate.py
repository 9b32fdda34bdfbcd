"""Write the parts of the documentation that follow from the code.

python docs/generate.py           write docs/options.md and the drawings in docs/images
python docs/generate.py --check   write nothing; exit with 1 if one of them is out of date
"""

import ast
import dataclasses
import sys
import typing
from collections import defaultdict
from pathlib import Path

from docstring_parser import parse_from_object
from drawings import architecture, contexts, layered_graph

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app.settings import Settings  # noqa: E402 - the repository is not an installed package

NOTES = {
    "train.py": "one training, top to bottom",
    "eval.py": "one evaluation",
    "app/command_line": "python -m app",
    "app/serving": "page and API",
    "app/studies": "doctor, k-fold, ablation",
    "app/training": "steps, checkpoints, resume",
    "app/inference": "load, predict, export",
    "app/reporting": "report, charts, model card",
    "app/evaluation": "metrics, intervals",
    "app/explanation": "evidence, regions",
    "app": "settings, precision",
    "models": "batches → logits",
    "data": "rows → batches",
}
"""What each room holds, for the drawing."""


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
    """The imports between rooms as SVG; an import that follows from others is left out."""
    return layered_graph(reduced(room_imports()), NOTES, "Rooms of the code; an arrow points at what a room imports")


def room_of(path: Path) -> str:
    """A sub-package of ``app`` or another top-level package; the modules at the top of ``app`` are one room."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "app":
        return parts[0] if len(parts) > 1 else f"{parts[0]}.py"
    if (ROOT / "app" / parts[1]).is_dir():
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


PAGES = {
    "docs/options.md": options_page,
    "docs/images/rooms.svg": rooms_graph,
    "docs/images/architecture.svg": architecture,
    "docs/images/contexts.svg": contexts,
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
