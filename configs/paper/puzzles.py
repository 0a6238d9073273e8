# SPDX-License-Identifier: Apache-2.0
"""What the figures share: number puzzles, a policy of solutions, its values.

The policy is small and knows little, so that there is something to judge. Its
answers to training problems are labelled with how they ended.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

from configs import base
from configs import kinds
from configs import tasks

ARM = 'solution_only_permuted'
POLICY = f'sft/{ARM}'
SEEDS = (0, 1, 2)


def chooser(
    variants: Mapping[str, Callable[[], ml_collections.ConfigDict]]
) -> Callable[..., ml_collections.ConfigDict]:
  """Makes the `get_config` of a figure."""

  def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
    """Makes the experiment of one variant; a ValueError lists them."""
    return base.choose(variants, variant)()

  return get_config


def policy(
    num_numbers: int, num_tokens: int, seeds: Sequence[int] = ()
) -> ml_collections.ConfigDict:
  """Makes a policy, POLICY or one for every seed.

  Of Countdown with three numbers; of 24 out of four numbers of 1..30, where a
  value learns quickly what a state is worth.
  """
  c = base.get_config()
  c.model.vocab_size = 160
  c.task = tasks.countdown()
  c.task.update(dict(
      num_numbers=num_numbers, max_target=60, max_value=99, num_train=20_000))
  if num_numbers == 4:
    c.task.update(dict(
        max_number=30, min_target=24, max_target=24, enumerate_all=False,
        heldout_target_fraction=0.0))
  c.problems = kinds.problems()
  c.traces = kinds.traces(num_processes=1)
  c.tokenizer = kinds.tokenizer()
  c.tokenizer.vocabulary.update(dict(  # a number is one token
      vocab_size=160, number_tokens=99, pieces=('?',)))
  c.sft = train(num_tokens=num_tokens, seeds=seeds)
  c.stages = ('problems', 'traces', 'tokenizer', 'sft')
  return c


def train(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that trains on short texts."""
  t = kinds.train(arms=(ARM,), save_every_steps=500)
  t.data.sequence_length = 128
  t.data.value.update(dict(weight=2.0, balance=0.5))
  t.update(changes)
  return t


def labels(
    c: ml_collections.ConfigDict, num_questions: int, num_samples: int = 4
) -> None:
  """Adds answers of POLICY, and labels of how they ended."""
  c.answers = kinds.search(
      policy=POLICY, num_train=num_questions, num_validation=200)
  c.answers.samples.update(dict(num_samples=num_samples, max_new_tokens=40))
  c.labels = kinds.label(policy=POLICY, records='answers', source='outcome')
  c.stages += ('answers', 'labels')


def judge(objective: str, **changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that trains a judge of POLICY for every seed."""
  j = train(
      objective=objective, start=POLICY, records='labels', seeds=SEEDS,
      batch_size=16)
  j.optimizer.learning_rate = 2e-3
  j.update(changes)
  return j


def asked(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that asks unseen numbers; samples of at most 40 tokens."""
  e = kinds.evaluate(
      policies=(POLICY,), splits=('heldout_numbers',), num_curve_problems=0,
      num_problems=300, solvers=('samples',))
  e.samples.update(dict(num_samples=32, max_new_tokens=40))
  e.search.update(dict(
      step_length=9, siblings='without_replacement', num_slots=50))
  e.update(changes)
  return e
