# SPDX-License-Identifier: Apache-2.0
"""Reinforcement learning on search traces; variants of `configs/erl2.py`.

One long episode: the search is the exploration, and the answer the final one.
Stages `rl` (gamma 1, and expert iteration at equal samples and updates),
`quick` (gamma .98) and `more` (supervised training goes on) start from
`sft/traces`.
"""

import ml_collections

from configs import countdown
from configs import kinds

_START = 'sft/traces'
_GAMMA = 0.98
_PROMPTS = ('x', "'", '!')  # one token each


def tiny() -> ml_collections.ConfigDict:
  """Makes the one behind `countdown.py:tiny`."""
  c = _pipeline('tiny', length=128, limit=256)
  c.more.num_tokens = 1_000_000
  return c


def laptop() -> ml_collections.ConfigDict:
  """Makes the one behind `countdown.py:laptop`."""
  c = _pipeline('laptop', length=128, limit=192)
  for name in ('rl', 'quick'):
    c[name].num_iterations = 150
    c[name].questions.update(dict(num_questions=64, num_slots=512))
  c.more.num_tokens = 2_000_000
  return c


def prompts() -> ml_collections.ConfigDict:
  """Makes one policy that is told its discount, behind `countdown.py:tiny`.

  It learns to go on behind the prompts before they mean anything.
  """
  c = tiny()
  c.told = c.more.copy_and_resolve_references()
  c.told.num_tokens = 200_000
  c.told.data.update(dict(opening='any', openings=_PROMPTS))
  c.rl.update(dict(
      start='told/traces', objectives=('single',), num_iterations=150))
  c.rl.credit.discounts = (1.0, 0.98, 0.95)
  c.rl.credit.discount_prompts = tuple(f'{name}:' for name in _PROMPTS)
  c.episodes.update(dict(
      policies=('told', 'rl'), start='told/traces', reference=None,
      solvers=('greedy', 'samples')))
  *before, rl, _, _, episodes = c.stages
  c.stages = (*before, 'told', rl, episodes)
  return c


def mrt() -> ml_collections.ConfigDict:
  """Makes progress rewards beside outcomes, behind `countdown.py:tiny`."""
  c = tiny()
  c.rl.objectives = ('single',)
  c.mrt = _learning(c.rl.episodes.episode_length)
  c.mrt.credit.update(dict(advantage='mrt', num_rollouts=2, num_steps=2))
  c.episodes.update(dict(policies=(_START, 'rl', 'mrt'), reference=None))
  c.stages = tuple(
      'mrt' if s == 'quick' else s for s in c.stages if s != 'more')
  return c


def mixed() -> ml_collections.ConfigDict:
  """Makes a start that mixes strategies, some bad, behind `countdown.py:tiny`.
  """
  c = tiny()
  _mix(c, num_tokens=200_000)
  for name in ('rl', 'more', 'episodes'):
    c[name].start = 'mixed/traces'
  c.episodes.policies = ('mixed/traces', 'rl', 'more')
  *before, rl, _, more, episodes = c.stages
  c.stages = (*before, 'walks', 'mixed', rl, more, episodes)
  return c


def both() -> ml_collections.ConfigDict:
  """Makes the same two runs of RL from a plateau, and from a start below it.

  The one below has learned a little of twelve strategies behind the plateau;
  expert iteration and more supervised training start from it too. Behind
  `countdown.py:tiny`.
  """
  c = tiny()
  c.sft.update(dict(arms=('traces',), num_tokens=2_100_000))
  _mix(c, num_tokens=30_000)
  c.mixed.optimizer.learning_rate = 2e-4
  c.rl.objectives = ('single',)
  c.episodes.policies = (_START, 'rl', 'quick')
  stages = ('rl', 'quick', 'more', 'episodes')
  for name in stages:
    c[f'mixed_{name}'] = c[name].copy_and_resolve_references()
    c[f'mixed_{name}'].start = 'mixed/traces'
  c.mixed_rl.objectives = ('single', 'star')
  c.mixed_episodes.update(dict(
      policies=('mixed/traces', 'mixed_rl', 'mixed_quick', 'mixed_more'),
      reference='mixed_rl/single/seed0'))
  before = c.stages[:c.stages.index('rl')]
  c.stages = (
      *before, 'rl', 'quick', 'episodes', 'walks', 'mixed',
      *(f'mixed_{s}' for s in stages))
  return c


def _mix(c: ml_collections.ConfigDict, num_tokens: int) -> None:
  """Adds a start that has learned so much of twelve strategies."""
  c.walks = kinds.traces(strategies='stream_of_search', num_processes=1)
  c.mixed = c.more.copy_and_resolve_references()
  c.mixed.update(dict(records='walks', num_tokens=num_tokens))


def _pipeline(
    variant: str, *, length: int, limit: int) -> ml_collections.ConfigDict:
  """Makes the stages behind a variant of Countdown.

  `length` is that of an episode in training, `limit` that of a text in the
  report, both in tokens.
  """
  c = countdown.get_config(variant)
  c.rl = _learning(length)
  c.rl.objectives = ('single', 'star')
  c.quick = _learning(length)
  c.quick.credit.discounts = (_GAMMA,)
  c.more = kinds.train(start=_START, arms=('traces',))
  c.more.data.sequence_length = c.sft.data.sequence_length
  c.more.update(dict(batch_size=c.sft.batch_size, save_every_steps=500))
  c.more.optimizer.update(dict(learning_rate=1e-3, warmup_steps=20))
  c.episodes = kinds.evaluate(
      policies=(_START, 'sft/solution_only', 'rl', 'quick', 'more'),
      start=_START, reference='rl/single/seed0', solvers=('greedy', 'samples'),
      num_problems=256, num_curve_problems=0,
      token_grid=(39, 52, 64, 96, 128, limit))
  c.episodes.samples.update(dict(num_samples=8, max_new_tokens=limit))
  c.stages += ('rl', 'quick', 'more', 'episodes')
  return c


def _learning(length: int) -> ml_collections.ConfigDict:
  """Makes a stage: leave one out, neither KL nor clip, on what has a gradient.
  """
  r = kinds.rl(
      start=_START, objectives=('single',), seeds=(0, 1, 2), num_iterations=90,
      eval_every=30, save_every=30, num_eval_samples=2)
  r.episodes.update(dict(num_episodes=1, episode_length=length))
  r.loss.update(dict(kl_in='none', clip_low=1.0, clip_high=1e9))
  r.optimizer.learning_rate = 3e-4
  return r


VARIANTS = {
    'traces_tiny': tiny, 'traces_laptop': laptop, 'traces_prompts': prompts,
    'traces_mrt': mrt, 'traces_mixed': mixed}
