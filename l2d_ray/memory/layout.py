"""Which of Lance's files hold what, so that every error about a damaged one can name it; and the one place that turns what Lance says
about such files into ArtefactError.

    entries.lance/_versions/N.manifest   one a version, N = 2^64 - 1 - version: schema, files of rows, the version's state
    entries.lance/_deletions/            lists of deleted rows, which a manifest names
    entries.lance/data/                  rows

Source: https://lance.org/format/table/ ("Manifest Naming Schemes", V2; "Deletion Files").
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from lance.fragment import FragmentMetadata
from pyarrow import fs

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.storage import location

LANCE_ERRORS = (OSError, ValueError, RuntimeError, KeyError)
"""What Lance raises for files that are missing or not what they should be."""
PANIC = "PanicException"
"""Name of what a failed assertion in Lance's Rust code raises: no Exception, and of a type that cannot be imported."""
SUFFIX = ".manifest"


class Reading:
    """A ``with`` block in which Lance reads: what it says about files that are not as they were written becomes ArtefactError.

    Args:
        describe: called for a failure alone; names what cannot be read, and its files.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, LANCE_ERRORS) or type(error).__name__ == PANIC:
            raise ArtefactError(
                f"{self._describe()} cannot be read ({str(error)[:300]}); restore the file, go back to a version that exists with "
                "jobs.memory, or build the memory again."
            ) from error


def manifest_of(table_uri: str, version: int | None) -> str:
    """Path of a version's manifest, of the newest where None; names the folder where that is empty."""
    versions = versions_of(table_uri) if version is None else [version]
    return f"{table_uri}/_versions/" + "".join(f"{2**64 - 1 - number:020}{SUFFIX}" for number in versions[-1:])


def versions_of(table_uri: str) -> list[int]:
    """Every version that is stored, ascending; empty where there is no table."""
    filesystem, path = location(table_uri)
    found = filesystem.get_file_info(fs.FileSelector(f"{path}/_versions", allow_not_found=True))
    numbers = [info.base_name.removesuffix(SUFFIX) for info in found if info.base_name.endswith(SUFFIX)]
    return sorted(2**64 - 1 - int(number) for number in numbers if number.isdecimal())


def files_of(table_uri: str, fragment: FragmentMetadata) -> list[str]:
    """Paths of a file of rows and of its list of deleted rows."""
    deleted = [] if fragment.deletion_file is None else [f"{table_uri}/{fragment.deletion_file.path(fragment.id)}"]
    return [*(f"{table_uri}/data/{file.path}" for file in fragment.files), *deleted]
