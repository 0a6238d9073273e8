# SPDX-License-Identifier: Apache-2.0
"""Trace records of Countdown problems, by index, without importing JAX."""

from collections.abc import Iterator
import dataclasses
import random

from meta_cot.tasks.countdown import problems as countdown_problems
from meta_cot.tasks.countdown import teacher
from meta_cot.traces import record as record_lib


def strategy_of(
    config: countdown_problems.CountdownConfig, strategies: str, seed: int,
    index: int,
) -> teacher.Strategy:
  """The search that writes the trace of problem `index` of a split."""
  if strategies == 'compact':
    return dataclasses.replace(
        teacher.COMPACT, max_value=config.max_value)
  rng = random.Random(f'strategy-{seed}-{index}')
  return teacher.sample_strategy(rng)


def make_records(
    config: countdown_problems.CountdownConfig, strategies: str, seed: int,
    split: str, start: int, stop: int,
) -> Iterator[record_lib.TraceRecord]:
  """Records `start..stop` of a split; they depend on nothing else."""
  problems = countdown_problems.iter_problems(config, seed, split, start, stop)
  for index, problem in enumerate(problems, start):
    yield teacher.search(
        problem, strategy_of(config, strategies, seed, index),
        seed * 1_000_003 + index)
