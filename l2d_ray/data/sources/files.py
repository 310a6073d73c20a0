"""Files and streams of rows, on a local disk or an object store (any URI that pyarrow.fs knows), compressed or not.

Nothing is read whole: text comes in chunks of whole lines, tables in batches. What cannot be read is a DataError that names the file.
"""

from __future__ import annotations

import codecs
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.fs as pa_fs
import pyarrow.json as pa_json
import pyarrow.parquet as pq

from l2d_ray.errors import DataError

CHUNK_BYTES: Final = 16 << 20
BATCH_ROWS: Final = 1 << 18
COMPRESSIONS: Final = ("", ".gz", ".bz2", ".zst")
CSV_SUFFIXES: Final = tuple(f"{kind}{packed}" for kind in (".csv", ".tsv") for packed in COMPRESSIONS)
JSON_SUFFIXES: Final = tuple(f"{kind}{packed}" for kind in (".jsonl", ".json", ".ndjson") for packed in COMPRESSIONS)
TABLE_SUFFIXES: Final = (*CSV_SUFFIXES, *JSON_SUFFIXES, ".parquet")


def list_files(location: str, suffixes: Sequence[str]) -> tuple[str, ...]:
    """The file at a path or URI, or all files below a folder that end in one of ``suffixes``, ascending; hidden ones are skipped.

    Local paths are made absolute, so that workers with another working directory find them. DataError where there is none.
    """
    location = location if "://" in location else str(Path(location).expanduser().absolute())
    filesystem, path = _resolve(location)
    kind = filesystem.get_file_info(path).type
    if kind == pa_fs.FileType.NotFound:
        raise DataError(f"There is nothing at {location}; correct the path.")
    if kind == pa_fs.FileType.File:
        return (location,)
    infos = filesystem.get_file_info(pa_fs.FileSelector(path, recursive=True))
    below = sorted(info.path[len(path.rstrip("/")) + 1 :] for info in infos if info.type == pa_fs.FileType.File)
    names = [name for name in below if name.endswith(tuple(suffixes)) and not any(part[0] in "._" for part in name.split("/"))]
    if not names:
        seen = ", ".join(below[:5]) or "no file"
        raise DataError(f"{location} holds no file that ends in {', '.join(suffixes)} (seen: {seen}); correct the path.")
    folder, mark, query = location.partition("?")
    return tuple(f"{folder.rstrip('/')}/{name}{mark}{query}" for name in names)


def total_bytes(paths: Sequence[str]) -> int:
    """Stored size of all files together."""
    infos = (filesystem.get_file_info(path) for filesystem, path in map(_resolve, paths))
    return sum(info.size or 0 for info in infos)


def _resolve(location: str) -> tuple[Any, str]:
    if "://" not in location:
        return pa_fs.LocalFileSystem(), location
    try:
        filesystem, path = pa_fs.FileSystem.from_uri(location)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"The location {location} cannot be opened ({error}); give a path, or a URI such as s3://bucket/folder.") from None
    return filesystem, path


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what pyarrow and json say about broken input into a DataError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, EOFError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); check its format and whether it is complete.") from error


def open_stream(path: str) -> Any:
    """Binary stream of a file's decompressed content."""
    filesystem, inner = _resolve(path)
    return filesystem.open_input_stream(inner)


def line_chunks(path: str) -> Iterator[bytes]:
    """The content in chunks of whole lines, each of about CHUNK_BYTES."""
    rest = b""
    with reading(path), open_stream(path) as stream:
        while data := stream.read(CHUNK_BYTES):
            lines, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield lines + newline
    if rest.strip():
        yield rest


def json_rows(path: str) -> Iterator[dict[str, Any]]:
    """One JSON object a line, as Python dicts."""
    for chunk in line_chunks(path):
        for line in chunk.splitlines():
            if line.strip():
                with reading(path):
                    row = json.loads(line)
                if not isinstance(row, dict):
                    raise DataError(f"{path} holds the line {line[:60]!r}, wanted one JSON object a line.")
                yield row


def json_tables(path: str, types: Mapping[str, pa.DataType]) -> Iterator[pa.Table]:
    """Typed columns of JSON lines; other fields are skipped without being parsed, absent ones are null."""
    options = pa_json.ParseOptions(explicit_schema=pa.schema(types.items()), unexpected_field_behavior="ignore")
    for chunk in line_chunks(path):
        with reading(path):
            table = pa_json.read_json(io.BytesIO(chunk), pa_json.ReadOptions(block_size=len(chunk) + 1), options)
        yield table


def delimited_tables(path: str, names: Sequence[str], types: Mapping[str, pa.DataType], separator: bytes) -> Iterator[pa.Table]:
    """Columns ``names`` of a text without header or quotes, split at ``separator`` of any length (tabs may not occur in it)."""
    read = pa_csv.ReadOptions(column_names=list(names), block_size=2 * CHUNK_BYTES)
    parse = pa_csv.ParseOptions(delimiter="\t", quote_char=False)
    for chunk in line_chunks(path):
        with reading(path):
            table = pa_csv.read_csv(
                io.BytesIO(chunk.replace(separator, b"\t")), read, parse, pa_csv.ConvertOptions(column_types=dict(types))
            )
        yield table


def column_names(path: str) -> tuple[str, ...]:
    """Names of the columns (JSON lines: the fields of the first line)."""
    with reading(path):
        if path.endswith(".parquet"):
            with _open_parquet(path) as file:
                return tuple(file.schema_arrow.names)
        if path.endswith(JSON_SUFFIXES):
            return tuple(next(json_rows(path), {}))
        header = next(line_chunks(path), b"").split(b"\n", 1)[0].removeprefix(codecs.BOM_UTF8)
        return tuple(name.strip().strip('"') for name in header.decode().rstrip("\r").split(_delimiter(path)))


def csv_tables(path: str, types: Mapping[str, pa.DataType], delimiter: str | None = None) -> Iterator[pa.Table]:
    """All columns of a CSV (or TSV) file with a header; ``types`` fixes columns, the others are inferred from the first block."""
    convert = pa_csv.ConvertOptions(column_types=dict(types), strings_can_be_null=True, null_values=[""])
    parse = pa_csv.ParseOptions(delimiter=delimiter or _delimiter(path), newlines_in_values=True)
    with reading(path), open_stream(path) as stream, pa_csv.open_csv(stream, parse_options=parse, convert_options=convert) as batches:
        for batch in batches:
            yield pa.Table.from_batches([batch])


def parquet_tables(path: str, columns: Sequence[str] | None) -> Iterator[pa.Table]:
    """Batches of a Parquet file; None reads all columns."""
    with reading(path), _open_parquet(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def _open_parquet(path: str) -> Any:
    filesystem, inner = _resolve(path)
    return pq.ParquetFile(filesystem.open_input_file(inner))


def _delimiter(path: str) -> str:
    return "\t" if ".tsv" in path.rsplit("/", 1)[-1] else ","
