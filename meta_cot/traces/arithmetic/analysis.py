# SPDX-License-Identifier: Apache-2.0
"""What a model wrote: the answer it claims, and what went wrong on the way.

Unlike `format.parse`, which refuses a text at its first fault, `analyze` counts
the faults and reads on. Neither function here raises on any text, and both take
time in proportion to its length.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from meta_cot.problem import Problem
from meta_cot.traces import format as format_lib
from meta_cot.traces.arithmetic import compact
from meta_cot.traces.arithmetic import operations
from meta_cot.traces.arithmetic import replay as replay_lib
from meta_cot.traces.arithmetic import stream_of_search
from meta_cot.verifiers import arithmetic

NO_ERROR = 'none'


@dataclasses.dataclass(frozen=True)
class TraceAnalysis:
  """Counts over one text."""

  nodes: int  # steps tried; the root is not counted
  backtracks: int  # moves to a node that is not a child of the present one
  errors: Mapping[str, int]  # every one of replay.ERROR_KINDS -> how often
  primary_error: str  # why it is not solved; 'none' if it is


def extract_answer(text: str, style: str) -> str | None:
  """The solution that `text` (prompt and continuation) claims at its end.

  Returns:
    One operation per line, to be judged by a verifier; None if the text claims
    none, or does not end with it as the grammar wants.

  Raises:
    ValueError: no such style.
  """
  return _functions(style)[0](text)


def analyze(
    problem: Problem, text: str, style: str, is_finished: bool
) -> TraceAnalysis:
  """Replays a model's text, counting nodes, backtracks and errors.

  `errors` counts over the whole text. `primary_error` is about the outcome:
  'unfinished' before all else; else the first fault of the claimed answer;
  else 'format' or 'no_answer' if there is none to judge.

  Args:
    problem: a Countdown problem.
    text: prompt and continuation, without control tokens.
    style: a name of `format.STYLES`.
    is_finished: whether the model ended the text itself.

  Raises:
    ValueError: no such style, or not a Countdown question.
  """
  extract, read_body, claim = _functions(style)
  prompt = format_lib.prompt(problem, style)
  numbers, target = operations.question(problem.question)
  replay = replay_lib.Replay(numbers, target)
  if text.startswith(prompt):
    body = text[len(prompt):]
    read_body(replay, body, is_finished)
  else:
    body = text
    replay.errors['format'] += 1
  answer = extract(text)
  if not is_finished:
    primary = 'unfinished'
  elif answer is None:
    primary = 'format' if claim in body else 'no_answer'
  else:
    primary = _fault(answer, numbers, target)
  if primary in ('unfinished', 'no_answer'):
    replay.errors[primary] += 1
  return TraceAnalysis(
      nodes=len(replay.states) - 1, backtracks=replay.backtracks,
      errors=replay.errors, primary_error=primary)


def _functions(style: str):
  """(extract the answer, replay the body, what claims an answer)."""
  functions = {
      'compact': (_extract_compact, replay_lib.read_compact, 'S'),
      'stream_of_search': (
          _extract_sentences, replay_lib.read_sentences, 'Goal Reached'),
  }
  if style not in functions:
    raise ValueError(
        f'style {style!r} is unknown; the styles are '
        f'{", ".join(sorted(functions))}.')
  return functions[style]


def _fault(answer: str, numbers: Sequence[int], target: int) -> str:
  """The first fault of an answer; the verifier has the last word."""
  if arithmetic.check(answer, numbers, target).is_correct:
    return NO_ERROR
  left = tuple(numbers)
  for line in answer.split('\n'):
    operation = operations.parse(line)
    if operation is None:
      return 'format'
    if not operation.is_true:
      return 'arithmetic'
    left = operations.remaining(left, operation)
    if left is None:
      return 'illegal_state'
  return 'format' if left == (target,) else 'wrong_answer'


def _extract_compact(text: str) -> str | None:
  prompt = compact.PROMPT.match(text)
  at = text.find('S')
  if prompt is None or at < 0:
    return None
  solution = compact.SOLUTION.fullmatch(text, at)
  return solution and solution[1].replace(',', '\n')


def _extract_sentences(text: str) -> str | None:
  lines = text.removesuffix('\n').split('\n')
  if len(lines) < 3 or text.count('Goal Reached') != 1:
    return None
  claim = stream_of_search.COMPARE.fullmatch(lines[-1])
  explored = stream_of_search.EXPLORE.fullmatch(lines[-2])
  if claim is None or explored is None or claim[3].startswith('un'):
    return None
  for line in reversed(lines[:-2]):
    if line.startswith('Current State'):
      state = stream_of_search.STATE.fullmatch(line)
      if state is None:
        return None
      steps = stream_of_search.read_operations(state[3])
      return '\n'.join((*steps, explored[1]))
  return None
