"""The planning formulas, by hand-computed cases; and the job that fills in what a run knows."""

from dataclasses import replace

import pytest

from jobs import plan as plan_job
from l2d_ray.decode.local_merge import first_limits
from l2d_ray.errors import ConfigError
from l2d_ray.index.compressed import CANDIDATES_PER_NEIGHBOR, MORE_CANDIDATES, NUM_PROBES, choose_num_lists
from l2d_ray.memory.pairs import MAX_PAIRS, NUM_SOURCES, WINDOW
from l2d_ray.plan import Constants, Workload, plan
from tests.toys import build_toy_run, toy_config

UNITS = Constants(
    memory_row_bytes=40,
    sequence_bytes=10,
    segment_row_bytes=24,
    axes_share=0.5,
    code_row_bytes=16,
    list_bytes=300,
    statistics_item_bytes=32,
    encode_flops=1e9,
    write_bytes_per_s=1e6,
    exact_build_bytes_per_s=2e6,
    compressed_build_bytes_per_s=1e6,
    pass_interaction_s=1e-3,
    pairs_entry_s=1e-2,
    exact_scan_s=1e-9,
    exact_neighbor_s=1e-5,
    scan_s=1e-8,
    candidate_s=1e-6,
)
WORK = Workload(num_entries=1_000_000, num_items=1000, dim=100, num_parameters=1e6, num_shards=4, num_neighbors=100)


def test_sizes_by_hand():
    found = plan(WORK, UNITS)
    shard = 250_000
    codes = shard * (50 / 8 + 16) + choose_num_lists(shard) * (4 * 50 + 300) + 4 * 100 * 50
    assert found.memory_disk_bytes == 1_000_000 * (200 + 40 + 10)
    assert found.shard_disk_bytes == round(shard * (200 + 24) + codes)
    assert found.shard_entries_memory_bytes == round(codes)
    assert found.memory_share_of_float16 == round(codes / (shard * 200), 4)
    assert found.shard_pairs_memory_bytes == 8 * NUM_SOURCES * 250 + 8 * 1001
    few = replace(WORK, num_entries=40, num_items=1000)
    assert plan(few, UNITS).shard_pairs_memory_bytes == 8 * 2 * WINDOW * 10 + 8 * 1001
    assert found.shard_statistics_memory_bytes == 250 * (800 + 32) + 8 * 100**2
    exact = plan(replace(WORK, kind="exact"), UNITS)
    assert (exact.shard_entries_memory_bytes, exact.index_disk_bytes) == (shard * 102 * 4, 1_000_000 * 224)


def test_times_by_hand():
    found = plan(WORK, UNITS)
    assert found.encode_hours == pytest.approx(2 * 1e6 * 8 * 1e6 / (2 * 1e9) / 3600)
    assert found.write_hours == pytest.approx(2e8 / 2e6 / 3600)
    assert found.index_hours == pytest.approx(2e8 / 2e6 / 3600)
    assert found.pairs_hours == pytest.approx(
        1e6 * (4 * 1e-3 + 1e-2) / 2 / 3600
    )  # 250,000 entries have no more pairs than one pass may count
    large = plan(replace(WORK, num_entries=100 * MAX_PAIRS), UNITS)
    assert large.pairs_hours == pytest.approx(100 * MAX_PAIRS * (4 * 1000 * 1e-3 + 1e-2) / 2 / 3600)
    lists = choose_num_lists(250_000)
    candidates = 100 * CANDIDATES_PER_NEIGHBOR + MORE_CANDIDATES
    assert found.local_queries_per_s == pytest.approx(2 / (250_000 * NUM_PROBES / lists * 1e-8 + candidates * 1e-6))
    exact = plan(replace(WORK, kind="exact"), UNITS)
    assert exact.local_queries_per_s == pytest.approx(2 / (250_000 * 102 * 1e-9 + 100 * 1e-5))
    assert exact.index_hours == pytest.approx(found.index_hours / 2)
    gpus = plan(replace(WORK, num_gpus=2, gpu_flops=1e12, gpu_utilization=0.5), UNITS)
    assert gpus.encode_hours == pytest.approx(2 * 1e6 * 8 * 1e6 / 1e12 / 3600)


def test_bytes_of_a_query_follow_the_merges_first_request():
    sent = int(first_limits(100, [250_000] * 4).sum())
    assert 100 < sent < 400
    assert plan(WORK, UNITS).local_bytes_per_query == 4 * (400 + 8) + 28 * sent


def test_an_index_of_statistics_holds_no_entry():
    found = plan(replace(WORK, kind="statistics"), UNITS)
    assert (found.index_disk_bytes, found.shard_entries_memory_bytes, found.memory_share_of_float16) == (0, 0, 0)
    assert (found.local_queries_per_s, found.local_bytes_per_query) == (None, None)
    assert found.shard_statistics_memory_bytes == plan(WORK, UNITS).shard_statistics_memory_bytes


def test_the_largest_share_decides_what_a_shard_needs():
    even, skewed = plan(WORK, UNITS), plan(replace(WORK, largest_share=0.5), UNITS)
    assert skewed.shard_disk_bytes == pytest.approx(2 * even.shard_disk_bytes, rel=0.01)
    assert skewed.memory_disk_bytes == even.memory_disk_bytes
    assert skewed.local_queries_per_s < even.local_queries_per_s


@pytest.mark.parametrize("change", [{"num_entries": 0}, {"dim": 0}, {"num_shards": 0}, {"largest_share": 0.2}, {"largest_share": 1.5}])
def test_what_cannot_be_is_refused(change):
    with pytest.raises(ConfigError, match=rf"plan.{next(iter(change))} is .*, wanted"):
        plan(replace(WORK, **change), UNITS)


def test_the_committed_constants_are_positive():
    constants = Constants.load()
    assert all(value > 0 for name, value in vars(constants).items() if not name.endswith(("candidate_s", "neighbor_s")))


def test_the_job_names_what_it_cannot_know(tmp_path):
    with pytest.raises(
        ConfigError, match=r"There is no memory at .* so give plan.num_entries, plan.num_items, plan.dim, plan.num_parameters"
    ):
        plan_job.main(toy_config(tmp_path))


def test_the_job_takes_a_runs_own_figures(tmp_path, capsys):
    run = build_toy_run(tmp_path)
    result = plan_job.main(toy_config(tmp_path, plan={"num_shards": 3, "kind": "exact"}))
    workload = result["workload"]
    assert (workload["num_entries"], workload["dim"], workload["num_shards"]) == (len(run.memory), 32, 3)
    assert 0 < workload["num_items"] <= 20
    assert workload["num_parameters"] > 1000
    assert f"{len(run.memory):,} entries" in capsys.readouterr().err


def test_large_numbers_may_be_written_short(tmp_path):
    settings = {"num_entries": "1e9", "num_items": "1e7", "dim": 2048, "num_parameters": "1.2e9", "num_shards": 64, "num_gpus": 8}
    result = plan_job.main(toy_config(tmp_path, plan=settings))
    assert result["workload"]["num_entries"] == 10**9
    assert result["memory_disk_bytes"] > 4 * 10**12
    assert result["shard_entries_memory_bytes"] < 0.16 * result["shard_disk_bytes"]
