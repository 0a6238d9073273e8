# SPDX-License-Identifier: Apache-2.0
"""A task of a user's own: what is wrong in its code is one line.

`Own` wraps the task that a module outside the package makes. Whatever its code
raises, and whatever it returns that `base.Task` does not allow, is a
`faults.TaskError` with the task's name, where it arises. What judges texts of
a model (`verify`, `states.after`) runs in a process with limits of time and
memory: an answer that has no verdict by then is undecided, and the run goes on
until there are too many of them.
"""

from collections.abc import Callable, Iterator
import dataclasses
import json
import logging
import re
from typing import Any

import numpy as np

from meta_cot import problem as problem_lib
from meta_cot.problem import Problem, Verdict
from meta_cot.runtime import bounded
from meta_cot.tasks import base
from meta_cot.tasks import faults
from meta_cot.tasks import process
from meta_cot.traces import events as events_lib
from meta_cot.traces import record as record_lib

# Optional parts of a task, and what each has itself.
PARTS = {
    'teacher': ('strategies', 'search'),
    'states': ('first', 'after', 'max_steps'),
    'in_graph': ('inputs', 'outcome'), 'feedback': (), 'measure': ()}
_MAX_LOST = 20  # answers without a verdict


class Own:
  """A `base.Task` around another one; picklable where its settings are."""

  def __init__(
      self, name: str, file: str, make: Callable[..., Any], *arguments: Any):
    """Makes the task by `make(*arguments)`.

    Args:
      name: of the task.
      file: of its code.
      make: the task's own.
      *arguments: settings and seed.

    Raises:
      TaskError: it is no task.
    """
    self._name, self._file, self._made = name, file, (make, *arguments)
    self._task = self._call('make', make, *arguments)
    self._num_lost = 0
    self._process = process.Process(self._answer, file)
    _check_parts(self._task, self._wrong)
    self.splits = self._task.splits
    self.in_graph, self.feedback = self._task.in_graph, self._task.feedback
    self.teacher = self._task.teacher and _Teacher(self)
    self.states = self._task.states and _States(self)
    self.measure = self._task.measure and self._measure
    has_oracle = getattr(self._task, 'oracle', None) is not None
    self.oracle = self._oracle if has_oracle else None
    has_ask = getattr(self._task, 'ask', None) is not None
    self.ask = self._read if has_ask else None

  def __reduce__(self):
    return Own, (self._name, self._file, *self._made)

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    size = self._call('size', self._task.size, split)
    if type(size) is not int or size < 0:
      raise self._wrong('size', f'returned {size!r} for split {split}; must be '
                        'a number of problems')
    return size

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Yields problems, each of them checked."""
    stop = min(stop, self.size(split))
    what, number, end = f'problems({split!r}, {start}, {stop})', 0, object()
    found = self._call(
        what, lambda: iter(self._task.problems(split, start, stop)))
    while (problem := self._call(what, next, found, end)) is not end:
      self._check_problem(f'{what}, number {number}', problem)
      yield problem
      number += 1
    if number != max(stop - start, 0):
      raise self._wrong(what, f'gave {number} problems; must give one for '
                        f'every index, of which size says there are so many')

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges, in another process; what is lost there is undecided."""
    try:
      return self._ask('verify', problem, answer)
    except bounded.LimitError as e:
      self._num_lost += 1
      words = f'on problem {problem.id!r} and the answer {answer[:80]!r}: {e}'
      if self._num_lost >= _MAX_LOST:
        raise self._wrong(
            'verify', f'{words}; that was answer {_MAX_LOST} without a '
            'verdict: verify must be bounded in time and memory') from e
      logging.warning(
          'task %s: verify %s; the answer is undecided', self._name, words)
      return Verdict(False, f'undecided: {e}', is_decided=False)

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the question put otherwise."""
    varied = self._call('vary', self._task.vary, problem, rng)
    self._check_problem(f'vary of problem {problem.id!r}', varied)
    return varied

  def _measure(
      self, problem: Problem, text: str, answer: str | None, verdict: Verdict
  ) -> dict[str, Any]:
    """Returns what a row says besides."""
    what = f'measure of problem {problem.id!r} and the answer {answer!r:.80}'
    return self._call(
        what, lambda: dict(self._task.measure(problem, text, answer, verdict)))

  def _read(self, question: str) -> Problem:
    """Makes the problem of a question; ValueErrors are the task's answer."""
    problem = self._task.ask(question)
    self._check_problem(f'ask({question!r:.80})', problem)
    return problem

  def _oracle(self, problem: Problem, state: str) -> bool:
    """Returns whether some solution goes on from a state."""
    return bool(self._call(
        f'oracle of problem {problem.id!r} and the state {state!r:.80}',
        self._task.oracle, problem, state))

  def _ask(self, name: str, *args: Any) -> Any:
    """Calls `_answer` in another process; raises what it raised as its line."""
    result, words = self._process(name, *args)
    if words:
      about = [repr(getattr(x, 'id', x))[:80] for x in args]
      raise self._wrong(f'{name}({", ".join(about)})', f'raised {words}')
    return result

  def _answer(self, name: str, *args: Any) -> Any:
    """Judges a text; raises a TypeError on what is not allowed."""
    if name == 'verify':
      verdict = self._task.verify(*args)
      if not isinstance(verdict, Verdict):
        raise TypeError(f'returned {verdict!r}; must be a Verdict')
      return Verdict(
          bool(verdict.is_correct), str(verdict.reason),
          bool(verdict.is_decided))
    state = self._task.states.after(*args)
    if state is not None and not isinstance(state, str):
      raise TypeError(f'returned {state!r}; must be a text or None')
    return state

  def _call(self, what: str, call: Callable[..., Any], *args: Any) -> Any:
    result, caught = None, faults.Caught(self._file)
    with caught:
      result = call(*args)
    if caught.error:
      raise self._wrong(what, f'raised {caught.words}')
    return result

  def _wrong(self, what: str, words: str) -> faults.TaskError:
    return faults.TaskError(f'task {self._name}: {what} {words}.')

  def _check_problem(self, what: str, problem: Any) -> None:
    if not isinstance(problem, Problem):
      raise self._wrong(what, f'gave {problem!r:.80}; must be a Problem')
    for field in ('id', 'question', 'answer'):
      if not isinstance(getattr(problem, field), str):
        raise self._wrong(
            what, f'has {field} {getattr(problem, field)!r}; must be a text')
    caught, same = faults.Caught(self._file), None
    with caught:
      same = problem_lib.from_json(problem_lib.to_json(problem))
      json.dumps(problem.data, allow_nan=False)
    if same != problem:
      raise self._wrong(
          what, f'(id {problem.id!r}) has data {problem.data!r:.80}; must be '
          'what JSON gives back: lists for tuples, texts for keys'
          f'{" (" + str(caught.error) + ")" if caught.error else ""}')


