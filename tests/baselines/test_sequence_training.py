"""The loop that SASRec and GRU4Rec share, stated once for both: causality, memorising, stopping, cold items, windows, probabilities."""

import numpy as np
import pytest
import torch

from l2d_ray.baselines import sequence_training
from l2d_ray.baselines.gru4rec import Gru4RecSettings, Recurrence, fit_gru4rec
from l2d_ray.baselines.sasrec import SasRecSettings, Transformer, fit_sasrec
from l2d_ray.baselines.sequence_training import ItemSequenceModel, TrainingSettings
from l2d_ray.baselines.tuning import ValidationSamples, tune
from l2d_ray.errors import ConfigError

NUM_ITEMS = 12
CYCLE = [[(start + step) % 10 for step in range(6)] for start in range(10)]  # items 10 and 11 are cold
FAST = TrainingSettings(learning_rate=1e-2, max_epochs=40)
VALIDATION = ValidationSamples([[0, 1, 2], [5, 6]], np.array([3, 7]))


def make_sasrec(train, num_items, training=FAST, max_length=8, **arguments):
    options = SasRecSettings(dim=16, num_layers=1, dropout=0.0, max_length=max_length, training=training)
    return fit_sasrec(train, num_items, options, **arguments)


def make_gru4rec(train, num_items, training=FAST, max_length=8, **arguments):
    return fit_gru4rec(train, num_items, Gru4RecSettings(dim=16, dropout=0.0, max_length=max_length, training=training), **arguments)


BODIES = {"sasrec": lambda: Transformer(SasRecSettings(dim=8)), "gru4rec": lambda: Recurrence(Gru4RecSettings(dim=8, num_layers=2))}
SYSTEMS = {"sasrec": make_sasrec, "gru4rec": make_gru4rec}


@pytest.fixture(params=SYSTEMS, name="make")
def make_fixture(request):
    return SYSTEMS[request.param]


@pytest.mark.parametrize("name", BODIES)
def test_no_output_depends_on_a_later_item(name):
    torch.manual_seed(0)
    model = ItemSequenceModel(BODIES[name](), NUM_ITEMS, 8).eval()
    items = torch.tensor([[1, 2, 3, 4, 5]])
    states = model(items)
    for place in range(1, 5):
        changed = items.clone()
        changed[0, place] = 9
        differs = (model(changed) - states).abs().amax(-1)[0] > 1e-6
        assert differs.tolist() == [False] * place + [True] * (5 - place)


@pytest.mark.parametrize("name", BODIES)
def test_padding_changes_no_state(name):
    torch.manual_seed(0)
    model = ItemSequenceModel(BODIES[name](), NUM_ITEMS, 8).eval()
    alone, padded = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[1, 2, 3, NUM_ITEMS, NUM_ITEMS]]))
    torch.testing.assert_close(padded[:, :3], alone)


def test_a_pattern_is_learnt(make):
    ranked = make(CYCLE, NUM_ITEMS).rank([[0, 1, 2], [7, 8], [9]], 1)
    assert ranked.tolist() == [[3], [9], [0]]


def test_order_matters(make):
    system = make([[0, 1, 2], [1, 0, 3]] * 10, 4)
    assert system.rank([[0, 1], [1, 0]], 1).tolist() == [[2], [3]]


def test_equal_seeds_give_equal_models_and_leave_the_global_generator_alone(make):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (make(CYCLE, NUM_ITEMS, TrainingSettings(max_epochs=2, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    scores = [system.log_probabilities([[0, 1]]) for system in (first, second, other)]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert not np.allclose(scores[0], scores[2])


def test_items_never_seen_come_last_and_are_read_as_nothing(make):
    system = make(CYCLE, NUM_ITEMS)
    assert system.rank([[0, 1, 2]], NUM_ITEMS)[0, -2:].tolist() == [10, 11]
    np.testing.assert_array_equal(system.rank([[0, 11, 1, 10]], 5), system.rank([[0, 1]], 5))
    assert np.isfinite(system.log_probabilities([[0, 1], [10], []])).all()


def test_log_probabilities_are_normalised_and_rank_as_the_system_does(make):
    system = make(CYCLE, NUM_ITEMS)
    log_probabilities = system.log_probabilities([[0, 1], [3], []])
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.argsort(-log_probabilities, axis=1, kind="stable"), system.rank([[0, 1], [3], []], NUM_ITEMS))


def test_only_the_last_items_are_read(make):
    system = make(CYCLE, NUM_ITEMS, max_length=3)
    np.testing.assert_array_equal(system.rank([[9, 9, 4, 5, 6]], 5), system.rank([[4, 5, 6]], 5))


def test_long_sequences_are_cut_so_that_every_item_is_predicted_once():
    windows = sequence_training._cut([0, 1, 2, 3, 4, 5, 6], 3)
    assert windows == [[0, 1, 2, 3], [3, 4, 5, 6]]
    assert sequence_training._cut([0, 1, 2, 3, 4], 3) == [[0, 1, 2, 3], [3, 4]]
    assert sequence_training._cut([7], 3) == sequence_training._cut([], 3) == []


def test_batches_hold_every_window_once_and_keep_the_budget():
    windows = sequence_training._Windows.of([list(range(length)) for length in (2, 7, 3, 3, 5, 2, 9)])
    batches = windows.batches(12, np.random.default_rng(0))
    assert sorted(np.concatenate(batches).tolist()) == list(range(7))
    assert all(len(rows) * windows.lengths[rows].max() <= 12 for rows in batches)
    assert windows.padded(np.array([2, 0]), 99).tolist() == [[0, 1, 2], [0, 1, 99]]


def test_training_stops_by_validation_and_keeps_the_best_epoch(make, monkeypatch):
    scores, seen = iter([0.0, 0.1, 0.5, 0.4, 0.3, 0.9]), []  # the first before any training

    def scripted(ranker, validation):
        seen.append(ranker.model.bias.detach().clone())
        return next(scores)

    monkeypatch.setattr(sequence_training, "validation_ndcg", scripted)
    system = make(CYCLE, NUM_ITEMS, TrainingSettings(max_epochs=9, patience=2), validation=VALIDATION)
    assert len(seen) == 5
    assert torch.equal(system.model.bias, seen[2])
    assert not torch.equal(seen[2], seen[4])
    assert system.num_epochs == 2


@pytest.mark.parametrize(("fit", "options"), [(fit_sasrec, SasRecSettings), (fit_gru4rec, Gru4RecSettings)])
def test_tuning_returns_the_better_system(fit, options):
    hopeless, able = (options(dim=16, dropout=0.0, training=TrainingSettings(learning_rate=r, max_epochs=20)) for r in (0.0, 1e-2))
    tuned = tune([hopeless, able], lambda settings: fit(CYCLE, NUM_ITEMS, settings, validation=VALIDATION), VALIDATION)
    assert tuned.settings is able
    assert tuned.system.rank([[0, 1, 2]], 1).tolist() == [[3]]


def test_refuses_heads_that_do_not_divide():
    with pytest.raises(ConfigError, match="dim is 6 and num_heads 4"):
        SasRecSettings(dim=6, num_heads=4)
