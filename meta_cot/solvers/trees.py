# SPDX-License-Identifier: Apache-2.0
"""Reads the trees of a language model: records, verdicts, what can be told.

A step of a tree is one operation of a solution, such as those of
`S9-3=6,4*6=24`, or an event of a trace. Whatever else a model wrote stays in
the record as it is, with no state.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from meta_cot import traces
from meta_cot.problem import Problem
from meta_cot.rollouts import judge as judge_lib
from meta_cot.solvers import vocabulary
from meta_cot.tasks import base
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import telling


def read(
    judge: judge_lib.Judge, kind: str, problem: Problem,
    tree: from_tree.Arrays, tokens_NxT: np.ndarray, lengths_N: np.ndarray,
    solution: int, **about: Any,
) -> tuple[traces.TraceRecord, str]:
  """Reads and judges the tree of one search.

  Args:
    judge: of the model's texts.
    kind: of the steps, of `vocabulary.KINDS`.
    problem: that was searched.
    tree: a `search.SearchTree` of one problem, NumPy.
    tokens_NxT: int, of every node's own step.
    lengths_N: int, of the steps.
    solution: the search's answer, a slot; -1 for none.
    **about: strategy, arguments, seed and model of the record.

  Returns:
    Its record, and prompt and steps of the attempt that is the answer, or ''.
  """
  task, tokenizer, first = judge.task, judge.tokenizer, None
  is_read = kind in vocabulary.SOLUTIONS and task.states is not None
  if is_read:
    first = task.states.first(problem)
  last = lambda tokens: judge_lib.last_text(tokens, tokenizer.eos_ids)
  texts = {0: from_tree.NodeText('', first or '', False, ())}
  paths, states = {0: ()}, {0: first}  # tokens; state, None if illegal
  for slot in np.flatnonzero(tree.is_valid).tolist()[1:]:
    parent = int(tree.parents[slot])
    tokens = tuple(tokens_NxT[slot, :lengths_N[slot]].tolist())
    paths[slot] = paths[parent] + tokens
    text = tokenizer.decode(tokens)
    step = None
    if is_read:
      step = _said(text, judge.style, is_first=parent == 0)
    is_legal = step is not None and states[parent] is not None
    states[slot] = task.states.after(
        problem, states[parent], step) if is_legal else None
    texts[slot] = from_tree.NodeText(
        step=text if step is None else step, tokens=tokens,
        state=states[slot] or '',
        is_correct=bool(tree.is_terminal[slot]) and judge.claim(
            problem, last(paths[slot])).verdict.is_correct)
  answer = ''
  if solution >= 0:
    answer = traces.prompt(problem, style=judge.style) + tokenizer.decode(
        last(paths[solution]))
  return from_tree.from_tree(problem, tree, texts, solution, **about), answer


def state_of(
    judge: judge_lib.Judge, problem: Problem, steps: Sequence[Sequence[int]]
) -> str | None:
  """Reads the state behind steps of a solution; None where one is illegal."""
  state = judge.task.states.first(problem)
  for i, tokens in enumerate(steps):
    step = _said(
        judge.tokenizer.decode(tokens), judge.style, is_first=i == 0)
    if step is None or state is None:
      return None
    state = judge.task.states.after(problem, state, step)
  return state


def _said(text: str, style: str, *, is_first: bool) -> str | None:
  """A step without what begins or ends it, and without blanks around it.

  None: it begins no solution.
  """
  module = format_lib.STYLES[style]
  opening = module.OPENING if is_first else ''
  if not text.startswith(opening):
    return None
  return text.removeprefix(opening).removesuffix(module.STEP_END).strip()


def of_answers(
    task: base.Task, problem: Problem, answers: Sequence[str | None],
    is_correct: Sequence[bool],
    pieces: Sequence[Sequence[tuple[int, ...]]] | None = None, **about: Any,
) -> traces.TraceRecord:
  """Makes a record of whole answers: a chain of steps for each, in order.

  Args:
    task: that has states; a step that it does not allow has none.
    problem: that was answered.
    answers: one step per line; None: none was claimed.
    is_correct: of the same; the first right one is the solution.
    pieces: tokens of the steps of every answer; left out where they are not as
      many. None: not known.
    **about: as of `read`.
  """
  nodes, solution = [traces.Node(-1, '', task.states.first(problem), 0)], ()
  for answer, is_right, tokens in zip(
      answers, is_correct, pieces or [()] * len(answers), strict=True):
    steps = answer.split('\n') if answer else ()
    if len(tokens) != len(steps):
      tokens = [()] * len(steps)
    parent, state, order = 0, nodes[0].state, len(nodes)
    for i, step in enumerate(steps, 1):
      state = state and task.states.after(problem, state, step)
      is_last = i == len(steps)
      nodes.append(traces.Node(
          parent, step, state or '', order=-1 if is_last else order,
          is_terminal=is_last, is_correct=is_last and bool(is_right),
          tokens=tokens[i - 1]))
      parent, order = len(nodes) - 1, order + 1
    if is_right and not solution:
      solution = from_tree.path(nodes, parent)
  return traces.TraceRecord(
      problem=problem, nodes=tuple(nodes), solution=solution,
      traversal='depth_first', **about)


def told(record: traces.TraceRecord, style: str) -> tuple[str, int]:
  """Tells the search as text, as far as the style can write it.

  Nodes that it has no words for are left out, with all that is below them: a
  step that is no operation on the numbers left, an end before one number is
  left, a state that was there before where the style wants it once.

  Returns:
    The text, which reads back as the events it was made from (but for values,
    which not every style writes), and how many nodes it leaves out.

  Raises:
    ValueError: the text reads back as something else.
  """
  part = telling.writable(record, style)
  events = traces.linearize(part)
  text = traces.render(events, style=style)
  without_values = tuple(e for e in events if not isinstance(e, traces.Value))
  if traces.parse(text, style=style) not in (events, without_values):
    raise ValueError(
        f'problem {record.problem.id!r}: the search {text!r} reads back as '
        'another one.')
  return text, len(record.nodes) - len(part.nodes)