def _check_parts(task: Any, wrong: Callable[..., Exception]) -> None:
  """Raises where the task lacks what every task has."""
  for name in ('splits', 'size', 'problems', 'verify', 'vary', *PARTS):
    if not hasattr(task, name):
      raise wrong('make', f'returned a {type(task).__name__} without {name}'
                  f'{"; a part it does not have is None" * (name in PARTS)}')
  for name, needed in PARTS.items():
    part = getattr(task, name)
    for attribute in needed if part is not None else ():
      if not hasattr(part, attribute):
        raise wrong(name, f'has no {attribute}')
  splits, first = task.splits, (base.TRAIN, base.VALIDATION)
  if not isinstance(splits, tuple) or splits[:2] != first or (
      len(splits) < 3 or len(set(splits)) < len(splits)
      or not all(re.fullmatch('[a-z0-9_]+', str(s)) for s in splits)):
    raise wrong('splits', f'is {splits!r}; must be a tuple of {first[0]!r}, '
                f'{first[1]!r} and at least one other name, such as '
                "'test', of lower-case letters, digits and underscores")


@dataclasses.dataclass(frozen=True)
class _Teacher:
  """A `base.Teacher` around another one."""

  own: Own

  @property
  def strategies(self) -> tuple[str, ...]:
    return tuple(self.own._task.teacher.strategies)

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Searches, and has the solution judged."""
    own, what = self.own, f'teacher.search({problem.id!r}, {strategy!r})'
    record = own._call(
        what, own._task.teacher.search, problem, strategy, seed)
    if not isinstance(record, record_lib.TraceRecord):
      raise own._wrong(what, f'returned {record!r:.80}; must be a TraceRecord')
    if record.problem != problem:
      raise own._wrong(
          what, f'returned a record of problem {record.problem.id!r}; must be '
          'of the one that was asked for, unchanged')
    own._call(f'{what}: telling its record', events_lib.linearize, record)
    steps = [record.nodes[i].step for i in record.solution[1:]]
    if record.is_solved:
      verdict = own.verify(problem, '\n'.join(steps))
      if verdict.is_decided and not verdict.is_correct:
        raise own._wrong(
            what, f'has the solution {steps!r:.200}, which verify refuses '
            f'({verdict.reason})')
    return record


@dataclasses.dataclass(frozen=True)
class _States:
  """A `base.States` around another one."""

  own: Own

  def first(self, problem: Problem) -> str:
    """Returns the state in which every solution begins."""
    state = self._call('first', problem)
    if not isinstance(state, str):
      raise self.own._wrong('states.first', f'returned {state!r}; must be a '
                            'text')
    return state

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns the state after a step, any text; None if it is illegal."""
    try:
      return self.own._ask('states.after', problem, state, step)
    except bounded.LimitError as e:
      raise self.own._wrong(
          f'states.after({problem.id!r}, {state!r:.80}, {step!r:.80}):',
          f'{e}') from e

  def max_steps(self, problem: Problem) -> int:
    """Returns how many steps a solution has at most."""
    number = self._call('max_steps', problem)
    if type(number) is not int or number < 1:
      raise self.own._wrong(
          'states.max_steps', f'returned {number!r} for problem '
          f'{problem.id!r}; must be a number of steps, at least 1')
    return number

  def _call(self, name: str, problem: Problem) -> Any:
    return self.own._call(
        f'states.{name} of problem {problem.id!r}',
        getattr(self.own._task.states, name), problem)
