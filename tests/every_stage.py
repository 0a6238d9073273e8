# SPDX-License-Identifier: Apache-2.0
"""An experiment with a stage of every kind, for tests of whole runs."""

import ml_collections

from configs import countdown
from configs import erl2
from configs import kinds
from configs import search

START = 'sft/solution_only'


def get_config() -> ml_collections.ConfigDict:
  """Makes the quickstart's experiment with all that may stand behind it."""
  c = countdown.get_config('tiny')
  tuned = erl2.get_config('tiny')
  c.sft.arms = ('traces', 'solution_only')
  c.search = search.get_config('tiny').search
  c.answers = kinds.search(
      policy=START, solver='samples', num_train=12, num_validation=4)
  c.answers.samples.update(dict(
      batch_size=16, num_samples=2, max_new_tokens=24))
  # Of searches of the teacher, which are right at times.
  c.label = kinds.label(policy=START, records='traces', num_train=24,
                        num_validation=8, max_new_tokens=16, num_rollouts=2,
                        num_validation_rollouts=3)
  c.value = kinds.train(
      objective='value', records='label', start=START, arms=('solution_only',),
      num_tokens=10_000, batch_size=4, log_every_steps=1, eval_every_steps=5,
      num_eval_batches=1, save_every_steps=5)
  c.quality = kinds.quality(
      judges=('value/solution_only',), records='label', policy=START,
      batch_size=16)
  c.tokenizer.vocabulary.pieces = ('?',)  # asks for a verdict
  c.words = c.value.copy_and_resolve_references()
  c.words.objective, c.words.optimizer.trained.part = 'verdict', 'lora'
  c.judged = kinds.evaluate(
      policies=(START,), solvers=('samples',), num_problems=4,
      num_curve_problems=0, num_choice_problems=4)
  c.judged.samples.update(dict(
      batch_size=16, num_samples=2, max_new_tokens=16,
      judges=('value/solution_only', 'words/solution_only')))
  c.sized = kinds.evaluate(
      policies=(START,), solvers=('samples',), num_problems=4,
      num_curve_problems=0)
  c.sized.samples.update(dict(batch_size=16, max_new_tokens=16))
  c.sized.budget.update(dict(tokens=80, num_problems=4, block=4))
  c.figure = kinds.figure(figure='verifiers', stages=('judged',))
  c.rl, c.episodes = tuned.rl, tuned.episodes
  c.rl.start = c.episodes.start = START
  c.episodes.policies = (START, 'rl')
  c.stages += (
      'search', 'answers', 'label', 'value', 'quality', 'words', 'sized',
      'judged', 'figure', 'rl', 'episodes')
  return c
