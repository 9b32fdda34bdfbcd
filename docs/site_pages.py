"""Hook of MkDocs: pages of the site that are no Markdown files in ``docs/``.

README.md becomes the first page, CONTRIBUTING.md the last, and notebooks become pages with their stored outputs.
"""

import re
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository and their names in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    docs = Path(config.docs_dir)
    for source, name in PAGES.items():
        text = (docs.parent / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=links_of_site(text)))
    for notebook in sorted(docs.glob("*.ipynb")):
        file = files.get_file_from_path(notebook.name)
        assert file is not None
        files.remove(file)
        files.append(File.generated(config, f"{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    return re.sub(r"\]\((\w+)\.ipynb", r"](\1.md", markdown)


def links_of_site(text: str) -> str:
    """Links of a file at the top of the repository, as the site has them; those to other files become plain text."""
    for source, name in PAGES.items():
        text = text.replace(f"]({source}", f"]({name}")
    text = text.replace("](docs/", "](")
    return re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)[^)]*(?<!\.md)(?<!\.ipynb)\)", unlink_files, text)


def unlink_files(link: re.Match) -> str:
    return link[0] if re.search(r"\.(md|ipynb)(#|\))", link[0]) else link[1]


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: text, code, and text or pictures that the code gave."""
    parts = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                parts.append(f'<img alt="output" src="data:image/png;base64,{"".join(data["image/png"].split())}">')
            else:
                parts.append(f"```text\n{''.join(data.get('text/plain', '')).strip()}\n```")
    return "\n\n".join(parts) + "\n"
