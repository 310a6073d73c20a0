"""No artefact that we load may run code: read from every call of the package and of the jobs that loads something.

Pickle, and what is built on it, runs what the file says. So: none of its modules is imported, numpy loads with ``allow_pickle=False``,
torch with ``weights_only=True``, models come from safetensors without remote code, YAML is read by ``safe_load``. One exception is
stated: DeepSpeed's state of an interrupted training, which jobs.train wrote into its own run and which nothing else ever reads.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "l2d_ray").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
FORBIDDEN_MODULES = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "_pickle"}
FORBIDDEN_CALLS = {"read_pickle", "load_pickle", "unsafe_load", "full_load", "load_all"}
DEEPSPEED_STATE = {"l2d_ray/train/on_ray.py"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def calls() -> Iterator[tuple[str, str, str, dict[str, object]]]:
    """File, object, method and constant keyword arguments of every call ``object.method(...)``."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                constants = {k.arg: k.value.value for k in node.keywords if k.arg and isinstance(k.value, ast.Constant)}
                given = {k.arg: None for k in node.keywords if k.arg}
                yield name_of(path), ast.unparse(node.func.value), node.func.attr, {**given, **constants}


def test_no_module_that_unpickles_is_imported():
    assert len(FILES) > 100
    imported = {
        (name_of(path), module.split(".")[0])
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)])
    }
    assert ("l2d_ray/train/on_ray.py", "deepspeed") in imported
    assert {(file, module) for file, module in imported if module in FORBIDDEN_MODULES} == set()


def test_numpy_and_torch_load_data_and_never_objects():
    loads = [(file, owner, given) for file, owner, method, given in calls() if method == "load" and owner in ("np", "numpy", "torch")]
    assert len(loads) >= 2
    needed = {"np": ("allow_pickle", False), "numpy": ("allow_pickle", False), "torch": ("weights_only", True)}
    for file, owner, given in loads:
        name, value = needed[owner]
        assert given.get(name) is value, f"{file} loads with {owner}.load without {name}={value}"


def test_models_come_from_safetensors_or_gguf_and_bring_no_code():
    loads = [(file, owner, given) for file, owner, method, given in calls() if method == "from_pretrained"]
    assert len(loads) >= 4
    for file, owner, given in loads:
        assert "gguf_file" in given or given.get("trust_remote_code") is False, f"{file}: {owner}.from_pretrained may run code of the model"
        if owner.startswith("AutoModel") and "gguf_file" not in given:
            assert given.get("use_safetensors") is True, f"{file}: {owner}.from_pretrained may read a pickle"


def test_nothing_else_that_can_unpickle_is_called():
    found = [(file, owner, method) for file, owner, method, _ in calls()]
    assert len(found) > 1000
    assert [call for call in found if call[2] in FORBIDDEN_CALLS or call[1:] == ("yaml", "load")] == []
    assert {file for file, owner, method in found if method == "load_checkpoint" and owner == "engine"} == DEEPSPEED_STATE


def test_the_way_arrays_are_loaded_refuses_a_pickle(tmp_path):
    np.save(tmp_path / "array.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        np.load(tmp_path / "array.npy", allow_pickle=False)
