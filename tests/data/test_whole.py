"""A folder of results appears whole or not at all, and never over somebody else's files."""

import pytest

from l2d_ray.data.whole import whole_folder
from l2d_ray.errors import ArtefactError


def _write(destination, text):
    with whole_folder(destination, marker="card") as folder:
        (folder / "card").write_text(text)
        if text == "broken":
            raise KeyError(text)


def test_appears_replaces_and_survives_a_failure(tmp_path):
    destination = tmp_path / "run" / "data"
    with pytest.raises(KeyError):
        _write(destination, "broken")
    assert list(destination.parent.iterdir()) == []
    for text in ("first", "second"):
        _write(destination, text)
        assert (destination / "card").read_text() == text
    with pytest.raises(KeyError):
        _write(destination, "broken")
    assert (destination / "card").read_text() == "second"
    assert list(destination.parent.iterdir()) == [destination]


def test_other_files_are_never_replaced(tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ArtefactError, match="holds other files"):
        _write(tmp_path, "first")
    assert (tmp_path / "mine").read_text() == "x"
