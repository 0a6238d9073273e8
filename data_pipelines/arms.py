# SPDX-License-Identifier: Apache-2.0
"""Arms of an experiment: what of a search the model is trained to write."""

from collections.abc import Mapping, Sequence
import dataclasses
import types

import numpy as np

from data_pipelines import drafted
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib
from meta_cot.traces import telling
from meta_cot.traces import threads

Events = tuple[events_lib.Event, ...]
Attempts = tuple[Events, ...]  # at one question; each is a whole text


@dataclasses.dataclass(frozen=True)
class Arm:
  """Turns a record into the attempts of one training sequence."""

  is_solution: bool = True  # the one found first alone; else the whole search
  is_permuted: bool = False  # the question is put otherwise every time
  is_revised: bool = False  # behind wrong attempts, see `failures`
  is_kept: bool = False  # the last attempt fills up what is left of the limit
  is_played: bool = False  # the record's first steps, each answered
  task: base.Task | None = None  # of the records, see `make`
  is_free: bool = False  # its wrong attempts need no legal steps
  is_verified: bool = False  # a search that found a solution, or none
  is_visited: bool = False  # one way down the tree, drawn by visits
  is_relabelled: bool = False  # the teacher goes on from a state of the record
  is_threaded: bool = False  # the parent's text, or that of one thread
  # How what was taken back is written: '' | 'backtracks' | 'reset' |
  # 'attempts' | 'checked'; see `drafted`.
  draft: str = ''
  rate: float = 0.0  # of backtracks and resets
  style: str | None = None  # that it is written in, see `make`

  @property
  def is_random(self) -> bool:
    """Whether it draws; if not, its sequences are tokenised once and kept."""
    return (self.is_permuted or self.is_revised or self.is_visited
            or self.is_relabelled or self.is_threaded or bool(self.draft))

  @property
  def is_attempt(self) -> bool:
    """Whether it writes one attempt, and no search."""
    return self.is_solution and not (
        self.is_revised or self.is_played or self.is_visited
        or self.is_relabelled or self.draft)

  @property
  def styles(self) -> tuple[str, ...]:
    """Styles that can write it; not all write searches."""
    return tuple(
        name for name, style in format_lib.STYLES.items()
        if (style.EVENT_ENDS or self.is_solution) and (
            not self.draft or format_lib.has_drafts(name)) and (
                not self.is_threaded or format_lib.has_threads(name)))

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator,
      max_attempts: int,
  ) -> Attempts | None:
    """Returns the attempts; None for a record that has no such sequence."""
    if self.is_verified:
      record = telling.writable(record, self.style) if self.style else record
      return (events_lib.linearize(record),) if record.solution else None
    if self.is_threaded:
      return (threaded(record, rng),) if threads.has_threads(record) else None
    if not self.is_solution:
      return (events_lib.linearize(record),)
    if self.is_played:
      return played(record)
    if self.is_visited or self.is_relabelled:
      attempt = visited(record, rng) if self.is_visited else relabelled(
          self.task, record, rng)
      return (attempt,) if attempt and self._can_write(attempt) else None
    if not record.solution or (
        record.model != 'symbolic' and not self._can_write(
            _attempt(record.problem, record, record.solution))):
      return None
    if self.draft:
      return (self._drafted(record, rng, max_attempts),)
    problem = record.problem
    if self.is_permuted:
      problem = self.task.vary(problem, rng)
    attempts = () if not self.is_revised else tuple(
        attempt for attempt in failures(
            self.task, record, rng, max_attempts - 1,
            is_free=self.is_free or record.model != 'symbolic')
        if self._can_write(attempt))
    attempts += (_attempt(problem, record, record.solution),)
    if self.is_kept:
      attempts += attempts[-1:] * (max_attempts - len(attempts))
    return attempts

  def _drafted(
      self, record: record_lib.TraceRecord, rng: np.random.Generator,
      max_attempts: int,
  ) -> Events:
    """The solution with what was taken back before it."""
    if self.draft == 'backtracks':
      return drafted.with_backtracks(
          self.task, record, self.style, self.rate, rng)
    if self.draft == 'reset':
      wrong = failures(
          self.task, record, rng, 1, is_free=self.is_free, is_always=True)
      return drafted.with_reset(record, wrong, self.style, self.rate, rng)
    wrong = failures(
        self.task, record, rng, max_attempts - 1, is_free=self.is_free)
    return drafted.with_attempts(
        self.task, record, wrong, self.style,
        is_checked=self.draft == 'checked',
        num_attempts=max_attempts if self.is_kept else 0)

  def _can_write(self, attempt: Events) -> bool:
    """Whether there are steps, and the style can write them."""
    return bool(attempt[-1].text) and (
        self.style is None or telling.can_write(attempt, self.style))


