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
  c.rl, c.episodes = tuned.rl, tuned.episodes
  c.rl.start = c.episodes.start = START
  c.episodes.policies = (START, 'rl')
  c.stages += ('search', 'answers', 'rl', 'episodes')
  return c
