# SPDX-License-Identifier: Apache-2.0
"""Reads the trees of a language model: records, verdicts, what can be told.

A step of a tree is one operation of a solution, such as those of
`S9-3=6,4*6=24`, or an event of a trace. Whatever else a model wrote stays in
the record as it is, with no state.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import numpy as np

from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.rollouts import verdicts
from meta_cot.solvers import steps as steps_lib
from meta_cot.tasks import base
from meta_cot.traces import from_tree


@dataclasses.dataclass(frozen=True)
class Searched:
  """One search: its record, its cost, and whether it was any good."""

  record: traces.TraceRecord
  num_tokens: int  # generated for all children, those merged away included
  num_expansions: int
  num_steps: int  # of the engine
  is_found: bool  # some finished child is right, whether chosen or not
  text: str  # prompt and steps of the attempt that is the answer, or ''

  @property
  def is_solved(self) -> bool:
    """Whether the search's own answer is right."""
    return self.record.is_solved


@dataclasses.dataclass(frozen=True)
class Reader:
  """Makes records of the trees of one model."""

  task: base.Task
  tokenizer: tokenizers.Tokenizer
  style: str
  kind: str  # of the steps, of `steps.KINDS`
  strategy: str
  arguments: Mapping[str, Any]  # JSON values
  seed: int
  model: str

  def __call__(
      self, problem: Problem, tree: from_tree.Arrays,
      tokens_NxT: np.ndarray, lengths_N: np.ndarray, solution: int,
      num_steps: int,
  ) -> Searched:
    """Reads and judges one tree.

    Args:
      problem: that was searched.
      tree: a `search.SearchTree` of one problem, NumPy.
      tokens_NxT: int, of every node's own step.
      lengths_N: int, of the steps.
      solution: the search's answer, a slot; -1 for none.
      num_steps: of the engine.
    """
    texts, paths = self._texts(problem, tree, tokens_NxT, lengths_N)
    record = from_tree.from_tree(
        problem, tree, texts, solution, strategy=self.strategy,
        arguments=self.arguments, seed=self.seed, model=self.model)
    return Searched(
        record, int(tree.num_tokens), int(tree.num_expansions), num_steps,
        any(text.is_correct for text in texts.values()),
        traces.prompt(problem, style=self.style) + self.tokenizer.decode(
            self._last(paths[solution])) if solution >= 0 else '')

  def _texts(self, problem, tree, tokens_NxT, lengths_N):
    """{slot: NodeText} and {slot: tokens from the root on}."""
    first = self._first(problem)
    texts = {0: from_tree.NodeText('', first or '', False, ())}
    paths, states = {0: ()}, {0: first}  # tokens; state, None if illegal
    for slot in np.flatnonzero(tree.is_valid).tolist()[1:]:
      parent = int(tree.parents[slot])
      tokens = tuple(tokens_NxT[slot, :lengths_N[slot]].tolist())
      paths[slot] = paths[parent] + tokens
      text = self.tokenizer.decode(tokens)
      step = steps_lib.said(
          text, self.style, self.kind, is_first=parent == 0)
      is_legal = step is not None and states[parent] is not None
      states[slot] = self.task.states.after(
          states[parent], step) if is_legal else None
      texts[slot] = from_tree.NodeText(
          step=text if step is None else step, tokens=tokens,
          state=states[slot] or '',
          is_correct=bool(tree.is_terminal[slot]) and verdicts.of_tokens(
              self.task, self.tokenizer, problem, self._last(paths[slot]),
              self.style).verdict.is_correct)
    return texts, paths

  def _last(self, tokens: Sequence[int]) -> Sequence[int]:
    return steps_lib.last_text(tokens, self.tokenizer.eos_ids)

  def _first(self, problem: Problem) -> str | None:
    """The state of the root; None where steps do not lead to states."""
    if self.kind != 'solution' or self.task.states is None:
      return None
    return self.task.states.first(problem)


def of_answers(
    task: base.Task, problem: Problem, answers: Sequence[str | None],
    is_correct: Sequence[bool], *, strategy: str,
    arguments: Mapping[str, Any], seed: int, model: str,
) -> traces.TraceRecord:
  """Makes a record of whole answers: a chain of steps for each, in order.

  Args:
    task: that has states; a step that it does not allow has none.
    problem: that was answered.
    answers: one step per line; None: none was claimed.
    is_correct: of the same; the first right one is the solution.
    strategy: name of the solver.
    arguments: of the solver, JSON values.
    seed: of its random draws.
    model: who answered.
  """
  nodes, solution = [traces.Node(-1, '', task.states.first(problem), 0)], ()
  for answer, is_right in zip(answers, is_correct, strict=True):
    steps = answer.split('\n') if answer else ()
    parent, state, order = 0, nodes[0].state, len(nodes)
    for i, step in enumerate(steps, 1):
      state = state and task.states.after(state, step)
      is_last = i == len(steps)
      nodes.append(traces.Node(
          parent, step, state or '', order=-1 if is_last else order,
          is_terminal=is_last, is_correct=is_last and bool(is_right)))
      parent, order = len(nodes) - 1, order + 1
    if is_right and not solution:
      solution = from_tree.path(nodes, parent)
  return traces.TraceRecord(
      problem=problem, strategy=strategy, arguments=arguments, seed=seed,
      model=model, nodes=tuple(nodes), solution=solution,
      traversal='depth_first')


def told(record: traces.TraceRecord, style: str) -> tuple[str, int]:
  """The search as text, as far as the style can write it.

  Nodes that it has no words for are left out, with all that is below them: a
  step that is no operation on the numbers left, an end before one number is
  left.

  Returns:
    The text, which reads back as the events it was made from, and how many
    nodes it leaves out.

  Raises:
    ValueError: the text reads back as something else.
  """
  kept, index = [], {-1: -1}
  for i, node in enumerate(record.nodes):
    if node.parent not in index:
      continue
    node = dataclasses.replace(node, parent=index[node.parent])
    if _can_tell(record.problem, [*kept, node], style):
      index[i] = len(kept)
      kept.append(node)
  is_whole = all(i in index for i in record.solution)
  events = traces.linearize(dataclasses.replace(
      record, nodes=tuple(kept), solution=tuple(
          index[i] for i in record.solution) if is_whole else ()))
  text = traces.render(events, style=style)
  if traces.parse(text, style=style) != events:
    raise ValueError(
        f'problem {record.problem.id!r}: the search {text!r} reads back as '
        'another one.')
  return text, len(record.nodes) - len(kept)


def _can_tell(
    problem: Problem, nodes: Sequence[traces.Node], style: str) -> bool:
  """Whether the style can write the way to the last of the nodes."""
  events = [traces.Start(problem.question)]
  for depth, i in enumerate(from_tree.path(nodes, len(nodes) - 1)[1:]):
    node = nodes[i]
    outcome = 'goal' if node.is_correct else 'dead_end' * node.is_terminal
    events += [traces.Jump(depth)] * bool(depth)
    events.append(traces.Step(
        depth + 1, depth, node.step, node.state, outcome))
  try:
    traces.render(events, style=style)
  except ValueError:
    return False
  return True
