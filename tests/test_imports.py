"""The floors of the package, read from every import: stages only look back, Ray has its own files, nothing goes in a circle."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "l2d_ray"
STAGES = ("store", "data", "text", "model", "train", "memory", "index", "decode", "evaluate", "baselines", "serve")
RANK = {stage: rank for rank, stage in enumerate(STAGES)} | {"baselines": STAGES.index("evaluate")}
"""evaluate and baselines are one stage in two folders."""
HEAVY = ("ray", "torch", "faiss", "deepspeed", "transformers", "lance", "pyarrow", "psycopg")
FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever the import stands; ``from package import module`` counts as the module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            joined = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (joined & MODULES.keys()) or {str(node.module)}
    return frozenset(found)


def stage_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in STAGES else None


def is_below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def files_where(imports: str) -> set[str]:
    return {str(p.relative_to(PACKAGE)) for p in FILES if any(is_below(m, imports) for m in imports_of(p))}


def places_work(name: str) -> bool:
    """Files named so, or the files of a folder named so where one file would be too long."""
    return Path(name).name in ("on_ray.py", "cluster.py") or Path(name).parent.name == "on_ray"


def test_the_files_are_there():
    assert len(FILES) > 50
    assert {stage_of(name) for name in MODULES} == {None, *STAGES}
    assert "l2d_ray.text.prompts" in imports_of(PACKAGE / "text" / "harvest.py")
    assert "ray" in imports_of(PACKAGE / "cluster.py")


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_itself_and_stages_before_it(stage):
    seen = [(name, m) for name, path in MODULES.items() if stage_of(name) == stage for m in imports_of(path) if stage_of(m)]
    assert seen
    later = [f"{name} imports {module}" for name, module in seen if RANK[str(stage_of(module))] > RANK[stage]]
    assert later == []


def test_the_lowest_floor_imports_nothing_of_ours_but_itself():
    lowest = {"l2d_ray.errors", "l2d_ray.schema", "l2d_ray.wheels", "l2d_ray.config", "l2d_ray.cluster"}
    ours = {name: {m for m in imports_of(MODULES[name]) if is_below(m, "l2d_ray")} for name in lowest}
    assert ours["l2d_ray.errors"] == set()
    assert all(found <= {"l2d_ray.errors", "l2d_ray.schema"} for found in ours.values())


def test_nothing_below_the_jobs_imports_a_job_or_a_test():
    assert files_where("jobs") == files_where("tests") == files_where("benchmarks") == set()


@pytest.mark.parametrize("library", ["ray", "deepspeed"])
def test_only_files_that_place_work_import_ray(library):
    found = files_where(library)
    assert found
    assert {name for name in found if not places_work(name)} == set()


def test_only_files_that_place_work_import_the_configuration():
    found = files_where("l2d_ray.config")
    assert {name for name in found if Path(name).name != "on_ray.py" and not name.startswith("serve/")} == set()


def test_encoder_memory_and_index_do_not_know_each_other():
    pure = {name: path for name, path in MODULES.items() if path.name != "on_ray.py"}
    foreign = {"model": ("memory", "index"), "memory": ("model", "train"), "index": ("model", "train")}
    for stage, others in foreign.items():
        modules = [name for name in pure if stage_of(name) == stage]
        assert modules
        assert [m for name in modules for m in imports_of(pure[name]) if stage_of(m) in others] == []


def test_there_are_no_cycles():
    graph = {name: {m for m in imports_of(path) if m in MODULES and m != name} for name, path in MODULES.items()}
    assert sum(map(len, graph.values())) > 100
    while leaves := {name for name, found in graph.items() if not found & graph.keys()}:
        graph = {name: found for name, found in graph.items() if name not in leaves}
    assert graph == {}


@pytest.mark.parametrize("module", ["l2d_ray", "l2d_ray.errors", "l2d_ray.store.open"])
def test_importing_the_package_loads_no_heavy_library(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.slow
def test_importing_a_pure_module_loads_no_ray():
    pure = sorted(name for name, path in MODULES.items() if path.name not in ("on_ray.py", "cluster.py") and stage_of(name) != "serve")
    assert len(pure) > 40
    code = f"import importlib, sys; [importlib.import_module(name) for name in {pure!r}]; print('ray' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.slow
def test_a_service_s_process_loads_no_model_class_and_no_compiler_before_it_loads_a_model():
    slow = ("torch._dynamo", "transformers.models.llama.modeling_llama")
    code = f"import sys, l2d_ray.serve.on_ray; print('torch' in sys.modules, [name for name in {slow!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "True []"
