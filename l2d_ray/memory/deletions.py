"""Lists of deleted rows, named after the hash of their content, so that one that was changed is refused before Lance reads it.

Lance gives such a file a random number as part of its name, and believes what it reads: one flipped byte in its footer can ask for an
allocation that ends the process. So a commit puts the content's hash in the place of that number.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b

from lance.fragment import DeletionFile, FragmentMetadata

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.storage import read_bytes, remove_file, write_bytes


def with_named_deletions(table_uri: str, fragment: FragmentMetadata) -> FragmentMetadata:
    """The fragment with its list of deleted rows under its hash; the same one where there is no list, or it has that name."""
    listed = fragment.deletion_file
    if listed is None:
        return fragment
    path = listed.path(fragment.id)
    content = read_bytes(table_uri, path) or b""
    if listed.id == _hash(content):
        return fragment
    renamed = DeletionFile(listed.read_version, _hash(content), listed.file_type, listed.num_deleted_rows, listed.base_id)
    write_bytes(table_uri, renamed.path(fragment.id), content)
    remove_file(table_uri, path)
    return replace(fragment, deletion_file=renamed)


def check_deletions(table_uri: str, fragment: FragmentMetadata) -> None:
    """Raise ArtefactError, which names the file, where a list of deleted rows is missing or not as it was committed."""
    listed = fragment.deletion_file
    if listed is not None and _hash(read_bytes(table_uri, listed.path(fragment.id)) or b"") != listed.id:
        raise ArtefactError(
            f"{table_uri}/{listed.path(fragment.id)} is missing, truncated or changed; restore the file, or go back to another version."
        )


def _hash(content: bytes) -> int:
    """A number below 2^63."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little") >> 1
