"""Which arm of an experiment answers a user: always the same one, in every process, and in proportion to the arms' weights."""

from __future__ import annotations

from l2d_ray.schema import stable_hash
from l2d_ray.serve.state_messages import Arm, Experiment

HASH_VALUES = 1 << 63


def arm_of(experiment: Experiment, user_id: str) -> Arm:
    """The user's arm. It depends on the experiment's name, so that another experiment shares its users out anew."""
    place = stable_hash(experiment.name, user_id) / HASH_VALUES * sum(arm.weight for arm in experiment.arms)
    for arm in experiment.arms:
        place -= arm.weight
        if place < 0:
            return arm
    return experiment.arms[-1]
