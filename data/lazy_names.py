"""Names that a package offers and imports at their first use, so that importing the package stays fast."""

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def lazy_names(package: str, file: str) -> Callable[[str], Any]:
    """The ``__getattr__`` (PEP 562) of a package whose ``__init__.py`` imports its names for type checkers only.

    The ``from module import name`` under ``if TYPE_CHECKING:`` are what it offers: each module is imported when one of
    its names is used.

    Args:
        package, file: ``__name__`` and ``__file__`` of the package.
    """
    block = next(node for node in ast.parse(Path(file).read_text(encoding="utf-8")).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    module_of = {alias.name: node.module for node in imports for alias in node.names if node.module}

    def import_name(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module_of[name]), name)

    return import_name
