# SPDX-License-Identifier: Apache-2.0
"""Answers of mathematics are judged, within limits of time and memory.

Nothing of a text is ever executed. What is exact is decided in this process in
microseconds; what needs algebra in a worker that may be ended.
"""

from collections.abc import Callable
import functools
import re

from meta_cot.problem import Verdict
from meta_cot.verifiers import pool
from meta_cot.verifiers.math import compare
from meta_cot.verifiers.math import exact
from meta_cot.verifiers.math import reader
from meta_cot.verifiers.math import tree

SECONDS = 2.0
NUM_BYTES = 2**30  # of a worker
_BLANKS = re.compile(r'(?:\\[,;:! ]|\\q?quad|[\s~${}])+')
_DRESS = re.compile(
    r'\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|left|right)(?![A-Za-z])')


def equal(gold: str, answer: str, *, timeout_s: float = SECONDS) -> bool:
  """Tells whether an answer is equal to the right one, see `compare.compare`.

  What a limit cut off is not equal; `verdict` tells it from what is different.
  """
  return verdict(gold, answer, timeout_s=timeout_s).is_correct


def verdict(
    gold: str, answer: str, *, timeout_s: float = SECONDS) -> Verdict:
  """Judges an answer, LaTeX or plain; never raises on its text.

  Args:
    gold: the right answer.
    answer: as it was given, without the text around it (`final_answer`).
    timeout_s: seconds that algebra may take.

  Returns:
    `is_decided` is False where a limit of time or size came first.
  """
  if gold.strip() == answer.strip():
    return Verdict(True, 'right')
  if len(answer) > reader.MAX_LENGTH:
    return Verdict(False, 'too long')
  try:
    trees = reader.read(gold), reader.read(answer)
  except tree.ReadingError:
    said = _words(gold)  # a name, a day: something with letters
    is_same = said == _words(answer) and re.search('[a-z]', said) is not None
    return Verdict(is_same, 'right' if is_same else 'different')
  try:
    found = compare.compare(*trees)
    if found is None:
      found = _workers()(*trees, seconds=timeout_s)
  except exact.TooLargeError:
    found = None
  except (pool.LimitError, pool.CallError) as e:
    return Verdict(False, f'undecided: {e}', is_decided=False)
  if found is None:
    return Verdict(False, 'undecided: too large', is_decided=False)
  return Verdict(found, 'right' if found else 'different')


@functools.cache
def _workers() -> pool.Pool:
  return pool.Pool(_algebra, seconds=SECONDS, num_bytes=NUM_BYTES)


def _algebra() -> Callable[[tree.Tree, tree.Tree], bool | None]:
  """Makes what runs in a worker, which alone needs sympy."""
  from meta_cot.verifiers.math import algebra
  return algebra.answer


def _words(text: str) -> str:
  """What a text says, without how it is set."""
  text = _BLANKS.sub(' ', _DRESS.sub(' ', text)).strip().rstrip('.').lower()
  return ' '.join(text.split()).strip('()')  # (B) is B