def visited(
    record: record_lib.TraceRecord, rng: np.random.Generator) -> Events:
  """Draws a way down a tree, every step in proportion to its visits.

  So the mean loss of a step is the cross-entropy with the shares of visits
  among the children of its node, as in AlphaZero. A way that ends before a
  terminal node is an answer that is not whole.

  Args:
    record: of a search that counts visits.
    rng: drawn from once for every step.
  """
  nodes, way = record.nodes, [0]
  while True:
    children = [
        i for i, node in enumerate(nodes)
        if node.parent == way[-1] and node.visits > 0]
    if not children:
      break
    visits = np.array([nodes[i].visits for i in children], np.float64)
    way.append(children[rng.choice(len(children), p=visits / visits.sum())])
  return events_lib.Start(record.problem.question), dataclasses.replace(
      events_lib.answer(record, way), is_whole=nodes[way[-1]].is_terminal)


def relabelled(
    task: base.Task, record: record_lib.TraceRecord, rng: np.random.Generator
) -> Events | None:
  """Lets the teacher go on from a state that was reached (DAgger).

  The steps to the state are given; those of the teacher are trained.

  Args:
    task: that has a teacher, states and `rest`.
    record: of one of its problems.
    rng: one draw, of the state.

  Returns:
    The question and the steps; None where no solution goes on from the state.
  """
  nodes, longest = record.nodes, task.states.max_steps(record.problem)
  ways = [
      from_tree.path(nodes, i) for i, node in enumerate(nodes)
      if node.state and not node.is_terminal]
  ways = [way for way in ways if len(way) <= longest]  # a step is left
  if not ways:
    return None
  way = ways[int(rng.integers(len(ways)))]
  rest = base.rest(task, record.problem, nodes[way[-1]].state)
  found = task.teacher.search(rest, task.teacher.strategies[0], 0)
  if not found.solution:
    return None
  steps = [nodes[i].step for i in way[1:]]
  steps += [found.nodes[i].step for i in found.solution[1:]]
  return events_lib.Start(record.problem.question), events_lib.Answer(
      '\n'.join(steps), num_given=len(way) - 1)


def threaded(
    record: record_lib.TraceRecord, rng: np.random.Generator) -> Events:
  """Draws the parent's text, that of the thread it answers with, or any one's.

  A third each: of all threads few find a solution, and to see that it is one is
  what is learned last.

  Args:
    record: of a search that opens threads.
    rng: drawn from once or twice.
  """
  kind = rng.integers(3)
  if kind == 0:
    return threads.parent(record)
  found = threads.found_by(record)
  if kind == 1 and found is not None:
    return threads.child(record, found)
  return threads.child(
      record, int(rng.integers(threads.num_children(record))))


