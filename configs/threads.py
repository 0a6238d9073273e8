# SPDX-License-Identifier: Apache-2.0
"""Threads: one search in one text, or in several at once (docs/traces.md).

  python -m meta_cot.main --config=configs/threads.py:tiny \
      --workdir=runs/threads

Stage `table` compares policies of as many tokens, all asked by solver `threads`
within one window: solutions alone and the serial search (`sft`), searches of
twelve strategies (`walks`), and threads whose number is named in the prompt
(`named`), the largest of which is the control: as many as there are.
configs/paper/ladder.py draws them.

Variants:
  tiny  three-number Countdown, the policy of configs/countdown.py:tiny, a token
        a digit; every search fits into the window.
  four  four numbers of 1..10, a token a number, within a window that holds half
        of the serial searches; threads up to eight at a time, no `walks`.
"""

import ml_collections

from configs import base
from configs import countdown
from configs import kinds

NAMES = ('threads_2', 'threads_4', 'threads_8', 'threads_24')


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def tiny() -> ml_collections.ConfigDict:
  """Makes problems, searches, policies and their table, three numbers."""
  c = countdown.get_config('tiny')
  c.style = 'compact_digits_threads'
  c.traces.strategies = 'threads'
  c.walks = kinds.traces(strategies='stream_of_search', num_processes=1)
  c.tokenizer.vocabulary.pieces = (*NAMES, '&', '@', '!')
  c.sft.update(dict(arms=('traces', 'solution_only'), num_tokens=2_100_000))
  c.sos = c.sft.copy_and_resolve_references()
  c.sos.update(dict(records='walks', arms=('traces',)))
  c.named = c.sft.copy_and_resolve_references()
  c.named.arms = ('threads',)
  c.named.data.update(dict(opening='strategy', openings=NAMES))
  c.table = kinds.evaluate(
      policies=('sft', 'sos', 'named'), solvers=('threads',),
      splits=('heldout_numbers',), num_problems=200, num_curve_problems=0)
  c.table.episodes.update(dict(
      num_questions=100, num_samples=1, num_slots=64))
  c.table.episodes.threads.update(dict(num_threads=12, window=256))
  c.stages = (
      'problems', 'traces', 'walks', 'tokenizer', 'sft', 'sos', 'named',
      'table')
  return c


def four() -> ml_collections.ConfigDict:
  """Makes the same of searches that are longer than the window, four numbers.

  Below a first step there is a search of three numbers, which fits.
  """
  c, window, names = tiny(), 256, NAMES[:3]
  c.style = 'compact_threads'
  c.task.update(dict(
      num_numbers=4, max_number=10, min_target=5, max_target=30, max_value=30))
  c.sft.num_tokens = c.named.num_tokens = 8_000_000
  c.sft.data.sequence_length = c.named.data.sequence_length = window
  c.named.data.openings = names
  c.tokenizer.vocabulary.update(dict(
      pieces=(*names, '&', '@', '!'), number_tokens=30))
  c.table.policies = ('sft', 'named')
  c.table.episodes.threads.update(dict(
      num_joins=12, num_threads=8, window=window, thread_window=window))
  c.stages = ('problems', 'traces', 'tokenizer', 'sft', 'named', 'table')
  return c


VARIANTS = {'tiny': tiny, 'four': four}
