# SPDX-License-Identifier: Apache-2.0
"""Game of 24: four numbers of 1..13 into 24, all 1,362 solvable puzzles.

  python -m meta_cot.main --config=configs/game24.py:tiny --workdir=runs/game24

A solution in the style compact has whole numbers only: 1,346 puzzles have one,
1,335 one without numbers above 100; the teacher finds nothing for the others,
which stay in their splits. With --config.task.rank_file=game24.csv, a file with
the columns Rank and Puzzles, the ranks 901 to 1000 are the test split.

Variants:
  tiny    solutions only, 0.5M parameters. Three and a half minutes on two CPU
          cores. Greedily 6% of the test puzzles, with beam 28%, best_first 36%,
          mcts 39%.
  laptop  searches too, 0.8M parameters, search at three budgets. An hour on two
          CPU cores. Greedily `traces` 32% and `solution_only` 8%; searches of
          the latter up to 44%.
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
  c.task = tasks.game24()
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1)  # quicker than starting workers
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.number_tokens = 100  # 0..100 are one token each
  c.sft = kinds.train()
  c.evaluate = kinds.evaluate(
      reference='sft/solution_only', teacher='compact')
  c.evaluate.budget.sample_tokens = 512
  c.search = kinds.evaluate(
      policies=('sft/solution_only',), reference='sft/solution_only',
      solvers=('greedy', 'samples', 'beam', 'best_first', 'mcts'),
      num_problems=100, num_curve_problems=0)
  c.search.search.update(dict(
      branching=8, num_expansions=16, num_simulations=16, step_length=8,
      temperature=1.5))
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'evaluate', 'search')
  change(c)
  return c


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.sft.update(dict(
      arms=('solution_only', 'solution_only_permuted'), num_tokens=1_000_000,
      batch_size=8, save_every_steps=500))
  c.sft.data.sequence_length = 128
  c.evaluate.samples.num_samples = 32


def _laptop(c: ml_collections.ConfigDict) -> None:
  c.model.update(dict(
      embed_dim=128, head_dim=32, mlp_dim=344, max_length=1024))
  c.sft.update(dict(
      arms=('traces',), num_tokens=3_000_000, batch_size=4,
      save_every_steps=400))
  c.sft.data.sequence_length = 1024  # longer searches are left out
  c.sft.optimizer.learning_rate = 2e-3
  c.solutions = kinds.train(  # of 2M tokens the validation loss doubles
      arms=('solution_only', 'solution_only_permuted'), num_tokens=800_000,
      save_every_steps=500)
  c.solutions.data.sequence_length = 128
  c.evaluate.update(dict(
      policies=('sft', 'solutions'), reference='sft/traces'))
  c.evaluate.samples.max_new_tokens = 768
  c.search.update(dict(
      policies=('solutions',), reference='solutions/solution_only'))
  # As hot as the steps of a search: colder samples are those of `evaluate`.
  c.search.samples.update(dict(num_samples=256, temperature=1.5))
  searches = []
  for size in (4, 16, 64):  # how success grows with the nodes visited
    searches.append(f'search{size}')
    c[searches[-1]] = c.search.copy_and_resolve_references()
    c[searches[-1]].search.update(dict(
        num_expansions=size, num_simulations=size, beam_width=size // 4))
  del c.search
  c.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'solutions', 'evaluate',
      *searches)


VARIANTS = {'tiny': _tiny, 'laptop': _laptop}
