# SPDX-License-Identifier: Apache-2.0
"""Countdown: join given numbers into a target that changes."""

from meta_cot.tasks import number_puzzle
from meta_cot.tasks.countdown.problems import make_problem as make_problem
from meta_cot.tasks.countdown.problems import NAME
from meta_cot.tasks.countdown.problems import Settings
from meta_cot.tasks.countdown.problems import Source
from meta_cot.tasks.countdown.problems import SPLITS
from meta_cot.traces.arithmetic import teacher


def make(settings: Settings | None, seed: int) -> number_puzzle.NumberPuzzles:
  """Makes the task, see `tasks.base`."""
  if settings is None:
    return number_puzzle.NumberPuzzles(NAME, SPLITS)
  return number_puzzle.NumberPuzzles(
      NAME, SPLITS, Source(settings, seed),
      teacher.Teacher(settings.max_value, settings.operands))
