"""The stopping rule: the best weights are restored, the start included, and training ends after enough worse epochs."""

import torch
from torch import nn

from l2d_ray.baselines.early_stopping import train_until_best


def run(scores, *, max_epochs=10, patience=2):
    """The number of epochs after which the restored weights stood, and how many were run; an epoch adds 1 to the only weight."""
    model, script, num_run = nn.Linear(1, 1, bias=False), iter(scores), 0
    model.weight.data.zero_()

    def train_epoch():
        nonlocal num_run
        assert model.training
        num_run += 1
        with torch.no_grad():
            model.weight += 1

    train_until_best(model, train_epoch, lambda: next(script), max_epochs=max_epochs, patience=patience)
    assert not model.training
    return int(model.weight.item()), num_run


def test_the_best_epoch_is_restored():
    assert run([0.0, 0.1, 0.5, 0.4, 0.45, 0.9]) == (2, 4)


def test_the_start_is_restored_where_nothing_was_better():
    assert run([0.5, 0.5, 0.4]) == (0, 2)


def test_training_ends_with_the_epochs():
    assert run([0.0, 0.1, 0.2, 0.3], max_epochs=3) == (3, 3)


def test_without_a_score_all_epochs_run_and_the_last_weights_stay():
    model, epochs = nn.Linear(1, 1), []
    train_until_best(model, lambda: epochs.append(model.training), None, max_epochs=4, patience=1)
    assert epochs == [True] * 4
    assert not model.training
