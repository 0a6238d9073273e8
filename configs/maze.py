# SPDX-License-Identifier: Apache-2.0
"""Mazes: searches of A* beside plans alone, in the tokens of Searchformer.

  python -m meta_cot.main --config=configs/maze.py:tiny --workdir=runs/maze

A mixture of sizes: each has its own test split. Stage `tokens2000` trains both
arms on the first 2,000 problems for as many tokens, `examples2000` solutions
alone for as many sequences; the report has the mean over seeds, with intervals.

Variants:
  tiny    4 x 4, 0.5M parameters, both arms with as many tokens: six minutes on
          two CPU cores. Traces solve 77% of the test mazes, all by a shortest
          way, solutions alone 84% (one seed; with 2.3 times the examples).
  laptop  4, 5 and 6, 2,000 and 16,000 problems, three seeds, equal tokens and
          equal examples: 18 runs, an hour and a half on two CPU cores.
          Solutions alone are ahead at equal tokens, both tie at equal examples:
          docs/results/maze_laptop.md.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import tasks

# Of variant laptop.
SIZES = (4, 5, 6)
AMOUNTS = (2_000, 16_000)  # training problems
SEEDS = (0, 1, 2)
NUM_TOKENS = 4_500_000  # of a run
NUM_EXAMPLES = 33_000  # of a run: the searches that so many tokens hold


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
  has_size = len(sizes) > 1
  first = ('size', ' start') if has_size else ('start',)
  words = (' goal', ' wall', ' create', ' close', ' plan')
  numbers = [f' {n}' for n in range(max(sizes) + has_size)]
  costs = [f' c{n}' for n in range(max(sizes) ** 2)]
  return (*first, *words, *numbers, *costs)


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.task.update(dict(sizes=(4,), num_train=16_000))
  c.sft = kinds.train(
      num_tokens=3_000_000, batch_size=4, save_every_steps=500)
  c.sft.data.sequence_length = 256
  c.evaluate = kinds.evaluate(
      reference='sft/traces', teacher='astar', solvers=('greedy',),
      num_problems=200, num_curve_problems=100)
  c.evaluate.samples.max_new_tokens = 192
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'evaluate')


def _laptop(c: ml_collections.ConfigDict) -> None:
  c.task.update(dict(sizes=SIZES, num_train=max(AMOUNTS)))
  c.problems.num_processes = c.traces.num_processes = 2
  trained = []
  for amount in AMOUNTS:
    equal = dict(
        tokens=dict(num_tokens=NUM_TOKENS),
        examples=dict(
            num_tokens=None, num_examples=NUM_EXAMPLES,
            arms=('solution_only',)))
    for unit, settings in equal.items():
      name = f'{unit}{amount}'
      c[name] = kinds.train(
          seeds=SEEDS, batch_size=4, eval_every_steps=500,
          save_every_steps=1_000_000, **settings)
      c[name].data.update(dict(sequence_length=384, num_records=amount))
      trained.append(name)
  c.evaluate = kinds.evaluate(
      policies=tuple(trained), reference=f'tokens{max(AMOUNTS)}/traces/seed0',
      teacher='astar', solvers=('greedy',), num_problems=200,
      num_curve_problems=0)
  c.evaluate.samples.max_new_tokens = 320
  c.stages = ('problems', 'traces', 'tokenizer', *trained, 'evaluate')


VARIANTS = {'tiny': _tiny, 'laptop': _laptop}
