# SPDX-License-Identifier: Apache-2.0
"""A small Countdown, its arms, and examples of them."""

from data_pipelines import arms
from data_pipelines import examples as examples_lib
from meta_cot import tasks
from meta_cot.tasks import countdown

SETTINGS = countdown.Settings(
    num_numbers=3, min_number=1, max_number=12, min_target=10, max_target=40,
    max_value=60, enumerate_all=True, num_train=0, num_heldout=50,
    heldout_target_fraction=0.1, heldout_numbers_fraction=0.1,
    validation_fraction=0.25, operands='listed')
TASK = tasks.make('countdown', SETTINGS)
# All but those of tasks with feedback, trees with visits, drafts and threads.
ARMS = {
    name: arms.make(name, TASK) for name, arm in arms.ARMS.items()
    if not (
        arm.is_played or arm.is_visited or arm.draft or arm.is_threaded)}
CONFIG = examples_lib.DataConfig(
    sequence_length=160, mask='procedure_cloning', num_records=None,
    packing_bins=4, num_workers=0, num_streams=1, prune_fraction=0.0,
    max_attempts=4, trained_attempts='final', backtrack_rate=0.0,
    opening='none', openings=(),
    value=examples_lib.ValueConfig(1.0, 0.0, None),
    verdict=examples_lib.VerdictConfig('?', '!', 'x', None),
    pairs=examples_lib.PairsConfig(0.1, 0.25))