def failures(
    task: base.Task, record: record_lib.TraceRecord, rng: np.random.Generator,
    limit: int, *, is_free: bool = False, is_always: bool = False,
) -> Attempts:
  """Dead ends of the search as wrong solutions (arXiv 2501.04682, Eq. 4-7).

  Their number is uniform in 0..limit, but at most the dead ends that the search
  met: where it had to look longer, more attempts come before the right one. No
  two are the same; their order is random.

  Args:
    task: that has states.
    record: of one of its problems.
    rng: drawn from twice.
    limit: at least 0.
    is_free: whether any answer is wrong that the verifier decides is (what a
      model wrote); else it must have legal steps, as many as a solution has.
    is_always: as many as the limit, if there are.
  """
  is_wrong = _is_judged_wrong if is_free else _is_wrong
  count = limit if is_always else rng.integers(limit + 1)
  ends = [
      i for i, node in enumerate(record.nodes)
      if node.is_terminal and not node.is_correct]
  found = {}  # attempt -> None, in the order drawn
  for end in rng.permutation(ends).tolist():
    if len(found) == count:
      break
    path = from_tree.path(record.nodes, end)
    if is_wrong(
        task, record.problem, [record.nodes[i].step for i in path[1:]]):
      found[_attempt(record.problem, record, path)] = None
  return tuple(found)


def played(record: record_lib.TraceRecord) -> Attempts:
  """Attempts at a question, with what the environment said of each.

  A record of them has one child of the root for each, in their order: its step
  is the attempt, its state what was said.
  """
  start = events_lib.Start(record.problem.question)
  return tuple(
      (start, events_lib.Answer(node.step), events_lib.Feedback(node.state))
      for node in record.nodes[1:])


def _attempt(
    problem: Problem, record: record_lib.TraceRecord, path: Sequence[int]
) -> Events:
  """The question and the steps on a path from the root."""
  return events_lib.Start(problem.question), events_lib.answer(record, path)


def _is_wrong(
    task: base.Task, problem: Problem, steps: Sequence[str]) -> bool:
  """Whether these are all steps that a solution has, legal, but wrong.

  A model's search may also end in what is no step, or too early.
  """
  state = task.states.first(problem)
  for step in steps:
    state = task.states.after(problem, state, step)
    if state is None:
      return False
  return len(steps) == task.states.max_steps(problem) and (
      not task.verify(problem, '\n'.join(steps)).is_correct)


def _is_judged_wrong(
    task: base.Task, problem: Problem, steps: Sequence[str]) -> bool:
  """Whether the verifier can say that a text of such lines is wrong."""
  verdict = task.verify(problem, '\n'.join(steps))
  return verdict.is_decided and not verdict.is_correct


def make(name: str, task: base.Task, style: str | None = None) -> Arm:
  """The arm `name` of `ARMS` for records of a task.

  Attempts in a style that writes no searches are any text: there a wrong one
  is what the verifier finds wrong.

  Raises:
    ConfigError: the arm needs states or feedback, which the task does not
      have.
  """
  arm = ARMS[name]
  if (arm.is_revised or arm.draft) and task.states is None:
    raise config_lib.ConfigError(
        f'arms: got {name!r}; this task has no states, so it has no '
        'wrong ends to revise.')
  if arm.is_played and task.feedback is None:
    raise config_lib.ConfigError(
        f'arms: got {name!r}; this task gives no feedback between attempts.')
  if arm.is_relabelled and None in (
      task.teacher, task.states, getattr(task, 'rest', None)):
    raise config_lib.ConfigError(
        f'arms: got {name!r}; it needs a task with a teacher, states and a '
        'method rest(problem, state), such as puzzles of numbers.')
  return dataclasses.replace(
      arm, task=task, style=style,
      is_free=style is not None and not (
          format_lib.STYLES[style].EVENT_ENDS or format_lib.has_drafts(style)))


ARMS: Mapping[str, Arm] = types.MappingProxyType({
    'traces': Arm(is_solution=False),
    'solution_only': Arm(),
    'solution_only_permuted': Arm(is_permuted=True),
    'revisions': Arm(is_revised=True),
    'revisions_kept': Arm(is_revised=True, is_kept=True),
    'episodes': Arm(is_played=True),
    'verified_traces': Arm(is_solution=False, is_verified=True),
    'visited': Arm(is_visited=True),
    'relabelled': Arm(is_relabelled=True),
    'threads': Arm(is_solution=False, is_threaded=True),
    'backtracks': Arm(draft='backtracks'),
    'resets': Arm(draft='reset'),
    'attempts': Arm(draft='attempts'),
    'attempts_kept': Arm(draft='attempts', is_kept=True),
    'checked': Arm(draft='checked'),
})
