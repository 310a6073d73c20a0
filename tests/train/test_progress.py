"""The board between a training worker and the driver."""

import pytest

from l2d_ray.train.progress import ProgressBoard, Snapshot, shown


def test_lines_are_read_once():
    board = ProgressBoard()
    board.advance(3, 10)
    board.add_line("epoch=1")
    assert board.read(0) == Snapshot(3, 10, ("epoch=1",))
    board.add_line("epoch=2")
    assert board.read(1) == Snapshot(3, 10, ("epoch=2",))


def test_what_was_said_last_is_shown_even_after_an_error(capsys):
    board = ProgressBoard()

    def lose_a_worker():
        with shown(board.read):
            board.add_line("epoch=1 train_loss=2")
            raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        lose_a_worker()
    assert capsys.readouterr().out.splitlines() == ["epoch=1 train_loss=2"]
