"""The whole preparation on a real Ray cluster, against plain Python and against the known figures of MovieLens-100K."""

import gzip
import json
import random
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from l2d_ray.config import DataConfig, RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.on_ray import a_year_before, prepare
from l2d_ray.data.sequences import UserSequence, iter_sequences, part_paths, read_part
from l2d_ray.errors import ConfigError, DataError, L2DError
from l2d_ray.schema import TEST, TRAIN, VALID, stable_hash

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

K_CORE = 3
USERS_PER_PART = 4


def _toy_rows():
    """Interactions with ties in time, exact duplicates, low ratings, and items without a title."""
    generator = random.Random(0)
    rows = [
        (f"u{generator.randrange(25)}", f"i{generator.randrange(14)}", generator.randrange(12), generator.choice([3.0, 4.0, 5.0]))
        for _ in range(600)
    ]
    return rows + rows[:40]


def reference(rows, titles, split):
    """The protocol in plain Python: user sequences in final order."""
    kept = list(dict.fromkeys((u, i, t) for u, i, t, rating in rows if rating >= 4 and i in titles))
    while True:
        users, items = Counter(u for u, _, _ in kept), Counter(i for _, i, _ in kept)
        left = [(u, i, t) for u, i, t in kept if users[u] >= K_CORE and items[i] >= K_CORE]
        if len(left) == len(kept):
            break
        kept = left
    sequences = {u: sorted((row for row in kept if row[0] == u), key=lambda row: row[2]) for u in {u for u, _, _ in kept}}
    ordered = sorted(sequences, key=lambda u: (stable_hash(u), u))
    keys = sorted((t, stable_hash(u), u, p) for u in ordered for p, (_, _, t) in enumerate(sequences[u]) if p >= 1)
    cuts = keys[len(keys) * 8 // 10], keys[len(keys) * 9 // 10]

    def split_of(u, p, t, length):
        if split == "global-time":
            return sum((t, stable_hash(u), u, p) >= cut for cut in cuts)
        return TRAIN if p == 0 else {1: TEST, 2: VALID}.get(length - p, TRAIN)

    return [
        UserSequence(
            u,
            tuple(i for _, i, _ in sequences[u]),
            tuple(t for _, _, t in sequences[u]),
            tuple(split_of(u, p, t, len(sequences[u])) for p, (_, _, t) in enumerate(sequences[u])),
        )
        for u in ordered
    ]


def _write_table(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Rows, titles and one folder a format, the interactions in three files."""
    folder = tmp_path_factory.mktemp("toy")
    rows = _toy_rows()
    titles = {f"i{n}": f"Title {n % 11}" for n in range(13)}
    columns = [pa.array(column) for column in zip(*rows, strict=True)]
    interactions = pa.table(columns, names=["user_id", "item_id", "timestamp", "rating"])
    items = pa.table({"item_id": list(titles), "title": list(titles.values()), "year": [2000] * len(titles)})
    for suffix in ("csv", "parquet", "jsonl"):
        for number in range(3):
            _write_table(folder / suffix / "interactions" / f"{number}.{suffix}", interactions.slice(number * 250, 250))
        _write_table(folder / suffix / "items" / f"0.{suffix}", items)
    return rows, titles, folder


def _toy_config(folder, **settings):
    paths = {"interactions": str(folder / "interactions"), "items": str(folder / "items")}
    defaults = {"source": "table", "name": "toy", "k_core": K_CORE, "users_per_part": USERS_PER_PART}
    return DataConfig.model_validate(paths | defaults | settings)


def _parts(data_dir):
    return [(path.name, read_part(path)) for path in part_paths(data_dir)]


@pytest.mark.parametrize("split", ["global-time", "leave-one-out"])
def test_equals_plain_python_for_any_number_of_partitions(toy, tmp_path, split):
    rows, titles, folder = toy
    expected = reference(rows, titles, split)
    assert len(expected) > 2 * USERS_PER_PART
    config = _toy_config(folder / "csv", split=split)
    cards = [prepare(config, tmp_path / str(n), num_partitions=n) for n in (1, 3, 40)]
    assert cards[0] == cards[1] == cards[2]
    for n in (1, 3, 40):
        assert list(iter_sequences(tmp_path / str(n))) == expected
        assert [len(part) for _, part in _parts(tmp_path / str(n))][:-1] == [USERS_PER_PART] * ((len(expected) - 1) // USERS_PER_PART)
    assert {(tmp_path / str(n) / "items.parquet").read_bytes() for n in (1, 3, 40)} == {(tmp_path / "1" / "items.parquet").read_bytes()}
    catalogue = Catalogue.read(tmp_path / "1" / "items.parquet")
    assert set(catalogue.item_ids) == {item for sequence in expected for item in sequence.item_ids}
    assert cards[0].num_train_samples == sum(len(sequence.target_positions(TRAIN)) for sequence in expected)


def test_card_counts_what_was_dropped(toy, tmp_path):
    rows, titles, folder = toy
    card = prepare(_toy_config(folder / "csv"), tmp_path / "data")
    sequences = list(iter_sequences(tmp_path / "data"))
    samples = [[(s.item_ids[: t.position], t.item_id) for s in sequences for t in s.targets(split)] for split in (TRAIN, VALID, TEST)]
    assert [card.num_train_samples, card.num_valid_samples, card.num_test_samples] == [len(s) for s in samples]
    assert card.num_read == len(rows)
    assert card.num_low_rating == sum(row[3] < 4 for row in rows)
    assert card.num_without_title == sum(row[3] >= 4 and row[1] not in titles for row in rows)
    assert card.num_duplicates > 0
    trained = {target for _, target in samples[TRAIN]}
    assert card.share_test_targets_unseen == sum(target not in trained for _, target in samples[TEST]) / card.num_test_samples
    in_history = sum(target in history[-10:] for history, target in samples[TEST])
    assert card.share_test_targets_in_history == in_history / card.num_test_samples
    assert not (tmp_path / "data" / "scratch").exists()


def test_duplicates_are_kept_where_they_are_wanted(toy, tmp_path):
    *_, folder = toy
    without = prepare(_toy_config(folder / "csv", k_core=0), tmp_path / "without")
    kept = prepare(_toy_config(folder / "csv", k_core=0, drop_duplicates=False), tmp_path / "kept")
    assert kept.num_duplicates == 0 < without.num_duplicates
    assert kept.num_interactions == without.num_interactions + without.num_duplicates


def test_csv_parquet_and_json_lines_give_the_same(toy, tmp_path):
    *_, folder = toy
    for suffix in ("csv", "parquet", "jsonl"):
        prepare(_toy_config(folder / suffix), tmp_path / suffix)
    assert _parts(tmp_path / "csv") == _parts(tmp_path / "parquet") == _parts(tmp_path / "jsonl")
    assert len({(tmp_path / suffix / "items.parquet").read_bytes() for suffix in ("csv", "parquet", "jsonl")}) == 1


def test_the_window_opens_a_year_earlier_until_enough_items_are_left(tmp_path):
    years = [(2017, "ab"), (2016, "ab"), (2015, "abcd"), (2014, "abcdef")]
    rows = [(user, item, _time(year, n + 2)) for year, items in years for n, item in enumerate(items) for user in "uvw"]
    columns = dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    _write_table(tmp_path / "interactions/0.csv", pa.table(columns))
    _write_table(tmp_path / "items/0.csv", pa.table({"item_id": list("abcdef"), "title": [f"Title {letter}" for letter in "abcdef"]}))
    config = _toy_config(tmp_path, min_rating=None, k_core=2, start_time=_time(2017), end_time=_time(2017, 12, 31))
    cards = {least: prepare(config.model_copy(update={"least_items": least}), tmp_path / str(least)) for least in (None, 2, 3, 5, 7)}
    started = {least: card.settings["start_time"] for least, card in cards.items()}
    assert started == {None: _time(2017), 2: _time(2017), 3: _time(2015), 5: _time(2014), 7: _time(2014)}
    assert [cards[least].num_items for least in (2, 3, 5, 7)] == [2, 4, 6, 6]
    alone = prepare(config.model_copy(update={"start_time": _time(2015)}), tmp_path / "alone")
    assert alone.num_interactions == cards[3].num_interactions == 24
    assert _parts(tmp_path / "alone") == _parts(tmp_path / "3")
    empty = config.model_copy(update={"start_time": _time(2019), "end_time": _time(2020), "least_items": 1})
    assert prepare(empty, tmp_path / "empty").settings["start_time"] == _time(2017)
    assert a_year_before(_time(2016, 2, 29)) == _time(2015, 2, 28)


def _time(year, month=1, day=1):
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


def test_without_times_the_order_of_the_input_counts(tmp_path):
    _write_table(tmp_path / "items/0.csv", pa.table({"item_id": ["b", "a", "cold"], "title": ["BB", "AA", "Cold"]}))
    _write_table(tmp_path / "interactions/0.csv", pa.table({"user_id": ["u", "u"], "item_id": ["b", "a"]}))
    _write_table(tmp_path / "interactions/1.csv", pa.table({"user_id": ["u"], "item_id": ["b"]}))
    config = _toy_config(tmp_path, split="leave-one-out", min_rating=None, k_core=0)
    card = prepare(config, tmp_path / "data")
    assert list(iter_sequences(tmp_path / "data")) == [UserSequence("u", ("b", "a", "b"), (None,) * 3, (TRAIN, VALID, TEST))]
    assert (card.first_timestamp, card.num_duplicates, card.num_items) == (None, 0, 3)
    with pytest.raises(ConfigError, match="leave-one-out"):
        prepare(config.model_copy(update={"split": "global-time"}), tmp_path / "data")
    assert len(list(iter_sequences(tmp_path / "data"))) == 1  # the earlier result is still there, whole


@pytest.mark.parametrize("release", ["2018", "2023"])
def test_amazon(release, tmp_path):
    rows = [(f"u{n % 4}", f"i{n % 3}", n) for n in range(24)]
    if release == "2018":
        reviews = [{"reviewerID": u, "asin": i, "overall": 5.0, "unixReviewTime": t} for u, i, t in rows]
        meta = [{"asin": f"i{n}", "title": f"Title {n}", "category": ["Games"]} for n in (0, 1, 2, 0)]
        names = "Games_5.json.gz", "meta_Games.json.gz"
    else:
        reviews = [{"user_id": u, "parent_asin": i, "rating": 5.0, "timestamp": t * 1000 + 7} for u, i, t in rows]
        meta = [{"parent_asin": f"i{n}", "title": f"Title {n}", "categories": ["Games"]} for n in (0, 1, 2, 0)]
        names = "Games.jsonl.gz", "meta_Games.jsonl.gz"
    for name, content in zip(names, (reviews, meta), strict=True):
        (tmp_path / name).write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in content).encode()))
    card = prepare(DataConfig(source="amazon", name="games", path=str(tmp_path)), tmp_path / "data")
    assert (card.num_users, card.num_items, card.num_interactions) == (4, 3, 24)
    assert (card.num_train_samples, card.num_valid_samples, card.num_test_samples) == (16, 2, 2)
    by_user = {s.user_id: (s.item_ids, s.timestamps) for s in iter_sequences(tmp_path / "data")}
    assert by_user["u1"] == (("i1", "i2", "i0", "i1", "i2", "i0"), (1, 5, 9, 13, 17, 21))


def test_bad_input_leaves_nothing_behind(toy, tmp_path):
    *_, folder = toy
    with pytest.raises(DataError, match=r"of 640 interactions read, 640 are rated too low"):
        prepare(_toy_config(folder / "csv", min_rating=9.0), tmp_path / "data")
    with pytest.raises(DataError, match="999-core of the rest holds 0"):
        prepare(_toy_config(folder / "csv", k_core=999), tmp_path / "data")
    with pytest.raises(DataError, match="There is nothing at"):
        prepare(_toy_config(tmp_path / "absent"), tmp_path / "data")
    with pytest.raises(DataError, match="has a usable title"):
        prepare(_toy_config(folder / "csv", max_title_words=1), tmp_path / "data")
    with pytest.raises(ConfigError, match=r"data\.interactions and data\.items"):
        prepare(DataConfig(source="table"), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_a_task_arrives_as_itself(toy, tmp_path):
    *_, folder = toy
    bad = tmp_path / "bad.csv"
    bad.write_text("user_id,item_id,timestamp,rating\nu,i1,soon,5\n")
    with pytest.raises(DataError, match=r"^/.*bad\.csv: timestamps such as 'soon'") as caught:
        prepare(_toy_config(folder / "csv", interactions=str(bad)), tmp_path / "data")
    assert type(caught.value) is DataError
    assert issubclass(DataError, L2DError)


def test_movielens_100k_has_the_known_figures(tmp_path):
    config = RunConfig(run_dir=tmp_path)
    card = prepare(config.data, config.data_dir)
    assert (card.num_train_samples, card.num_valid_samples, card.num_test_samples) == (42_780, 5_347, 5_348)
    assert (card.num_users, card.num_items, card.num_interactions) == (938, 1_008, 54_413)
    assert "Toy Story (1995)" in Catalogue.read(config.data_dir / "items.parquet").titles
    times = [[t.timestamp for s in iter_sequences(config.data_dir) for t in s.targets(split)] for split in (TRAIN, VALID, TEST)]
    assert max(times[0]) <= min(times[1]) <= max(times[1]) <= min(times[2])
    for sequence in iter_sequences(config.data_dir):
        assert list(sequence.splits) == sorted(sequence.splits)
        assert list(sequence.timestamps) == sorted(sequence.timestamps)
