"""The house: a file imports only from the left of its own name, and extras only where they live."""

import ast
from pathlib import Path

import pytest

import gnomon
import gnomon.planning.layers
from gnomon.planning.layers import sizes_of

ROOT = Path(gnomon.__file__).parent

ORDER = """
errors, axes, draw, isometries -> decompose, embedding -> rules -> ops -> recording -> analysis
-> planning
-> activations, blocks, editing, shared -> proof, wrapped -> adding -> code -> morphs, receipt
-> adjustments -> growth -> grower -> checkpoint, share, schedule -> opening -> simulation
-> models -> callbacks, evolution -> lab -> report -> cli -> __main__
"""
LEVEL = {name.strip(): i for i, level in enumerate(ORDER.split("->")) for name in level.split(",")}

EXTRAS = {
    "typer": {"cli"},
    "rich": {"cli", "report"},
    "lightning": {"lab", "callbacks"},
    "datasets": {"lab"},
    "sklearn": {"lab"},
    "matplotlib": {"lab"},
    "PIL": {"lab"},
    "pyarrow": {"lab"},
    "optuna": {"sweep.py", "evolution"},
    "tensorboard": {"lab"},
    "scipy": {"lab"},
    "filelock": {"lab"},
    "ray": {"evolution"},
    "transformers": {"callbacks"},
    "timm": {"opening"},
    "torchvision": {"opening"},
}
CORE = {"torch", "numpy", "safetensors"}


def files():
    return sorted(p for p in ROOT.rglob("*.py"))


def part(path):
    """The name of the house's part that a file is in."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """(module, line) of each."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            if node.module == "gnomon":
                found += [(f"gnomon.{alias.name}", node.lineno) for alias in node.names]
            else:
                found.append((str(node.module), node.lineno))
    return found


def at_the_top(path):
    """The lines of statements that run when a file is imported; not those for types alone."""
    return {node.lineno for node in ast.parse(path.read_text()).body}


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_the_left_of_its_own_name(path):
    own = part(path)
    if own == "__init__":
        return
    assert own in LEVEL, f"{own} has no place in the house: add it to ORDER"
    for module, line in imports(path):
        top, _, rest = module.partition(".")
        other = rest.partition(".")[0]
        if top == "gnomon" and rest and other != own and other in LEVEL:
            assert LEVEL[other] <= LEVEL[own], f"{path.name}:{line} imports gnomon.{other}"


def test_neither_parts_nor_the_files_in_them_import_each_other_in_a_circle():
    parts, several = {}, {}
    for path in (p for p in files() if p.name != "__init__.py"):
        own = "gnomon." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names = {module for module, _ in imports(path)}
        several[own] = {m for m, line in imports(path) if line in at_the_top(path)}
        parts.setdefault(part(path), set()).update(n.split(".")[1] for n in names if "gnomon." in n)
    for edges in (parts, several):
        done = set()
        while remaining := edges.keys() - done:
            free = {p for p in remaining if not (edges[p] & edges.keys()) - done - {p}}
            assert free, f"a circle among {sorted(remaining)}"
            done |= free


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_extras_are_imported_only_where_they_live(path):
    inside = {path.name, *path.relative_to(ROOT).parts}
    for module, line in imports(path):
        top = module.partition(".")[0]
        if top in EXTRAS:
            assert inside & EXTRAS[top], f"{path.name}:{line} imports {top}"
        elif top not in CORE | {"gnomon"}:
            assert top in __import__("sys").stdlib_module_names, f"{path.name}:{line} imports {top}"


def test_importing_gnomon_imports_no_extra():
    import subprocess
    import sys

    names = ", ".join(repr(name) for name in EXTRAS)
    code = f"import sys, gnomon; print([m for m in ({names}) if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT.parent)},
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "path", [p for p in files() if p.name == "__init__.py"], ids=lambda p: p.parent.name
)
def test_packages_only_reexport_sorted(path):
    tree = ast.parse(path.read_text())
    exported = next(
        (ast.literal_eval(n.value) for n in tree.body
         if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"), []
    )  # fmt: skip
    constants = [n for n in exported if n.isupper()]
    classes = [n for n in exported if not n.isupper() and n[0].isupper()]
    functions = [n for n in exported if n[0].islower()]
    groups = (constants, classes, functions)
    assert list(exported) == [name for group in groups for name in sorted(group)]
    imported = {a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert set(exported) - {"TABLE"} <= imported | {"TABLE"}
    for node in tree.body:
        allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
        assert isinstance(node, allowed), f"{path}:{node.lineno} does more than re-export"


def test_every_module_opens_with_a_sentence():
    for path in files():
        text = ast.get_docstring(ast.parse(path.read_text()))
        assert text and text.split("\n\n")[0].rstrip().endswith((".", ":", "?")), path


def test_the_page_about_the_house_names_every_part():
    page = (Path(__file__).parent.parent / "docs" / "house.md").read_text()
    for name in {part(path) for path in files()} - {"__init__", "__main__"}:
        assert f"`{name}`" in page or f"`{name}/`" in page, name


def test_no_file_prints_or_uses_pickle_or_the_global_generator():
    for path in (p for p in files() if part(p) not in ("lab", "cli", "report", "evolution")):
        for module, line in imports(path):
            assert module.partition(".")[0] not in ("pickle", "shelve"), f"{path}:{line}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("print", "eval", "exec"), f"{path}:{node.lineno}"


def test_layers_keep_their_sizes_in_attributes():
    """gnomon.planning.layers: what PyTorch's layers print about their width."""
    from torch import nn

    assert sizes_of(nn.Linear(3, 4), {"weight": (8, 3)}, 1) == {"out_features": 8, "in_features": 3}
    conv = nn.Conv2d(4, 6, 3, groups=2)
    assert sizes_of(conv, {"weight": (8, 3, 3, 3)}, 2) == {"out_channels": 8, "in_channels": 6}
    up = nn.ConvTranspose2d(4, 6, 3)
    assert sizes_of(up, {"weight": (5, 7, 3, 3)}, 1) == {"in_channels": 5, "out_channels": 7}
    assert sizes_of(nn.BatchNorm2d(4), {"weight": (9,)}, 1) == {"num_features": 9}
    assert sizes_of(nn.LayerNorm(4), {"weight": (9,)}, 1) == {"normalized_shape": (9,)}
    assert sizes_of(nn.Tanh(), {}, 1) == {}
