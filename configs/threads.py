# SPDX-License-Identifier: Apache-2.0
"""Threads: one search in one text, or in several at once (docs/traces.md).

  python -m meta_cot.main --config=configs/threads.py:tiny \
      --workdir=runs/threads

Stage `table` compares policies of as many tokens, all asked by solver `threads`
within one window: solutions alone, the serial search and the same with threads
(`sft`), searches of twelve strategies (`walks`), and threads whose number is
named in the prompt (`named`), the largest of which is the control: as many as
there are. configs/paper/ladder.py draws them.

Variants; docs/traces.md says what was run:
  tiny         Countdown with three numbers.
  four_tiny    with four, whose serial searches do not fit into the window.
"""

import ml_collections

from configs import base
from configs import kinds
from configs import loops

NAMES = ('threads_2', 'threads_4', 'threads_8', 'threads_24')
_ARMS = ('solution_only', 'traces', 'threads')


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def tiny() -> ml_collections.ConfigDict:
  """Makes problems, searches, policies and their table, three numbers."""
  c = loops.first_policy()
  c.style = 'compact_threads'
  c.model.vocab_size = 160
  c.traces.strategies = 'threads'
  c.walks = kinds.traces(strategies='stream_of_search', num_processes=1)
  c.tokenizer.vocabulary.update(dict(
      vocab_size=160, pieces=(*NAMES, '&', '@', '!')))
  c.sft = _train('traces', _ARMS)
  c.sos = _train('walks', ('traces',))
  c.named = _train('traces', ('threads',))
  c.named.data.update(dict(opening='strategy', openings=NAMES))
  c.table = kinds.evaluate(
      policies=('sft', 'sos', 'named'), solvers=('threads',),
      splits=('heldout_numbers',), num_problems=300, num_curve_problems=0)
  c.table.episodes.update(dict(num_samples=1, num_slots=64))
  c.table.episodes.threads.update(dict(
      num_threads=12, window=256, thread_window=256))
  c.stages = (
      'problems', 'traces', 'walks', 'tokenizer', 'sft', 'sos', 'named',
      'table')
  return c


def four_tiny() -> ml_collections.ConfigDict:
  """Makes the same with four numbers and a larger window."""
  c = tiny()
  c.model.max_length = 640
  c.task.update(dict(
      num_numbers=4, max_number=15, max_target=40, enumerate_all=False,
      num_train=20_000))
  for name in ('sft', 'sos', 'named'):
    c[name].data.sequence_length = 512
  c.table.episodes.threads.update(dict(
      num_joins=12, num_threads=24, window=512, thread_window=512))
  return c


def _train(
    records: str, arms: tuple[str, ...]) -> ml_collections.ConfigDict:
  t = kinds.train(
      records=records, arms=arms, num_tokens=2_000_000, eval_every_steps=200,
      save_every_steps=400)
  t.data.sequence_length = 256
  return t


VARIANTS = {'tiny': tiny, 'four_tiny': four_tiny}
