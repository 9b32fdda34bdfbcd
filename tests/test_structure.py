"""Rules for all files of the repository: imports, names, safe calls, docstrings and paths."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
LOCAL = {"app", "data", "models", "eval", "train", "benchmarks"}
BASE = {"app", "data", "models"}
ROOMS = {
    "data": {"data"},
    "models": {"models", "data.errors", "data.messages", "data.contact_sheet", "data.lazy_names"},
    "app": BASE,
    "app.explanation": {"app.explanation", *BASE},
    "app.evaluation": {"app.evaluation", "app.explanation", *BASE},
    "app.reporting": {"app.reporting", "app.evaluation", "app.explanation", *BASE},
    "app.inference": {"app.inference", "app.evaluation", "app.explanation", *BASE},
    "app.training": {"app.training", "app.inference", "app.reporting", "app.evaluation", "app.explanation", *BASE},
    "app.studies": {"app.studies", "app.training", "app.inference", "app.reporting", "app.evaluation", *BASE},
    "app.serving": {
        "app.serving",
        "app.training",
        "app.inference",
        "app.reporting",
        "app.evaluation.figures",
        "app.explanation",
        *BASE,
    },
    "app.command_line": {
        "app.command_line",
        "app.studies",
        "app.training",
        "app.inference",
        "app.reporting",
        "app.evaluation",
        "app.explanation",
        *BASE,
    },
}
"""The rooms that the modules of a room may import; "app" is the top of the package."""
EVERYTHING = {"app.__init__", "app.__main__", "train", "eval", "benchmarks"}
"""Modules, and a folder, that may import every room."""
FILES = [*sorted(path for name in ("app", "data", "models", "benchmarks") for path in (ROOT / name).rglob("*.py"))]
FILES += [ROOT / "train.py", ROOT / "eval.py"]


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def room_of(module: str) -> str:
    """The room of a module or of a package."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), key=len, default=module)


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_imports_go_one_way(path):
    module = module_of(path)
    if module in EVERYTHING or module.split(".")[0] in EVERYTHING:
        return
    nodes = ast.walk(tree_of(path))
    local = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and n.module.split(".")[0] in LOCAL}
    allowed = ROOMS[room_of(module)]
    assert {name for name in local if name not in allowed and room_of(name) not in allowed} == set()


def test_modules_of_the_application_have_names_of_their_own():
    names = [path.stem for path in FILES if path.relative_to(ROOT).parts[0] == "app" and path.stem != "__init__"]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_no_call_runs_code_from_outside(path):
    """No pickle, no remote code, no truncated images, no public share; torch.load only with weights_only=True."""
    tree = tree_of(path)
    assert not imports(path) & {"pickle", "dill", "cloudpickle", "joblib"}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            assert (node.arg, node.value.value) not in {("trust_remote_code", True), ("share", True)}
        if isinstance(node, ast.Attribute):
            assert node.attr != "LOAD_TRUNCATED_IMAGES"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = [k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
            assert safe, f"torch.load without weights_only=True in line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_no_temporary_file_is_opened_a_second_time_by_name(path):
    """Windows forbids it. TemporaryFile and files in a TemporaryDirectory work on every system."""
    nodes = list(ast.walk(tree_of(path)))
    names = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    names |= {node.name for node in nodes if isinstance(node, ast.alias)}
    assert not names & {"NamedTemporaryFile", "mkstemp", "mktemp"}


APPLICATION = [path for path in FILES if "benchmarks" not in path.parts]


@pytest.mark.parametrize("path", APPLICATION, ids=[str(f.relative_to(ROOT)) for f in APPLICATION])
def test_functions_of_one_operating_system_are_not_used(path):
    assert not imports(path) & {"fcntl", "grp", "pwd", "resource", "termios", "msvcrt", "winreg"}
    tree = tree_of(path)
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not used & {"os.fork", "os.getuid", "os.killpg", "signal.SIGKILL", "signal.SIGHUP", "signal.SIGALRM"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.rename":
            raise AssertionError(f"line {node.lineno}: os.replace replaces a file on Windows too")


@pytest.mark.parametrize("path", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_no_object_is_identified_by_its_address(path):
    """A new object can have the address of a deleted one."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "id"]


def test_every_public_function_and_class_has_a_docstring():
    """Public means that another file imports it."""
    imported = set()
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in LOCAL:
                imported |= {alias.name for alias in node.names}
    silent = [
        f"{path.relative_to(ROOT)}:{node.name}"
        for path in FILES
        for node in tree_of(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in imported and not ast.get_docstring(node)
    ]
    assert silent == []


def test_paths_in_documents_exist():
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} points at {target}"


def test_the_top_folder_has_only_expected_entries():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    packages = {Path(name).parts[0] for name in tracked if name.endswith(".py") and "/" in name}
    assert packages <= {"app", "data", "models", "tests", "benchmarks", "docs"}


def test_every_break_in_the_list_is_of_code_that_occurs_once():
    code = [path.read_text() for path in FILES if "benchmarks" not in path.parts]
    breaks = yaml.safe_load((ROOT / "benchmarks/mutations.yaml").read_text())
    assert [b["breaks"] for b in breaks if sum(text.count(b["old"]) for text in code) != 1] == []
