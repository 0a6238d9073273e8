# SPDX-License-Identifier: Apache-2.0
"""A prize in one of six boxes: an environment of one's own, in one file.

  python -m meta_cot.main --config=examples/boxes.py --workdir=runs/boxes

The prize is in box 1 half of the time. An attempt names a box, or looks (`?`),
which tells where the prize is and wins nothing. There are two attempts. Who is
paid for the last one alone looks first; who is paid for both names box 1 twice.
docs/rl.md tells more.
"""

import dataclasses

import ml_collections

from configs import worlds
from meta_cot.settings import config
from meta_cot.tasks.worlds import world

BOXES = '123456'


@dataclasses.dataclass(frozen=True)
class Settings(world.Settings):
  """How often the prize is in box 1."""

  first_probability: float = config.setting(low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class Boxes(world.World):
  """The task; its question is always the same."""

  name = 'boxes'
  symbols = f'{BOXES}?+-'  # of what is written and of what is said

  def draw(self, split, index, rng):
    """Draws a question and what is hidden."""
    prior = self.prior('6')
    return '6', rng.choices(list(prior), list(prior.values()))[0]

  def prior(self, question):
    """Returns how likely everything is that may be hidden."""
    first = self.settings.first_probability
    return {box: first if box == '1' else (1 - first) / 5 for box in BOXES}

  def attempts(self, question):
    """Lists all attempts that differ."""
    return tuple(f'{BOXES}?')

  def say(self, question, hidden, attempt):
    """Returns what is said of an attempt, and whether it wins."""
    if attempt == '?':
      return hidden, False
    return '+' if attempt == hidden else '-', attempt == hidden

  def act(self, question, heard, is_last, rng):
    """Demonstrates: anything, then the likeliest after what was heard."""
    if is_last:
      return self.guess(question, heard, rng)
    return '1' if rng.random() < 0.5 else rng.choice(f'{BOXES}?')


def make(settings, seed):
  """Makes the task."""
  return Boxes(settings, seed)


def get_config():
  """Makes the experiment."""
  c = worlds.experiment(ml_collections.ConfigDict(dict(
      kind=__file__, num_attempts=2, num_train=4_000, num_heldout=500,
      first_probability=0.5)))
  c.tokenizer.vocabulary.pieces = tuple('?+-')
  c.sft.num_tokens = 200_000
  c.rl.update(dict(
      objectives=('erl2', 'rl2'), seeds=(0,), num_iterations=120,
      num_eval_problems=500))
  c.rl.optimizer.learning_rate = 1e-3
  return c
