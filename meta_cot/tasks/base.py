# SPDX-License-Identifier: Apache-2.0
"""What a task is: problems, the judgement of an answer, and optional parts.

A part that a task does not have is None; what needs it says so in one line. A
task module has `Settings`, a frozen dataclass of `config.setting`s, and
`make(settings, seed)`, which returns a picklable `Task`; with None in the place
of the settings it can judge and has no problems.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from meta_cot.problem import Problem, Verdict
from meta_cot.settings import config as config_lib
from meta_cot.traces import record as record_lib

TRAIN, VALIDATION = 'train', 'validation'


class Teacher(Protocol):
  """Symbolic searches over the problems."""

  strategies: tuple[str, ...]  # what `search` knows

  def search(
      self, problem: Problem, strategy: str, seed: int
  ) -> record_lib.TraceRecord:
    """Searches one problem; nothing found is a record without a solution.

    Raises:
      ValueError: no such strategy, or one that the problem does not allow.
    """


class States(Protocol):
  """Problems whose solutions are steps from state to state."""

  def first(self, problem: Problem) -> str:
    """Returns the state in which every solution begins."""

  def after(self, problem: Problem, state: str, step: str) -> str | None:
    """Returns the state after a step, any text; None if it is illegal."""

  def max_steps(self, problem: Problem) -> int:
    """Returns how many steps a solution has at most."""


class InGraph(Protocol):
  """The verdict as a function of arrays, for compiled programs.

  It may also have `is_legal(texts)` and `state(texts)`, functions as `outcome`
  makes them: whether a text may still become right ([] bool; tokens that end a
  text write what ends a step), and the state it has reached (int32 numbers [n]
  that equal states share, and whether a legal step has just ended, [] bool;
  tokens that end a text write '\\0'). Searches ask them where `search.tree`
  says so.
  """

  marks: tuple[str, str]  # OPENING and STEP_END of the styles that it reads

  def inputs(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns what the function needs to know of a problem.

    The problems of a batch must have equal shapes.
    """

  def outcome(self, texts: Sequence[str]) -> Callable[..., Any]:
    """Returns the function (inputs, tokens_M, length) -> [] float32 reward.

    Args:
      texts: of all token ids.
    """


# (problem, state) -> whether some solution goes on from the state.
Oracle = Callable[[Problem, str], bool]

# (problem, answer, verdict) -> what the policy reads after its answer. The
# answer is '' where the attempt claims none.
Feedback = Callable[[Problem, str, Verdict], str]


class InGraphFeedback(Protocol):
  """Feedback that is also a function of arrays, for compiled programs.

  An attempt is a row of symbols, each of them one token; the end is left out.
  """

  symbols: tuple[str, ...]  # of attempts and of feedback
  length: int  # F, symbols said at most

  def __call__(self, problem: Problem, answer: str, verdict: Verdict) -> str:
    """Says the same on the host."""

  def hidden(self, problem: Problem) -> dict[str, np.ndarray]:
    """Returns what the function needs to know of a problem.

    The arrays of all problems have equal shapes.
    """

  def respond(
      self, hidden: Mapping[str, Any], symbols: Any, length: Any
  ) -> tuple[Any, Any, Any]:
    """Answers attempts; pure.

    Args:
      hidden: of the problems, [S, ...].
      symbols: [S, T] int32, numbers of symbols; -1 for what is none, and
        behind the attempt.
      length: [S] int32, of the attempts; more than T for one without an end.

    Returns:
      Symbols said [S, F] int32, their number [S] int32, and rewards [S]
      float32, 1 where `verify` says that the attempt is right, else 0.
    """

# (problem, text, answer, verdict) -> what the row of an attempt says besides:
# numbers, of which means are reported, and `error`, the kind of a wrong answer.
# The text is the whole one, the answer None where it claims none.
Measure = Callable[[Problem, str, str | None, Verdict], Mapping[str, Any]]


class Task(Protocol):
  """A family of problems with an exact verifier."""

  # TRAIN; VALIDATION, on which every choice is made; then the test splits,
  # which are only reported.
  splits: tuple[str, ...]
  teacher: Teacher | None
  states: States | None
  in_graph: InGraph | None
  # None: silence. Of a task with feedback, questions may come again, with
  # something else that is hidden.
  feedback: Feedback | InGraphFeedback | None
  measure: Measure | None
  oracle: Oracle | None  # a task of one's own may leave it out

  def size(self, split: str) -> int:
    """Returns the number of problems of a split.

    Raises:
      ValueError: no such split.
      UserError: the task was made without settings.
    """

  def problems(self, split: str, start: int, stop: int) -> Iterator[Problem]:
    """Yields problems `start` to `stop` (exclusive, at most the size).

    A problem depends on the settings, the seed, the split and its index alone,
    so ranges can be made in parallel.

    Raises:
      ValueError, UserError: as `size`.
    """

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges `answer`, any text; never raises on it, bounded in time."""

  def vary(self, problem: Problem, rng: np.random.Generator) -> Problem:
    """Returns the same question put otherwise; itself where it cannot be."""


def test_splits(task: Task) -> tuple[str, ...]:
  """Returns the splits that are only reported."""
  return tuple(s for s in task.splits if s not in (TRAIN, VALIDATION))


def ask(task: Task, question: str) -> Problem:
  """Makes the problem of a question that somebody asks.

  A task may have `ask(question) -> Problem`, which raises a ValueError, one
  line, on what is no question of it.

  Raises:
    UserError: it is none, or the task cannot read questions.
  """
  read = getattr(task, 'ask', None)
  if read is None:
    raise config_lib.UserError(
        'question: this task cannot read any; give it a method ask(question).')
  try:
    return read(question)
  except ValueError as e:
    raise config_lib.UserError(f'question: {e}') from e


def rest(task: Task, problem: Problem, state: str) -> Problem:
  """Makes the problem that is left at a state.

  A task may have `rest(problem, state) -> Problem`; the steps of a solution of
  what it returns lead from the state to a solution of the problem.

  Raises:
    UserError: the task has no such method.
  """
  make = getattr(task, 'rest', None)
  if make is None:
    raise config_lib.UserError(
        'rest: this task does not say what is left at a state; give it a '
        'method rest(problem, state).')
  return make(problem, state)


def difficulty(task: Task, problem: Problem) -> float | None:
  """Says how difficult a problem is.

  That is the number `difficulty` of its data, else how many steps its solution
  has at most; None where neither is known.
  """
  said = problem.data.get('difficulty')
  if isinstance(said, int | float):
    return said
  return None if task.states is None else task.states.max_steps(problem)
