# SPDX-License-Identifier: Apache-2.0
"""Loops: a policy searches, learns from what it found, and searches again.

  python -m meta_cot.main --config=configs/loops.py:star_tiny \
      --workdir=runs/star

A round is a stage `searchN`, which answers training problems, and a stage
`sftN`, which learns the solutions that were found. Stage `table` compares the
policies of all rounds, with and without a search (Table 1 of arXiv 2501.04682).

Variants:
  star_tiny    STaR: samples; every round trains the first policy anew. Two
               rounds, a few minutes on two CPU cores; no result is kept yet.
  ts_llm_tiny  TS-LLM: MCTS guided by the policy's likelihood; every round goes
               on from the policy of the round before. A few minutes on two CPU
               cores; no result is kept yet.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import tasks

FIRST = 'sft/solution_only'  # the policy of round 0


def get_config(variant: str = 'star_tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  change = base.choose(VARIANTS, variant)
  c = first_policy()
  change(c, num_rounds=2)
  return c


def first_policy() -> ml_collections.ConfigDict:
  """Makes three-number Countdown and a small policy that knows a little."""
  c = base.get_config()
  c.model.update(dict(num_layers=3, embed_dim=64, head_dim=16, mlp_dim=172))
  c.task = tasks.countdown()
  c.task.max_value = 60
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1)  # quicker than starting workers
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.number_tokens = 60  # 0..60 are one token each
  c.sft = kinds.train(
      arms=('solution_only',), num_tokens=400_000, eval_every_steps=100,
      save_every_steps=400)
  c.sft.data.sequence_length = 64
  c.stages = ('problems', 'traces', 'tokenizer', 'sft')
  return c


def _star(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  policy = FIRST
  for i in range(1, num_rounds + 1):
    c[f'search{i}'] = kinds.search(
        policy=policy, solver='samples', num_train=2_000, num_validation=100)
    policy = learn(c, i, start=FIRST)
  _compare(c, num_rounds)


def _ts_llm(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  policy = FIRST
  for i in range(1, num_rounds + 1):
    c[f'search{i}'] = search = kinds.search(
        policy=policy, solver='mcts', num_train=2_000, num_validation=100)
    search.search.update(_TREES)
    policy = learn(c, i, start=policy)
  _compare(c, num_rounds)


def learn(c: ml_collections.ConfigDict, i: int, start: str) -> str:
  """Adds the training of round i; returns the policy that it leaves."""
  c[f'sft{i}'] = kinds.train(
      records=f'search{i}', start=start, arms=('solution_only',),
      num_tokens=200_000, eval_every_steps=100, save_every_steps=400)
  c[f'sft{i}'].data.sequence_length = 64
  c[f'sft{i}'].optimizer.learning_rate = 1e-3
  c.stages += (f'search{i}', f'sft{i}')
  return f'sft{i}/solution_only'


def _compare(c: ml_collections.ConfigDict, num_rounds: int) -> None:
  """Adds the table over the policies of all rounds."""
  c.table = kinds.evaluate(
      policies=('sft', *(f'sft{i}' for i in range(1, num_rounds + 1))),
      reference=FIRST, solvers=('greedy', 'mcts'), num_problems=300,
      num_curve_problems=0)
  c.table.search.update(_TREES)
  c.table.search.outcome = 'value'  # no verifier, as where a problem is new
  c.stages += ('table',)


_TREES = dict(
    branching=4, num_simulations=8, step_length=8, temperature=1.5)

VARIANTS = {'star_tiny': _star, 'ts_llm_tiny': _ts_llm}
