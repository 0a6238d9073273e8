# SPDX-License-Identifier: Apache-2.0
"""Small worlds with something hidden, and a tokenizer for all of them."""

import functools

from configs import tasks as tasks_config
from data_pipelines.tokenizers import sentencepiece
from meta_cot import tasks
from meta_cot.settings import config as config_lib

WORLDS = 'safe', 'harbour', 'hilo', 'mastermind'
_ROOM = dict(num_attempts=3, num_train=400, num_heldout=200)


def make(kind, **changes):
  """Makes the world `kind` with changes of its settings."""
  values = dict(getattr(tasks_config, kind)()) | _ROOM | changes
  del values['kind']
  return tasks.make(kind, config_lib.parse(
      tasks.settings_of(kind), values), 3)


@functools.cache
def tokenizer():
  """A token for every character; with ends and marks that write nothing."""
  return sentencepiece.train(
      ['x'], 64, 9, tuple('abcdefgh?+-UDLR.<>='))
