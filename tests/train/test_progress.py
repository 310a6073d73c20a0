"""The board between a training worker and the driver."""

import threading

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
    board, threads = ProgressBoard(), threading.active_count()
    with pytest.raises(ValueError, match="lost"), shown(board.read):
        board.add_line("epoch=1 train_loss=2")
        raise ValueError("lost")
    assert capsys.readouterr().out.splitlines() == ["epoch=1 train_loss=2"]
    assert threading.active_count() == threads
