"""Which data a benchmark takes from a folder: D3's files with and without times, raw Amazon files, MovieLens."""

import gzip
import json
from datetime import UTC, datetime

import pytest

from benchmarks import folders
from benchmarks.d3_folder import convert
from benchmarks.folders import MOVIELENS, Sizes, is_raw_amazon, paper_targets, run_config
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, iter_sequences
from l2d_ray.errors import DataError


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def test_sequences_without_times_are_read_with_their_split(tmp_path):
    write(tmp_path / "raw/items.txt.gz", "Title A\t0", "Title B\t1")
    write(tmp_path / "raw/sequences.tsv.gz", "user\titems\tsplit", "u\t1 0 1 0\t0012", "v\t0\t0")
    convert(tmp_path / "raw", tmp_path / "data")
    assert sorted(iter_sequences(tmp_path / "data"), key=lambda s: s.user_id) == [
        UserSequence("u", ("1", "0", "1", "0"), (None,) * 4, (0, 0, 1, 2)),
        UserSequence("v", ("0",), (None,), (0,)),
    ]
    assert Catalogue.read(tmp_path / "data/items.parquet").titles == ("Title A", "Title B")
    card = json.loads((tmp_path / "data/card.json").read_text())
    assert [card[f"num_{name}"] for name in ("users", "items", "train_samples", "valid_samples", "test_samples")] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("row", ["u\t1 0\t001", "u\t1 0\t10"])
def test_damaged_sequences_are_refused(row, tmp_path):
    write(tmp_path / "raw/items.txt.gz", "Title A\t0", "Title B\t1")
    write(tmp_path / "raw/sequences.tsv.gz", "user\titems\tsplit", row)
    with pytest.raises(DataError, match=r"User u in .* has not one split an item"):
        convert(tmp_path / "raw", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_raw_amazon_files_are_prepared_as_the_protocol_does(tmp_path, monkeypatch):
    write(tmp_path / "raw/meta_Video_Games.json.gz", "{}")
    prepared = []
    monkeypatch.setattr(folders.prepare_data, "main", prepared.append)
    config = run_config(tmp_path / "raw", tmp_path / "run", ["data.least_items=7"])
    assert prepared == [config]
    data = config.data
    assert (data.source, data.path, data.name, data.min_rating, data.k_core) == ("amazon", str(tmp_path / "raw"), "raw", None, 5)
    assert (data.least_items, data.drop_duplicates) == (7, False)
    assert [datetime.fromtimestamp(time, UTC).date().isoformat() for time in (data.start_time, data.end_time)] == [
        "2017-10-01",
        "2018-11-01",
    ]
    config.data_dir.mkdir()
    run_config(tmp_path / "raw", tmp_path / "run", [])
    assert len(prepared) == 1
    assert not is_raw_amazon(MOVIELENS)


def test_sizes_of_raw_files_stand_beside_those_of_the_paper(tmp_path, monkeypatch):
    assert paper_targets(tmp_path, tmp_path) == {}
    monkeypatch.setitem(folders.CATEGORY_TO_PAPER, "Video_Games", Sizes(10, 20, 30))
    write(tmp_path / "meta_Video_Games.json.gz", "{}")
    (tmp_path / "card.json").write_text(json.dumps({"num_users": 11, "num_items": 18, "num_train_samples": 30}))
    found = paper_targets(tmp_path, tmp_path)
    assert [(entry["measured"], entry["met"]) for entry in found.values()] == [(1, True), (2, False), (0, True)]
    assert list(found)[1] == "num_items off the paper's 20"
