# SPDX-License-Identifier: Apache-2.0
"""Game of 24: join four numbers of 1..13, such as playing cards, into 24."""

from meta_cot.tasks import number_puzzle
from meta_cot.tasks.game24.problems import make_source
from meta_cot.tasks.game24.problems import NAME
from meta_cot.tasks.game24.problems import Settings
from meta_cot.tasks.game24.problems import SPLITS
from meta_cot.traces.arithmetic import teacher


def make(settings: Settings | None, seed: int) -> number_puzzle.NumberPuzzles:
  """Makes the task, see `tasks.base`."""
  if settings is None:
    return number_puzzle.NumberPuzzles(NAME, SPLITS)
  return number_puzzle.NumberPuzzles(
      NAME, SPLITS, make_source(settings, seed),
      teacher.Teacher(settings.max_value, settings.operands))
