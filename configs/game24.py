# SPDX-License-Identifier: Apache-2.0
"""Game of 24: four numbers of 1..13 into 24, all 1,362 solvable puzzles.

  python -m meta_cot.main --config=configs/game24.py:tiny --workdir=runs/game24

A solution in the style compact has whole numbers only: 1,346 puzzles have one,
1,335 one without numbers above 100; the teacher finds nothing for the others,
which stay in their splits. With --config.task.rank_file=game24.csv, a file with
the columns Rank and Puzzles, the ranks 901 to 1000 are the test split.

Variants:
  tiny    solutions only, 0.5M parameters: minutes on two CPU cores.
  laptop  searches too, 0.8M parameters: meant for an hour on two CPU cores.
"""

import ml_collections

from configs import base

placeholder = ml_collections.config_dict.placeholder


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """The experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  config = base.get_config()
  config.stages += ('search',)
  config.task = _task()
  config.traces.num_processes = 1  # quicker than starting workers
  config.tokenizer.number_tokens = 100  # 0..100 are one token each
  config.search.update(dict(
      strategies=('beam', 'best_first', 'mcts'), num_problems=100, branching=8,
      num_expansions=16, num_simulations=16, step_length=8, temperature=1.5))
  change(config)
  return config


def _task():
  t = ml_collections.ConfigDict()
  t.kind = 'game24'
  t.rank_file = placeholder(str)  # test are its ranks 901-1000; None: by seed
  # Training problems: the puzzles in turn, every time in another random order
  # of their numbers. 0: every puzzle once.
  t.num_train = 12_000
  t.num_validation = 100  # puzzles
  t.num_test = 100  # puzzles, without a rank file
  t.max_value = 100  # largest intermediate result; None: any
  # Of the teacher's single strategies. descending: larger operand first, which
  # style compact needs; listed: as Stream of Search has them.
  t.operands = 'descending'
  return t


def _tiny(c: ml_collections.ConfigDict) -> None:
  c.arms = ('solution_only', 'solution_only_permuted')
  c.data.sequence_length = 128
  c.train.update(dict(num_tokens=1_000_000, batch_size=8))
  c.checkpoint.save_every_steps = 500
  c.evaluation.num_samples = 32


def _laptop(c: ml_collections.ConfigDict) -> None:
  c.arms = ('traces', 'solution_only', 'solution_only_permuted')
  c.model.update(dict(
      embed_dim=128, head_dim=32, mlp_dim=344, max_length=1024))
  c.data.sequence_length = 1024  # longer searches are left out
  c.optimizer.learning_rate = 2e-3
  c.train.update(dict(num_tokens=6_000_000, batch_size=4))
  c.checkpoint.save_every_steps = 400
  c.evaluation.max_new_tokens = 768


VARIANTS = {'tiny': _tiny, 'laptop': _laptop}
