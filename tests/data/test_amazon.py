"""The two Amazon releases: fields, times, and which files are reviews."""

import gzip
import json

import pytest

from l2d_ray.data.sources.amazon import open_amazon
from l2d_ray.errors import ConfigError, DataError


def _write(path, rows):
    with gzip.open(path, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


REVIEW_2018 = {"overall": 5.0, "style": {"Format:": "CD"}, "reviewerID": "u", "asin": "a", "unixReviewTime": 86400, "reviewText": "good"}
REVIEW_2023 = {"rating": 5.0, "images": [], "user_id": "u", "parent_asin": "a", "asin": "a2", "timestamp": 86400123, "text": "good"}
META_2018 = {"asin": "a", "title": "One &amp; Two", "category": ["Music"], "brand": "B", "main_cat": "CDs", "price": "$3"}
META_2023 = {"parent_asin": "a", "title": "One & Two", "categories": ["Music"], "store": "B", "main_category": "CDs", "price": 3.0}
RELEASES = {
    "2018": (REVIEW_2018, META_2018, "Music_5.json.gz", "meta_Music.json.gz"),
    "2023": (REVIEW_2023, META_2023, "Music.jsonl.gz", "meta_Music.jsonl.gz"),
}


@pytest.mark.parametrize("release", RELEASES)
def test_releases_agree(release, tmp_path):
    review, meta, reviews_name, meta_name = RELEASES[release]
    _write(tmp_path / reviews_name, [review])
    _write(tmp_path / meta_name, [meta])
    source = open_amazon(str(tmp_path), None, None)
    assert [path.rsplit("/", 1)[1] for path in (*source.interaction_files, *source.item_files)] == [reviews_name, meta_name]
    (table,) = source.read_interactions(source.interaction_files[0])
    assert table.to_pylist() == [{"user_id": "u", "item_id": "a", "rating": 5.0, "timestamp": 86400}]
    (item,) = source.read_items(source.item_files[0])
    assert item.item_id == "a"
    assert item.attributes == {"categories": ["Music"], "brand": "B", "main_category": "CDs"}


def test_reviews_by_asin_alone_are_read(tmp_path):
    _write(tmp_path / "r.jsonl.gz", [{k: v for k, v in REVIEW_2023.items() if k != "parent_asin"}])
    _write(tmp_path / "meta_r.jsonl.gz", [META_2023])
    source = open_amazon(str(tmp_path), None, None)
    assert next(source.read_interactions(source.interaction_files[0]))["item_id"].to_pylist() == ["a2"]


def test_the_full_file_beside_a_5_core_is_not_read_again(tmp_path):
    for name in ("Music.json.gz", "Music_5.json.gz"):
        _write(tmp_path / name, [REVIEW_2018])
    _write(tmp_path / "meta_Music.json.gz", [META_2018])
    (path,) = open_amazon(str(tmp_path), None, None).interaction_files
    assert path.endswith("Music_5.json.gz")


def test_wrong_input_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.path"):
        open_amazon(None, None, "x")
    _write(tmp_path / "r.json.gz", [{"user": 1}])
    with pytest.raises(DataError, match="0 metadata files"):
        open_amazon(str(tmp_path), None, None)
    _write(tmp_path / "meta_r.json.gz", [{"title": "x"}])
    source = open_amazon(str(tmp_path), None, None)
    with pytest.raises(DataError, match=r"r\.json\.gz has the fields user; wanted reviewerID"):
        list(source.read_interactions(source.interaction_files[0]))
    with pytest.raises(DataError, match="neither parent_asin nor asin"):
        list(source.read_items(source.item_files[0]))


def test_a_truncated_file_is_named(tmp_path):
    _write(tmp_path / "r.json.gz", [REVIEW_2018] * 1000)
    whole = (tmp_path / "r.json.gz").read_bytes()
    (tmp_path / "r.json.gz").write_bytes(whole[: len(whole) // 2])
    _write(tmp_path / "meta_r.json.gz", [META_2018])
    source = open_amazon(str(tmp_path), None, None)
    with pytest.raises(DataError, match=r"r\.json\.gz cannot be read"):
        list(source.read_interactions(source.interaction_files[0]))
