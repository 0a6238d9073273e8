# SPDX-License-Identifier: Apache-2.0
"""Answers to one question, and the reader of their states."""

import functools

from data_pipelines.tokenizers import sentencepiece
from meta_cot import traces
from meta_cot.solvers import states
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary
from meta_cot.tasks import countdown

TASK = countdown.make(None, 0)
PROBLEM = countdown.make_problem([4, 9, 3], 24)
STYLE = 'compact'
RIGHT, WRONG = '9-3=6\n4*6=24', '9-3=6\n4+6=10'
_FALSE = '9-3=7\n4*7=24'


@functools.cache
def reader() -> states.Reader:
  """One token per character."""
  tokenizer = sentencepiece.train(
      ['4,9,3>24:S9-3=6,4*6=24+/@;x!10578'], 40)
  return states.Reader(
      tokenizer, STYLE, vocabulary.of(tokenizer, 40, STYLE))


def record(*answers: str | None) -> traces.TraceRecord:
  return trees.of_answers(
      TASK, PROBLEM, answers, [a == RIGHT for a in answers],
      strategy='samples', arguments={}, seed=0, model='m')


ANSWERED = record(RIGHT, WRONG, _FALSE, RIGHT)
