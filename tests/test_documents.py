"""README, docs and notebooks: their links, options, files and code exist, and the notebooks run."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny import ROOT

from app.settings import Settings, setting_names

DOCS = ROOT / "docs"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")), *NOTEBOOKS]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def text_of(page: Path) -> str:
    if page.suffix != ".ipynb":
        return page.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in nbformat.read(page, 4).cells)


def anchors(page: Path) -> set[str]:
    """Anchors that a link may name after ``#``: the headings, as GitHub and MkDocs write them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_to_files_and_headings_that_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_in_documents_are_settings(page):
    named = set(re.findall(r"--((?:data|model|train)\.[a-z_.]+[a-z_])", text_of(page)))
    sections = {name.rsplit(".", 1)[0] for name in setting_names(Settings)}  # --train.scales.* names a section
    assert named - set(setting_names(Settings)) - sections == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_code_files_in_documents_exist(page):
    named = re.findall(r"`((?:app|data|models|tests|benchmarks|docs|configs)/[\w/]+\.(?:py|yaml|md))", text_of(page))
    assert [path for path in named if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.stem)
def test_python_examples_are_python(page):
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(example)


def test_readme_has_at_most_120_lines():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


def test_pictures_are_small():
    assert [p.name for p in (DOCS / "images").iterdir() if p.stat().st_size > 300_000] == []


def test_generated_pages_follow_the_code(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(DOCS))
    generate = importlib.import_module("generate")
    assert generate.main(["--check"]) == 0, capsys.readouterr().out


LESS = {
    "tutorial": {'240, "train"': '48, "train"', '"--train.epochs", "4"': '"--train.epochs", "1"'},
    "own_loop": {'make_shapes(150, "train")': 'make_shapes(40, "train")'},
}
"""Fewer pictures and epochs than a notebook has, because its figures are not tested."""


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_from_top_to_bottom(path):
    folder, notebook = {"metadata": {"path": str(DOCS)}}, nbformat.read(path, 4)
    for theirs, ours in LESS[path.stem].items():
        assert any(theirs in cell.source for cell in notebook.cells)
        for cell in notebook.cells:
            cell.source = cell.source.replace(theirs, ours)
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=folder).execute()
