# SPDX-License-Identifier: Apache-2.0
"""Sudoku of 4 x 4: searches written out, solutions alone, searches of those.

  python -m meta_cot.main --config=configs/sudoku4.py:tiny --workdir=runs/sudoku

Cells are filled row by row: a policy of solutions has to look ahead, where one
of searches may come to a dead end and go back. Stage `search` searches over the
steps of the former.

Variants:
  tiny  0.5M parameters, puzzles with 4 to 12 empty cells (the easy ones teach
        the rules), three seeds: half an hour on two CPU cores.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import tasks

# One token each: the cells, and what only searches of a policy have.
PIECES = (*(f'r{i}c{j}=' for i in range(1, 5) for j in range(1, 5)), '@')


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = base.get_config()
  c.style = 'cells'
  c.task = tasks.sudoku4()
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1, strategies='depth_first')
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.pieces = PIECES
  c.tokenizer.vocabulary.number_tokens = 9  # digits are one token each
  c.sft = kinds.train()
  c.sft.data.sequence_length = 192
  c.sft.optimizer.learning_rate = 8e-4  # the rules are not learned with 3e-3
  c.evaluate = kinds.evaluate(
      reference='sft/traces/seed0', teacher='depth_first')
  c.evaluate.budget.sample_tokens = 512
  c.evaluate.samples.max_new_tokens = 160
  policy = 'sft/solution_only/seed0'
  c.search = kinds.evaluate(
      policies=(policy,), reference=policy, num_curve_problems=0,
      solvers=('greedy', 'samples', 'beam', 'best_first', 'mcts'))
  c.search.samples.max_new_tokens = 48
  c.search.search.step_length = 5  # S, a cell, a digit, what ends it
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'evaluate', 'search')
  change(c)
  return c


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.task.update(dict(min_empty=4, num_train=40_000, num_test=1_000))
  c.sft.update(dict(
      seeds=(0, 1, 2), num_tokens=1_200_000, batch_size=4,
      save_every_steps=1_000))
  c.evaluate.update(dict(num_problems=1_000, num_curve_problems=0))
  c.evaluate.samples.num_samples = 8
  c.search.update(dict(num_problems=200))
  c.search.samples.num_samples = 16


VARIANTS = {'tiny': _tiny}
