"""Imports run one way (README, "The map"): a package may import those before it, and itself."""

import ast
from pathlib import Path

import deepprune

LAYERS = [
    ["errors", "types", "seeding", "files", "flops", "provenance", "protocols"],
    ["answers"],
    ["traces", "pruning", "engines"],
    ["data"],
    ["judge"],
    ["evaluation"],
    ["report"],
    ["callbacks"],
    ["config"],
    ["commands"],
    ["cli"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("deepprune.")
        ):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "deepprune":
            yield from (a.name for a in node.names if a.name in RANK)


def test_imports_run_one_way():
    root = Path(deepprune.__file__).parent
    wrong = []
    for path in root.rglob("*.py"):
        name = path.relative_to(root).parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        for other in imported(path):
            if other != name and RANK[other] >= RANK[name] and (RANK[name] > 0 or RANK[other] > 0):
                wrong.append(f"{path.relative_to(root)} imports {other}")
    assert not wrong
