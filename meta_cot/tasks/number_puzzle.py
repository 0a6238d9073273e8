# SPDX-License-Identifier: Apache-2.0
"""Puzzles: join all given numbers, each once, with + - * / into a target.

Tasks of this kind differ in their problems alone.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import Any, ClassVar, Protocol

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.tasks import reachable
from meta_cot.traces.arithmetic import operations
from meta_cot.traces.arithmetic import teacher as teacher_lib
from meta_cot.verifiers import arithmetic


class Source(Protocol):
  """Where problems come from; see `base.Task`."""

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Yields problems by index alone."""


class States:
  """A state is the comma-joined numbers left, a step one operation."""

  def first(self, problem: Problem) -> str:
    """Returns the given numbers, such as '4,9,3'."""
    return ','.join(map(str, problem.data['numbers']))

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns the numbers left, the result last.

    None where the step is not a true operation on two numbers of the state.
    """
    del problem
    operation = operations.parse(step)
    if operation is None or not operation.is_true:
      return None
    left = operations.remaining(operations.numbers(state) or (), operation)
    return left and ','.join(map(str, left))

  def max_steps(self, problem: Problem) -> int:
    """Returns how many operations use up the numbers."""
    return len(problem.data['numbers']) - 1


class InGraph:
  """The verdict on a solution such as `S9-3=6,4*6=24`."""

  marks = ('S', ',')

  def inputs(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns int32 `numbers` [n] and `target` []."""
    return {
        name: np.asarray(problem.data[name], np.int32)
        for name in ('numbers', 'target')}

  def outcome(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns 1.0 for a right solution, else 0.0; see `in_graph.outcome`."""
    # Needs JAX, without which the rest of a task starts at once.
    from meta_cot.verifiers import in_graph
    return in_graph.outcome(texts)

  def is_legal(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns whether the steps so far are true; see `in_graph.is_legal`."""
    from meta_cot.verifiers import in_graph
    return in_graph.is_legal(texts)

  def state(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns the numbers left, in order; see `in_graph.state`."""
    from meta_cot.verifiers import in_graph
    return in_graph.state(texts)


@dataclasses.dataclass(frozen=True)
class NumberPuzzles:
  """A task; `Problem.data` holds `numbers` (list of int) and `target`.

  The teacher's results are non-negative integers, which is what the styles
  write; answers may have any rational values between.
  """

  name: str  # begins the ids of problems
  splits: tuple[str, ...]
  source: Source | None = None
  teacher: teacher_lib.Teacher = teacher_lib.Teacher()
  states: ClassVar[States] = States()
  in_graph: ClassVar[InGraph] = InGraph()
  feedback: ClassVar[None] = None

  def size(self, split: str) -> int:
    """Returns the number of problems of a split."""
    return self._source(split).size(split)

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Returns problems `start` to `stop` (exclusive, at most the size)."""
    source = self._source(split)
    if start < 0:
      raise ValueError(f'start: got {start}; must be at least 0.')
    return source.problems(split, start, min(stop, source.size(split)))

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges one expression or one operation per line.

    See `verifiers.arithmetic.check`; arithmetic is exact, and rational values
    inside an expression are accepted.
    """
    return arithmetic.check(
        answer, problem.data['numbers'], problem.data['target'])

  def oracle(self, problem: Problem, state: str) -> bool:
    """Returns whether operations of a solution make the target of a state."""
    numbers = operations.numbers(state)
    return numbers is not None and reachable.can_reach(
        numbers, problem.data['target'], None, reachable.exact)

  def measure(
      self, problem: Problem, text: str, answer: str | None, verdict: Verdict
  ) -> dict[str, str]:
    """Returns `error`: the first of `operations.faults` of a wrong answer."""
    del text
    if answer is None or verdict.is_correct:
      return {}
    numbers, target = problem.data['numbers'], problem.data['target']
    faults = operations.faults(answer.split('\n'), numbers, target)
    return dict(error=next((kind for _, kind in faults), 'format'))

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the same puzzle with its numbers in a random order."""
    numbers = rng.permutation(problem.data['numbers']).tolist()
    return make_problem(self.name, numbers, problem.data['target'])

  def rest(self, problem: Problem, state: str) -> Problem:
    """Returns the puzzle of the numbers left, with the same target."""
    return make_problem(
        self.name, operations.numbers(state), problem.data['target'])

  def ask(self, question: str) -> Problem:
    """Makes the problem of a question such as '4,9,3>24'.

    Raises:
      ValueError: it is none.
    """
    return make_problem(self.name, *operations.question(question))

  def _source(self, split: str) -> Source:
    if self.source is None:
      raise config_lib.UserError(
          f'task {self.name}: made without settings, it can judge but has no '
          'problems; pass settings to tasks.make.')
    if split not in self.splits:
      raise ValueError(
          f'split: got {split!r}; must be one of {", ".join(self.splits)}.')
    return self.source


def make(
    name: str, splits: tuple[str, ...], settings: Any, source: Source | None
) -> NumberPuzzles:
  """Makes a task; with settings it has problems and limits the teacher."""
  if settings is None:
    return NumberPuzzles(name, splits)
  return NumberPuzzles(
      name, splits, source,
      teacher_lib.Teacher(settings.max_value, settings.operands))


def make_problem(name: str, numbers: Sequence[int], target: int) -> Problem:
  """Makes the problem that shows `numbers` in the given order.

  Its question is '9,3,4>24' and its id 'NAME-3-9-3-4-24': the number count,
  the numbers, the target.
  """
  numbers = list(numbers)
  return Problem(
      id='-'.join(map(str, (name, len(numbers), *numbers, target))),
      question=f'{",".join(map(str, numbers))}>{target}',
      answer=str(target), data={'numbers': numbers, 'target': target})
