"""The source keeps its shape: small files, short functions, typed, documented, no cycles, nothing unsafe."""

from __future__ import annotations

import ast
import graphlib
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from .source import Module, modules, public_definitions

EVERYTHING = modules()
UNSAFE_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
# cifar subclasses Unpickler to refuse almost every global; artifact names the error of torch's weights_only reader
MAY_IMPORT_PICKLE = {"holdfast.data.cifar", "holdfast.models.artifact", "holdfast.testing.signers"}
MAY_CATCH_EVERYTHING = {
    "holdfast.execution.trials",
    "holdfast.execution.passes",
    "holdfast.execution.neighbours",  # what a fault makes a model raise
    "holdfast.cli._common",
    "holdfast.testing.signers",
    "holdfast.testing.trusts",
    "holdfast.shielding.sealing.values",  # asks objects of any class for their state, and refuses those that raise
}


def test_files_are_short():
    long = {str(module.path): module.lines for module in EVERYTHING if module.lines > 400}
    assert not long


def test_functions_are_short():
    sizes = [node.end_lineno - node.lineno + 1 for module in EVERYTHING for node in module.functions]
    assert statistics.quantiles(sizes, n=10)[-1] < 40
    assert statistics.median(sizes) < 20


def nodes(kind: type[ast.AST]) -> list[tuple[Module, ast.AST]]:
    return [(module, node) for module in EVERYTHING for node in ast.walk(module.tree) if isinstance(node, kind)]


def where(found: list[tuple[Module, ast.AST]]) -> list[str]:
    return [f"{module.path}:{node.lineno}" for module, node in found]


def test_nothing_is_validated_by_assert():
    assert not where(nodes(ast.Assert))


def test_only_the_command_line_prints():
    calls = [
        (module, node)
        for module, node in nodes(ast.Call)
        if isinstance(node.func, ast.Name) and node.func.id == "print" and not module.name.startswith("holdfast.cli")
    ]
    assert not where(calls)


def test_errors_are_caught_by_name():
    def catches_everything(handler: ast.ExceptHandler) -> bool:
        if isinstance(handler.body[-1], ast.Raise) and handler.body[-1].exc is None:
            return False  # it cleans up and lets the error go on
        names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else set()
        return handler.type is None or bool(names & {"Exception", "BaseException"})

    found = [(module, node) for module, node in nodes(ast.ExceptHandler) if catches_everything(node)]
    assert not [
        place for place, (module, _) in zip(where(found), found, strict=True) if module.name not in MAY_CATCH_EVERYTHING
    ]


def imported(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return {(node.module or "").partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in node.names}


def test_nothing_unpickles():
    found = [
        (module, node)
        for module, node in nodes(ast.Import) + nodes(ast.ImportFrom)
        if imported(node) & UNSAFE_IMPORTS and module.name not in MAY_IMPORT_PICKLE
    ]
    assert not where(found)


def test_no_module_calls_an_unpickler_that_trusts_its_input():
    calls = {ast.unparse(node.func) for _, node in nodes(ast.Call)}
    assert not calls & {"pickle.load", "pickle.loads", "pickle.Unpickler", "eval", "exec"}


def test_torch_load_is_always_weights_only():
    for module, node in nodes(ast.Call):
        if ast.unparse(node.func) == "torch.load":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("weights_only") == "True", where([(module, node)])


def test_the_global_generator_is_left_alone():
    def seeds(tree: ast.AST) -> int:
        calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        return sum(calls.count(name) for name in ("torch.manual_seed", "np.random.seed", "random.seed"))

    def forked(node: ast.With) -> bool:
        return any("fork_rng" in ast.unparse(item) for item in node.items)  # which puts the generator back

    restored = {module.name: 0 for module in EVERYTHING}
    for module, node in nodes(ast.With):
        restored[module.name] += seeds(node) if forked(node) else 0
    assert {module.name: seeds(module.tree) for module in EVERYTHING} == restored


@pytest.mark.parametrize("module", EVERYTHING, ids=lambda module: module.name)
def test_everything_public_is_documented_and_typed(module: Module):
    assert ast.get_docstring(module.tree), f"{module.name} has no docstring"
    for name, node in public_definitions(module):
        if isinstance(node, ast.ClassDef):
            assert ast.get_docstring(node), f"class {name} has no docstring"
            continue
        overload = any(ast.unparse(mark).endswith(("overload", "setter")) for mark in node.decorator_list)
        # what a forward computes is said by its class
        inherits = node.name == "forward" or any(ast.unparse(m).endswith("override") for m in node.decorator_list)
        assert ast.get_docstring(node) or overload or inherits, f"{name} has no docstring"
        assert node.returns is not None, f"{name} has no return type"
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not untyped, f"{name} has untyped parameters {untyped}"


def imports_at_load(module: Module) -> set[str]:
    """Modules of holdfast that a module imports while it is being imported."""
    known = {other.name for other in EVERYTHING}
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names if alias.name in known)
        if isinstance(node, ast.ImportFrom) and node.module:
            deeper = {f"{node.module}.{alias.name}" for alias in node.names}
            found.update(deeper & known)
            if node.module in known and deeper - known:
                found.add(node.module)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(module.tree)
    return found - {module.name, "holdfast"}


def test_modules_do_not_import_each_other_in_circles():
    graph = {module.name: imports_at_load(module) for module in EVERYTHING}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError with the circle
    assert "holdfast.errors" in graph


def test_floors_import_only_downwards(repository: Path):
    tool = Path(sys.executable).with_name("lint-imports")
    if not tool.exists():
        pytest.skip("import-linter is not installed")
    result = subprocess.run([tool], cwd=repository, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
