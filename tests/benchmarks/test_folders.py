"""Which data a benchmark takes from a folder: D3's files with and without times, raw Amazon files, MovieLens."""

import gzip
import json
from datetime import UTC, datetime

import pytest

from benchmarks import folders
from benchmarks.d3_folder import convert
from benchmarks.folders import MOVIELENS, Sizes, paper_targets, raw_categories, run_config
from l2d_ray.data.card import read_card
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import UserSequence, iter_sequences
from l2d_ray.errors import ConfigError, DataError


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


@pytest.mark.parametrize("row", ["u\t1 0\t001", "u\t1 0\t10", "u\t1 0\t03", "u\t1 0\t0x", "u\t1 0", "u\t\t"])
def test_damaged_sequences_are_refused(row, tmp_path):
    write(tmp_path / "raw/items.txt.gz", "Title A\t0", "Title B\t1")
    write(tmp_path / "raw/sequences.tsv.gz", "user\titems\tsplit", row)
    with pytest.raises(DataError, match=r"User u in .* has not one split \(0, 1, 2, ascending\) an item"):
        convert(tmp_path / "raw", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def raw_folder(folder, names=("Title A", "Title B  ", "<span id=1>", "Title D")):
    """Reviews of four users of each item, every one twice, in 2017 and 2018; the third item's title is page debris."""
    times = (int(datetime(year, 10, 2, tzinfo=UTC).timestamp()) for year in (2017, 2017, 2018, 2018, 2016))
    rows = [
        {"reviewerID": f"u{user}", "asin": f"i{item}", "overall": 1.0, "unixReviewTime": time}
        for time in times
        for user in range(4)
        for item in range(len(names))
    ]
    meta = [{"asin": f"i{n}", "title": title} for n, title in enumerate(names)]
    write(folder / "Video_Games_5.json.gz", *map(json.dumps, rows))
    write(folder / "meta_Video_Games.json.gz", *map(json.dumps, [*meta, {"asin": "i3", "title": "X"}]))
    return folder


@pytest.mark.slow
def test_raw_amazon_files_are_prepared_as_the_protocol_does(tmp_path, monkeypatch):
    monkeypatch.setitem(folders.CATEGORY_TO_PAPER, "Video_Games", Sizes(4, 2, 20))
    raw, run_dir = raw_folder(tmp_path / "2018"), tmp_path / "run"
    options = ["data.k_core=2", "data.least_items=2", "ray.num_cpus=3"]
    config = run_config(raw, run_dir, options)
    card = read_card(config.data_dir)
    assert card.name == "2018"
    assert (card.num_items, card.num_interactions, card.num_duplicates, card.num_outside_window) == (2, 32, 0, 16)
    found = paper_targets(raw, config.data_dir)
    assert [(entry["measured"], entry["met"]) for entry in found.values()] == [(0, True), (0, True), (2, False)]
    assert run_config(raw, run_dir, options) == config
    with pytest.raises(ConfigError, match=r"prepared with another data\.k_core"):
        run_config(raw, run_dir, ["data.k_core=1"])


def test_sizes_are_compared_for_one_category_of_raw_files_alone(tmp_path):
    assert raw_categories(tmp_path) == []
    assert paper_targets(tmp_path, tmp_path) == {}
    write(tmp_path / "meta_Video_Games.json.gz", "{}")
    write(tmp_path / "meta_Books.jsonl.gz", "{}")  # of the 2023 release
    assert raw_categories(tmp_path) == ["Video_Games"]
    write(tmp_path / "meta_CDs_and_Vinyl.json", "{}")
    assert raw_categories(tmp_path) == ["CDs_and_Vinyl", "Video_Games"]
    assert paper_targets(tmp_path, tmp_path) == {}
    write(tmp_path / "items.txt.gz", "")
    assert raw_categories(tmp_path) == raw_categories(MOVIELENS) == []
