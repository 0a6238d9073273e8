# SPDX-License-Identifier: Apache-2.0
"""Solutions with what was taken back before: see `traces.drafts`."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from meta_cot.tasks import base
from meta_cot.traces import drafts
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import record as record_lib

Events = tuple[events_lib.Event, ...]


def with_backtracks(
    task: base.Task, record: record_lib.TraceRecord, style: str, rate: float,
    rng: np.random.Generator,
) -> Events:
  """Writes wrong steps, each taken back, before right ones (Eq. 8).

  A step of the solution has one before it with probability `rate`, where the
  record has a step that was tried there and leads to no solution.

  Args:
    task: of the record.
    record: with a solution.
    style: that has drafts.
    rate: 0 gives solutions alone (Eq. 9).
    rng: drawn from at every step.
  """
  nodes, text = record.nodes, ''
  module = format_lib.STYLES[style]
  for number, (node, following) in enumerate(
      zip(record.solution, record.solution[1:])):
    wrong = [
        child.step for child in nodes
        if child.parent == node and child.state and not child.is_correct
        and child.step != nodes[following].step
        and not _may_succeed(task, record, child)]
    if wrong and rng.random() < rate:
      text += wrong[int(rng.integers(len(wrong)))] + drafts.BACK
    is_last = number == len(record.solution) - 2
    text += nodes[following].step + module.STEP_END * (not is_last)
  return _answer(record, module.OPENING + text)


def with_reset(
    record: record_lib.TraceRecord, failures: Sequence[Events], style: str,
    rate: float, rng: np.random.Generator,
) -> Events:
  """Writes a beginning of a wrong attempt, then the solution (Eq. 10).

  It has one to all of the attempt's steps, any number as likely, and is there
  with probability `rate`, where there is an attempt.
  """
  text = _text(events_lib.answer(record, record.solution).text, style)
  if failures and rng.random() < rate:
    steps = failures[0][-1].text.split('\n')
    cut = '\n'.join(steps[:1 + int(rng.integers(len(steps)))])
    text = _text(cut, style) + drafts.RESET + text
  return _answer(record, text)


def with_attempts(
    task: base.Task, record: record_lib.TraceRecord,
    failures: Sequence[Events], style: str, *, is_checked: bool,
    num_attempts: int = 0,
) -> Events:
  """Writes wrong attempts, then the solution (Eq. 7).

  The text ends behind the solution alone, which is written again up to
  `num_attempts`. Checked, every attempt has behind it the state that it
  reached, and whether that is right.
  """
  texts = [events[-1].text for events in failures]
  right = events_lib.answer(record, record.solution).text
  texts += [right] * max(num_attempts - len(texts), 1)
  text = ''
  for i, steps in enumerate(texts, 1):
    is_last = i == len(texts)
    text += _text(steps, style)
    if is_checked:
      text += drafts.CHECK + _state(task, record.problem, steps) + (
          drafts.RIGHT if is_last else drafts.WRONG)
    elif not is_last:
      text += drafts.RESET
  return _answer(record, text)


def _answer(record: record_lib.TraceRecord, draft: str) -> Events:
  answer = events_lib.answer(record, record.solution)
  return events_lib.Start(record.problem.question), dataclasses.replace(
      answer, tokens=(), draft=draft)


def _text(steps: str, style: str) -> str:
  module = format_lib.STYLES[style]
  return module.OPENING + steps.replace('\n', module.STEP_END)


def _state(task: base.Task, problem, steps: str) -> str:
  state = task.states.first(problem)
  for step in steps.split('\n'):
    state = state and task.states.after(problem, state, step)
  return state or ''


def _may_succeed(
    task: base.Task, record: record_lib.TraceRecord, node: record_lib.Node
) -> bool:
  """Whether a solution may go on from a node; False where nobody says so."""
  if node.is_terminal:
    return False
  oracle = getattr(task, 'oracle', None)
  return oracle is not None and oracle(record.problem, node.state)
