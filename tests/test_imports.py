"""Imports run one way (README, "The map"): a package imports only what stands before it."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import deepprune

ORDER = [
    ["core"],
    ["answers"],
    ["traces", "pruning"],
    ["generation", "data"],
    ["judge"],
    ["evaluation"],
    ["report"],
    ["live", "callbacks"],
    ["config"],
    ["commands"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
ROOT = Path(deepprune.__file__).parent


def module_name(path):
    parts = ["deepprune", *path.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in ROOT.rglob("*.py")}


def imported(path):
    """Every module of ours that a file imports, inside functions too.

    Importing the package alone imports no file of it: what it exports is loaded when it is used.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            submodules = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name for name in submodules if name in MODULES]
            yield from found
            if len(found) < len(submodules):
                yield node.module


def test_packages_import_only_what_stands_before_them():
    wrong = [
        f"{name} imports {other}"
        for name, path in MODULES.items()
        for other in imported(path)
        if "deepprune" not in (name, other)
        and (mine := name.split(".")[1]) != (its := other.split(".")[1])
        and RANK[its] >= RANK[mine]
    ]
    assert not wrong


def test_public_names_are_loaded_when_used():
    assert {getattr(deepprune, name).__name__ for name in deepprune.__all__} == set(
        deepprune.__all__
    )


def test_no_files_import_each_other():
    graph = {name: set(imported(path)) - {name, "deepprune"} for name, path in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(f"files import in a circle: {' -> '.join(error.args[1])}") from None
