# SPDX-License-Identifier: Apache-2.0
"""Searches of one problem by several procedures: trees, and how they are told.
"""

from collections.abc import Iterable, Sequence
import itertools
from typing import Any

from etils import epath

from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import trees
from meta_cot.runtime import files
from meta_cot.traces import format as format_lib

_MAX_TEXT = 20_000  # letters of a text
_MAX_NODES = 2_000  # of a tree


def read(directory: epath.Path, max_problems: int) -> list[dict[str, Any]]:
  """Reads the searches behind a stage's rows.

  Returns:
    Problems in order: `problem`, `question`, and `searches`, see `tree`. They
    are the records of searches and, where a text of greedy decoding tells a
    search, its tree.

  Raises:
    UserError: rows or records are damaged.
  """
  problems = {}
  for folder in _folders(directory / 'rows'):
    policy, solver, split = _names(directory / 'rows', folder)
    rows = _first(folder, max_problems)
    found = list(itertools.islice(rows_lib.records(folder), len(rows)))
    for i, row in enumerate(rows):
      made = search(row, found[i] if i < len(found) else None)
      if made is not None:
        about = problems.setdefault((split, row['place']), dict(
            problem=row['problem'], split=split, searches=[]))
        about.setdefault('question', made.pop('question'))
        made.pop('question', None)
        about['searches'].append(dict(made, policy=policy, solver=solver))
  return [problems[key] for key in sorted(problems)]


def _folders(directory: epath.Path) -> list[epath.Path]:
  """Folders with pieces of rows, of the newest step of every policy."""
  if not directory.is_dir():
    return []
  found = [directory] if files.matching(directory, '*-*.jsonl') else []
  children = [c for c in files.matching(directory, '*') if c.is_dir()]
  steps = [c for c in children if '-step' in c.name]
  newest = {}
  for child in sorted(steps, key=lambda c: int(c.name.rpartition('-step')[2])):
    newest[child.name.partition('-step')[0]] = child
  for child in [c for c in children if c not in steps] + [*newest.values()]:
    found += _folders(child)
  return found


def _names(directory, folder) -> tuple[str, str, str]:
  """Policy (with its seed), solver and split of a folder of rows."""
  *policy, solver, split = folder.parts[len(directory.parts):]
  policy = [word.partition('-step')[0] for word in policy]
  return '/'.join(policy), solver, split


def _first(folder: epath.Path, number: int) -> list[dict[str, Any]]:
  """First attempts at the first problems."""
  rows = []
  for path in files.matching(folder, '*-*.jsonl'):
    if len(rows) < number:
      rows += [
          row for row in files.read_rows(path, place=int, details=dict)
          if row['attempt'] == 0 and row['episode'] == 1]
  return sorted(rows, key=lambda row: row['place'])[:number]


def search(
    row: dict[str, Any], record: traces.TraceRecord | None
) -> dict[str, Any] | None:
  """Makes what a row says, with the tree behind it; None where there is none.

  The tree is that of the record; without one that which a text tells.
  """
  text = row['details'].get('text') or ''
  if record is not None:
    question, nodes, solution = (
        record.problem.question, record.nodes, record.solution)
  elif row['solver'] == 'greedy':
    read_ = next(filter(None, (
        trees.from_text(text, style) for style in format_lib.STYLES)), None)
    if read_ is None or len(read_.nodes) < 2:
      return None
    question, nodes = read_.title.rpartition(' (')[0], read_.nodes
    goal = next((i for i, node in enumerate(nodes) if node.is_correct), -1)
    solution = trees.from_tree.path(nodes, goal)
  else:
    return None
  return dict(
      tree(nodes, solution, text), question=question,
      is_solved=row['is_correct'], num_tokens=row['num_tokens'],
      answer=row['answer'])


def add_teacher(
    problems: Sequence[dict[str, Any]],
    records: Iterable[traces.TraceRecord], style: str,
) -> None:
  """Adds the teacher's search of the same problem to problems of `read`."""
  missing = {problem['problem']: problem for problem in problems}
  for record in records:
    problem = missing.pop(record.problem.id, None)
    if problem is not None:
      problem['searches'].append(of_teacher(record, style))
    if not missing:
      return


def taught(
    records: Iterable[traces.TraceRecord], split: str, style: str
) -> list[dict[str, Any]]:
  """Makes problems as those of `read`, of the teacher's searches alone."""
  return [dict(
      problem=record.problem.id, split=split, question=record.problem.question,
      searches=[of_teacher(record, style)]) for record in records]


def of_teacher(record: traces.TraceRecord, style: str) -> dict[str, Any]:
  """Makes the values of one search; without a text where the style has none."""
  try:
    text = traces.render(traces.linearize(record), style=style)
  except ValueError:
    text = ''
  return dict(
      tree(record.nodes, record.solution, text), is_solved=record.is_solved,
      num_tokens=None, answer=None, policy='teacher', solver=record.strategy)


def tree(
    nodes: Sequence[traces.Node], solution: Sequence[int], text: str
) -> dict[str, Any]:
  """Makes the values of one search.

  Returns:
    Columns of its nodes, in order of creation: `parent`, `step`, `state`,
    `order` of expansion (-1: never), `is_terminal`, `is_correct`, `visits`,
    `value`, `log_prob`, `tokens` (how many), `told`: how many letters of
    `text` there are when it has told the node's step; -1 where it does not.
    `solution`, `text`.
  """
  nodes = nodes[:_MAX_NODES]
  columns = {
      name: [getattr(node, name) for node in nodes]
      for name in ('parent', 'step', 'state', 'order', 'is_terminal',
                   'is_correct', 'visits', 'value', 'log_prob')}
  text = text[:_MAX_TEXT]
  return columns | dict(
      tokens=[len(node.tokens) for node in nodes],
      told=told(nodes, text), solution=list(solution), text=text)


def told(nodes: Sequence[traces.Node], text: str) -> list[int]:
  """Finds where a text has told each node's step, in letters; -1 nowhere.

  A text is cut as short as it can be for the step to be read from it, whole.
  """
  where, style = [-1] * len(nodes), _style(text)
  if style is None:
    return where
  steps = lambda end: [
      e for e in format_lib.read(text[:end], style).events
      if isinstance(e, traces.Step)]
  all_steps, low, found = steps(len(text)), 0, {0: 0}
  children = {}
  for i, node in enumerate(nodes):
    children.setdefault(node.parent, []).append(i)
  for number, step in enumerate(all_steps):
    high = len(text)
    while low < high:
      middle = (low + high) // 2
      if steps(middle)[number:number + 1] == [step]:
        high = middle
      else:
        low = middle + 1
    mine = next((
        i for i in children.get(found.get(step.parent, -2), ())
        if where[i] < 0 and nodes[i].step == step.text), None)
    if mine is not None:
      found[step.node], where[mine] = mine, low
  return where


def _style(text: str) -> str | None:
  """A style in which the text tells the steps of a search; None for none."""
  for style in format_lib.STYLES:
    reading = format_lib.read(text, style)
    if not reading.faults and any(
        isinstance(e, traces.Step) for e in reading.events):
      return style
  return None
