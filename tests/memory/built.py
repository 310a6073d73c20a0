"""What a built memory must hold: the training samples of toy data, each once, with the vectors of an encoder in this process."""

from pathlib import Path

import numpy as np

from l2d_ray.data.sequences import iter_sequences
from l2d_ray.memory.sequences import load_sequences, trained_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.model.loading import load_checkpoint
from l2d_ray.schema import TEST, VALID
from tests.toys import encode_in_process


def stored_rows(memory: Memory) -> dict[int, np.ndarray]:
    """sample_id -> vector; fails where a sample_id stands twice."""
    found: dict[int, np.ndarray] = {}
    for batch in memory.scan():
        for sample_id, vector in zip(batch.sample_ids.tolist(), batch.vectors, strict=True):
            assert sample_id not in found
            found[sample_id] = vector
    return found


def check_memory(memory: Memory, checkpoint_dir: Path, data_dir: Path) -> None:
    """The training samples, each once, and the users' training sequences, once."""
    language_model = load_checkpoint(checkpoint_dir)
    targets, vectors = encode_in_process(language_model, data_dir)
    found, expected = stored_rows(memory), {target.sample_id: vector for target, vector in zip(targets, vectors, strict=True)}
    assert len(expected) > 40
    assert found.keys() == expected.keys()
    for sample_id, vector in expected.items():
        np.testing.assert_allclose(found[sample_id].astype(np.float32), vector, rtol=2e-3, atol=2e-3)
    held_out = {target.sample_id for split in (VALID, TEST) for target in encode_in_process(language_model, data_dir, split)[0]}
    assert held_out
    assert not held_out & found.keys()
    trained = {sequence.user_id: sequence for sequence in trained_sequences(iter_sequences(data_dir))}
    assert load_sequences(memory.uri, memory.state.sequences) == trained
