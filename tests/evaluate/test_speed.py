"""The timing harness: every side answers every request in every round, taking turns batch by batch."""

from l2d_ray.evaluate.speed import seconds_per_request


def test_sides_take_turns_and_answer_every_request():
    calls: list[tuple[str, list[int]]] = []
    sides = {name: (lambda batch, name=name: calls.append((name, list(batch)))) for name in ("a", "b")}
    ticks: list[None] = []
    seconds = seconds_per_request(sides, 5, batch_size=2, num_rounds=2, on_batch=lambda: ticks.append(None))
    one_round = [(name, batch) for batch in ([0, 1], [2, 3], [4]) for name in ("a", "b")]
    assert calls == [("a", [0, 1]), ("b", [0, 1]), *one_round, *one_round]
    assert len(ticks) == 6
    assert seconds.keys() == {"a", "b"}
    assert all(value > 0 for value in seconds.values())
