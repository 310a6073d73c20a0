"""The README's figures, written from the committed results: no figure there is typed by hand, and a test compares the two.

python -m benchmarks.readme_figures            # print
python -m benchmarks.readme_figures --write    # put it between the README's markers
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.quality.report_tables import marked, table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- figures: python -m benchmarks.readme_figures --write -->", "<!-- end of figures -->"
SYSTEMS = ("popularity", "item-knn", "l2d-g", "l2d-l", "l2d-w", "l2d-p")
QUALITY_ROWS = (
    *("popularity", "item-knn", "session-knn", "sasrec", "gru4rec", "alpharec", "bigrec-4", "gpt4rec", "d3-20", "d3-sasrec-20"),
    *("id-head", "id-head-whitened", "l2d-g", "l2d-l", "l2d-w", "default", "l2d-w+both"),
)
QUALITY_COLUMNS = ("recall@10", "recall@50")
COLUMNS = ("recall@10", "recall@20", "recall@50", "recall@100", "ndcg@10")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        readme = ROOT / "README.md"
        readme.write_text(replaced(readme.read_text(), figures()))
    else:
        print(figures())


def figures() -> str:
    """The section between the markers."""
    quality = _quality([read(path.stem) for path in sorted(RESULTS.glob("quality-*.json"))])
    sections = [_quickstart(read("quickstart")), _encoder(read("encoder")), quality, _cold_start(), _serving()]
    return "\n\n".join([*sections, _build(), _index(), _merge(), _gpu()])


def read(name: str) -> dict[str, Any]:
    """A committed result: the JSON line that the benchmark printed."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def replaced(text: str, section: str) -> str:
    """The README with the section between its markers."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n\n{section}\n\n{END}{after}"


def _quickstart(result: dict[str, Any]) -> str:
    speed, cores = result["speedup_vs_language_space"], result["host"]["cores"]
    minutes, gigabytes = result["wall_s"] / 60, result["peak_bytes"] / 1e9
    return "\n".join(
        [
            f"`make quickstart` (MovieLens-100K, rating >= 4, D3 protocol, {result['num_memory_entries']:,} memory entries, "
            f"{cores} CPU cores): {minutes:.1f} minutes, {gigabytes:.1f} GB at most. Test split, full ranking, history not masked, "
            "by item id; item-kNN and the decoders are tuned on validation:",
            "",
            _table(result["metrics"]),
            "",
            f"{speed['k']} items come **{speed['ratio']:g} times** as fast as from Hugging Face's `generate` with {speed['beam']} beams "
            "kept inside the catalogue (same model, same requests, same run), "
            f"{speed['ratio_to_tree_attention']:g} times as fast as from our own search of the same beams with tree attention, and "
            f"{speed['ratio_to_greedy']:g} times as fast as one greedy title.",
        ]
    )


def _encoder(result: dict[str, Any]) -> str:
    speedup = result["speedup"]
    return (
        f"The `sequence` format encodes samples **{speedup['last-10']:g} times** as fast as one padded prompt a sample with its last 10 "
        f"titles ({speedup['last-10-sorted']:g} times with those packed by length, {speedup['same-text']:g} times with the whole text of "
        f"the window); the states differ by at most {result['largest_state_difference']:.0e}."
    )


def _quality(results: list[dict[str, Any]]) -> str:
    """Some rows of benchmarks.quality on all its data sets, with their cost on the first."""
    first = results[0]
    seconds = first["cost"]["all"]["batch 32"]
    rows = []
    for name in QUALITY_ROWS:
        cells = [_quality_cell(result["rows"].get(name)) for result in results]
        rows.append([marked(name, first["rows"][name]), *cells, f"{seconds[name]:.2f}"])
    sizes = "; ".join(
        f"{result['data']}: {result['num_memory_entries']:,} memory entries, {result['num_language_parameters'] / 1e6:.1f} M parameters, "
        f"epochs: {result['num_epochs']}, `default` is `{result['decoder_settings']['decoder']}`"
        for result in results
    )
    caption = (
        "`python -m benchmarks.quality DATA`: test split, full ranking, history not masked, by item id; every row tuned on validation; "
        f"cost from history to 20 items in batches of 32 on {first['data']}. Rows with * write titles and are scored on "
        f"{first['num_samples']['language_subset']:,} samples. `default` is the decoder that `jobs.tune_decoder` chose; with `+` l2d-w is "
        f"joined with whole baselines. {sizes}. All else, intervals, living memory and ablations included: "
        "[benchmarks/quality/REPORT.md](benchmarks/quality/REPORT.md)."
    )
    head = ["test", *(f"{result['data']} {' / '.join(QUALITY_COLUMNS)}" for result in results), "s per 1,000 requests"]
    return f"{caption}\n\n{table(head, rows)}"


def _quality_cell(row: dict[str, Any] | None) -> str:
    return "-" if row is None else " / ".join(f"{row['unmasked']['metrics'][column]:.4f}" for column in QUALITY_COLUMNS)


def _cold_start() -> str:
    result = read("cold_start")
    lost, test = result["targets"]["warm recall@50 lost"]["measured"], result["test"]

    def both(system: str, kind: str) -> str:
        return " / ".join(f"{test[system][kind][metric]:.3f}" for metric in ("recall@20", "recall@50"))

    return (
        f"Cold start ({result['data']}, {result['share']:.0%} of the items hidden from fine-tuning and memory, recommended by their titles "
        f"alone): Recall@20 / @50 of hidden targets {both('bounded', 'cold')}, of the others {both('bounded', 'warm')} ({lost:.1%} of the "
        f"latter is the price). Nearest titles alone reach {both('nearest titles', 'cold')} and {both('nearest titles', 'warm')}, "
        f"popularity 0 of the hidden ones. Test split, {result['num_cold_samples']['test']} of {result['num_test_samples']:,} samples are "
        f"cold."
    )


def _serving() -> str:
    load, faults = read("serve_load"), read("serve_faults")
    batched, flood, alone = load["batched"], load["overload"], load["in_process"]
    p50, ks = batched["one_at_a_time"]["latency_ms"]["p50"], batched["ks"]
    kept, whole = (load["returning"][side]["at_once_16"]["p50_ms"] for side in ("kept", "whole"))
    together, single = batched["sixteen"]["per_s"], load["unbatched"]["sixteen"]["per_s"]
    killed = [faults[part][name] for part in ("one", "two") for name in ("Encoder", "Shard-0", "Ingress")]
    failed, sent = (sum(part[name] for part in killed) for name in ("failed", "requests"))
    node, kills, soak = faults["node"], faults["kills"], faults["soak"]
    return (
        f"The service (two shards, a small model; load generator, HAProxy and all replicas on two cores): {p50:.1f} ms at the median for "
        f"one request at a time, {p50 - alone['single_ms']:.1f} ms of them HTTP and Serve; 500 items take {ks['k500_p50_ms']:.1f} ms where "
        f"10 take {ks['k10_p50_ms']:.1f}; {together:.0f} requests a second from 16 clients, {single:.0f} without batching, "
        f"{alone['batch_per_s']:.0f} from the decoder alone in batches. 16 users at once who come back with an item more (30 to 45 in all) "
        f"are answered in {kept:.0f} ms, since the encoder reads only what is new, and in {whole:.0f} where it reads all again. At five "
        f"times the load that it can take {flood['goodput_per_s']:.0f} a second are answered, and the rest is refused with Retry-After. "
        f"`kill -9` of encoder, shard and ingress under load, alone and beside a second replica: {failed} of {sent:,} requests failed, the "
        f"longest waited {max(part['longest_ms'] for part in killed) / 1000:.1f} s; of a whole node: {node['failed']} of "
        f"{node['requests']:,}. Everything killed {kills['kills']} times while interactions were sent: {kills['lost']} of "
        f"{kills['acknowledged']:,} acknowledged ones lost, {kills['doubled']} doubled. After {soak['requests']:,} requests the memory of "
        f"all replicas had grown by {soak['growth']:.1%} since a tenth of them."
    )


def _build() -> str:
    crashes, speedup = read("build_crashes"), read("build_throughput-formats")["formats"]["speedup"]
    ratios = read("build_throughput-job")["job"]["ratios"]
    sequence, instruction = (speedup[name]["wall"] for name in ("sequence / last-10", "instruction / instruction-plain"))
    return (
        f"The memory build, ended {crashes['runs']} times by `kill -9` (workers, drivers, whole clusters) and run again: "
        f"{crashes['lost']} samples lost, {crashes['doubled']} doubled, {crashes['committed_parts_encoded_again']} committed parts encoded "
        f"again. Against a plain Hugging Face loop over the last 10 titles the `sequence` format gives {sequence:g} times as many entries "
        f"a second; the `instruction` format, its instruction read once, {instruction:g} times as many as its own plain loop. The whole "
        f"job, with storage and Ray, runs at {ratios['job / bare']:.0%} of the bare encoder's rate, and "
        f"{ratios['2 workers / 1 worker']:g} times as fast with a second worker on the second core."
    )


def _index() -> str:
    """Search of one segment at each size that was measured, batches of 64, M = 100."""
    sizes = read("index_scale")["sizes"] | read("index_scale-1e7")["sizes"]
    sides = ("exact", "compressed", "faiss-flat", "faiss-sq16")
    lines = [["entries", *(f"{side}, q/s" for side in sides), "index recall@100, @500", "codes over float16"], ["---:"] * 7]
    for size, figures in sizes.items():
        rates = [figures["queries_per_s"].get(side, {}).get("batch 64, M 100") for side in sides]
        recalls = ", ".join(f"{figures['index_recall'][m]:.3f}" for m in ("100", "500"))
        cells = ["-" if rate is None else f"{rate:,.1f}" for rate in rates]
        lines.append([f"{int(size):,}", *cells, recalls, f"{figures['memory_share_of_float16']:.1%}"])
    caption = "Search of one shard: jittered SmolLM2 states (d = 576), two cores, 100 neighbours in batches of 64, all sides in one run:"
    return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in lines)])


def _merge() -> str:
    run = max(read("merge")["runs"], key=lambda found: (found["num_shards"], found["num_neighbors"]))
    sent = run["answer_bytes"]
    fewer = {name: sent[name] / sent["adaptive"] for name in ("vectors", "one-round")}
    return (
        f"Merging {run['num_neighbors']} neighbours over {run['num_shards']} shards, exactly, ships {sent['adaptive']:,.0f} bytes of "
        f"answers a query: {fewer['vectors']:,.0f} times fewer than shipping vectors, {fewer['one-round']:.1f} times fewer than asking "
        "every shard for all."
    )


def _gpu() -> str:
    """The largest memory of benchmarks.gpu, and the model's rates."""
    result = read("gpu")
    encode, train, search = result["encode"], result["train"], result["search"][-1]
    single, batch = (next(w for w in search["ways"] if (w["batch"], w["num_neighbors"]) == (b, 100)) for b in (1, 64))
    rate, alone = batch["resident"]["queries_per_s"], single["resident"]
    return (
        f"On one {result['device']}, SmolLM2-135M in bf16: packed encoding reads {encode['tokens_per_s']:,} tokens a second "
        f"({encode['peak_share']:.0%} of the card's measured peak), {encode['speedup']:g} times the samples of a padded loop; a training "
        f"step {train['tokens_per_s']:,} tokens a second ({train['peak_share']:.0%}), {train['speedup']:g} times the samples of one padded "
        f"text a sample. Exact search of {search['num_rows']:,} entries (d = 576, 100 neighbours): {rate:,.0f} queries a second in batches "
        f"of 64, a single one in {alone['ms']:.1f} ms, {alone['bandwidth_share']:.0%} of what reading every vector once allows."
    )


def _table(metrics: dict[str, dict[str, float]]) -> str:
    return table(["system", *COLUMNS], [[name, *(f"{metrics[name][column]:.4f}" for column in COLUMNS)] for name in SYSTEMS])


if __name__ == "__main__":
    main()
