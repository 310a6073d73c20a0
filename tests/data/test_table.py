"""The general source: CSV, TSV, Parquet and JSON lines say the same; wrong columns are named."""

import json

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from l2d_ray.data.items import RawItem
from l2d_ray.data.sources.files import list_files
from l2d_ray.data.sources.table import open_table
from l2d_ray.errors import DataError

INTERACTIONS = pa.table({"user_id": ["007", "NA"], "item_id": ["1", "2"], "timestamp": [5, 6], "rating": [4.0, 4.5], "note": ["x", "y"]})
ITEMS = pa.table({"item_id": ["1", "2"], "title": ["One, two", 'Say "hi"'], "year": [1999, None], "genre": ["a", "b"]})


def _write(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    elif path.name.endswith(".gz"):
        with pa.CompressedOutputStream(str(path), "gzip") as sink:
            pa_csv.write_csv(table, sink)
    else:
        pa_csv.write_csv(table, path, pa_csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".parquet", ".jsonl"])
def test_formats_agree(suffix, tmp_path):
    source = open_table(_write(tmp_path / f"interactions{suffix}", INTERACTIONS), _write(tmp_path / f"items{suffix}", ITEMS))
    (table,) = source.read_interactions(source.interaction_files[0])
    assert table.to_pylist() == INTERACTIONS.drop_columns(["note"]).select(["user_id", "item_id", "rating", "timestamp"]).to_pylist()
    assert list(source.read_items(source.item_files[0])) == [
        RawItem("1", "One, two", {"year": 1999, "genre": "a"}),
        RawItem("2", 'Say "hi"', {"genre": "b"}),
    ]


def test_whole_number_ids_in_json_become_text(tmp_path):
    (tmp_path / "i.jsonl").write_text('{"user_id": 7, "item_id": 1}\n{"user_id": 8, "item_id": 2}\n')
    source = open_table(str(tmp_path / "i.jsonl"), _write(tmp_path / "items.csv", ITEMS))
    (table,) = source.read_interactions(source.interaction_files[0])
    assert table["user_id"].to_pylist() == ["7", "8"]
    assert table["timestamp"].null_count == 2


def test_attributes_may_be_one_json_object(tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": 1, "title": "T", "attributes": {"a": [1]}, "other": 2}\n')
    items = _write(tmp_path / "items.parquet", pa.table({"item_id": [1], "title": ["T"], "attributes": ['{"a": [1]}']}))
    interactions = _write(tmp_path / "i.csv", INTERACTIONS)
    for path in (items, str(tmp_path / "items.jsonl")):
        source = open_table(interactions, path)
        assert list(source.read_items(path)) == [RawItem("1", "T", {"a": [1]})]


def test_folders_are_listed_in_order_without_hidden_files(tmp_path):
    for name in ("b/2.csv", "a/1.csv", ".hidden.csv", "_tmp/3.csv", "readme.txt"):
        _write(tmp_path / name, ITEMS)
    assert list_files(str(tmp_path), [".csv"]) == (f"{tmp_path}/a/1.csv", f"{tmp_path}/b/2.csv")
    assert list_files(f"file://{tmp_path}/", [".csv"]) == (f"file://{tmp_path}/a/1.csv", f"file://{tmp_path}/b/2.csv")
    with pytest.raises(DataError, match=r"no file that ends in \.orc .*readme\.txt"):
        list_files(str(tmp_path), [".orc"])
    with pytest.raises(DataError, match="There is nothing at"):
        list_files(str(tmp_path / "absent"), [".csv"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_missing_columns_are_named_with_those_seen(suffix, tmp_path):
    interactions = _write(tmp_path / f"i{suffix}", INTERACTIONS.rename_columns(["user", "item_id", "timestamp", "rating", "note"]))
    items = _write(tmp_path / f"items{suffix}", ITEMS)
    with pytest.raises(DataError, match=r"no column user_id \(seen: user, item_id, timestamp, rating, note\)"):
        open_table(interactions, items)
    with pytest.raises(DataError, match=r"no column title"):
        open_table(_write(tmp_path / f"ok{suffix}", INTERACTIONS), interactions)


def test_a_timestamp_column_in_some_files_only_is_refused(tmp_path):
    _write(tmp_path / "i/1.csv", INTERACTIONS)
    _write(tmp_path / "i/2.csv", INTERACTIONS.drop_columns(["timestamp"]))
    with pytest.raises(DataError, match="wanted all or none"):
        open_table(str(tmp_path / "i"), _write(tmp_path / "items.csv", ITEMS))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.csv", "user_id,item_id,timestamp\na,b\n", "cannot be read"),
        ("i.csv", "user_id,item_id,timestamp\na,b,nan\n", "no finite timestamp"),
        ("i.csv", "user_id,item_id,timestamp\n,b,1\n", "1 rows have no user_id"),
        ("i.jsonl", '{"user_id": "a", "item_id": "b", "timestamp": 1}\n{"user_id": "a", "item_id": \n', "cannot be read"),
        ("i.jsonl", '{"user_id": "a", "item_id": "b", "timestamp": 1}\n{"user_id": "a", "timestamp": 2}\n', "1 rows have no item_id"),
    ],
)
def test_broken_rows_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_text(content)
    source = open_table(str(tmp_path / name), _write(tmp_path / "items.csv", ITEMS))
    with pytest.raises(DataError, match=message):
        list(source.read_interactions(source.interaction_files[0]))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"item_id": null, "title": "t"}', "item_id None"),
        ('{"item_id": 1.5, "title": "t"}', r"item_id 1\.5"),
        ('{"item_id": 1, "title": "t", "attributes": "{"}', "are no JSON"),
        ('{"item_id": 1, "title": "t", "attributes": [1]}', "wanted one JSON object"),
        ("[1]", "one JSON object a line"),
    ],
)
def test_broken_items_are_refused(line, message, tmp_path):
    (tmp_path / "items.jsonl").write_text('{"item_id": 0, "title": "t", "attributes": null}\n' + line + "\n")
    source = open_table(_write(tmp_path / "i.csv", INTERACTIONS), str(tmp_path / "items.jsonl"))
    with pytest.raises(DataError, match=message):
        list(source.read_items(source.item_files[0]))
