# SPDX-License-Identifier: Apache-2.0
"""Mazes: searches of A* beside plans alone, in the tokens of Searchformer.

  python -m meta_cot.main --config=configs/maze.py:tiny --workdir=runs/maze

Variants:
  tiny    6 x 6, 0.5M parameters, both arms with as many tokens.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import tasks


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = base.get_config()
  c.style = 'searchformer'
  c.task = tasks.maze()
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1, strategies='astar')
  c.tokenizer = kinds.tokenizer()
  change(c)
  c.tokenizer.vocabulary.pieces = pieces(c.task.sizes)
  # With the control tokens and the characters that others are written in.
  c.tokenizer.vocabulary.vocab_size = len(c.tokenizer.vocabulary.pieces) + 32
  c.model.vocab_size = c.tokenizer.vocabulary.vocab_size
  return c


def pieces(sizes: tuple[int, ...]) -> tuple[str, ...]:
  """Lists the words of all mazes of these sizes, with the blank before them."""
  first = ('size', ' start') if len(sizes) > 1 else ('start',)
  words = (' goal', ' wall', ' create', ' close', ' plan')
  numbers = [f' {n}' for n in range(max(*sizes, 0))]
  costs = [f' c{n}' for n in range(max(sizes) ** 2)]
  return (*first, *words, *numbers, *costs)


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.sft = kinds.train(
      num_tokens=1_500_000, batch_size=4, save_every_steps=500)
  c.sft.data.sequence_length = 384
  c.evaluate = kinds.evaluate(
      reference='sft/traces', teacher='astar', solvers=('greedy',),
      num_problems=200, num_curve_problems=100)
  c.evaluate.samples.max_new_tokens = 320
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'evaluate')


VARIANTS = {'tiny': _tiny}
