"""Whole files on a local disk or an object store: a file is there as it was written, or not at all.

A memory's uri is a path, or ``s3://bucket/path``. pyarrow reads and writes the files here, Lance those of the table; both take their
settings from the usual environment variables: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or what the machine's role gives),
AWS_DEFAULT_REGION, and for another server than Amazon's AWS_ENDPOINT_URL, with AWS_ALLOW_HTTP=true where it speaks http.
"""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

from pyarrow import fs


def location(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system of a place, and the place's path in it."""
    filesystem, path = fs.FileSystem.from_uri(uri if "://" in uri else str(Path(uri).absolute()))
    return filesystem, path.rstrip("/")


def read_bytes(uri: str, name: str) -> bytes | None:
    """A file's content; None where it is absent. OSError where it cannot be read."""
    filesystem, path = location(uri)
    if filesystem.get_file_info(f"{path}/{name}").type != fs.FileType.File:
        return None
    with filesystem.open_input_stream(f"{path}/{name}") as stream:
        content: bytes = stream.read()
    return content


def write_bytes(uri: str, name: str, content: bytes) -> None:
    """Write or replace a file. OSError where storage refuses."""
    filesystem, path = location(uri)
    if not isinstance(filesystem, fs.LocalFileSystem):  # an object appears once it is complete
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(content)
        return
    filesystem.create_dir(f"{path}/{name}".rpartition("/")[0], recursive=True)
    partial = f"{path}/{name}.{uuid4().hex}.partial"
    try:
        with filesystem.open_output_stream(partial) as stream:
            stream.write(content)
        filesystem.move(partial, f"{path}/{name}")
    except OSError:  # a full disk: leave nothing that takes the last of it
        remove_file(uri, partial.removeprefix(f"{path}/"))
        raise


def remove_file(uri: str, name: str) -> None:
    """Delete a file; one that is gone already is passed over."""
    filesystem, path = location(uri)
    if filesystem.get_file_info(f"{path}/{name}").type == fs.FileType.File:
        filesystem.delete_file(f"{path}/{name}")
