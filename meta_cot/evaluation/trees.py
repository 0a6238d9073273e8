# SPDX-License-Identifier: Apache-2.0
"""Searches as trees: who was expanded when, and where the answer lay.

The root is on the left. Data coordinates are inches and every column is as
wide as its longest label, so labels cannot overlap whatever the tree.
"""

from collections.abc import Mapping, Sequence, Set
import math
from typing import NamedTuple

from matplotlib import axes as axes_lib
from matplotlib import collections as collections_lib
from matplotlib import figure as figure_lib

from meta_cot import traces
from meta_cot.evaluation import plots
from meta_cot.runtime import files
from meta_cot.traces import from_tree

_FONT = 7.0  # points
_CHARACTER = 0.0085 * _FONT  # inches: a monospace character, with some air
_ROW = 0.25  # inches between leaves
_GAP = 0.40  # inches between columns, crossed by the edges
_RADIUS = 0.10  # inches
_TEXT = _RADIUS + 0.05  # inches from the middle of a node to its label
_MARGIN = 0.25
_HEADER = 0.75  # inches above the tree: title and legend
_LONGEST = 40  # characters of a label
_MOST = 120  # nodes that are drawn, besides the solution

_FADED = '#aaaaaa'
_KINDS = {  # of nodes -> how they look
    'expanded (number: when)': dict(
        marker='o', color=plots.BLUE, markerfacecolor='white', markersize=13),
    'never expanded': dict(
        marker='o', color=_FADED, markerfacecolor='white', markersize=6),
    'dead end': dict(marker='X', color=plots.RED, markersize=7),
    'correct': dict(marker='o', color=plots.GREEN, markersize=13),
}


class Tree(NamedTuple):
  """A search and who wrote it."""

  title: str
  nodes: tuple[traces.Node, ...]  # in order of creation, the root first


def from_record(record: traces.TraceRecord) -> Tree:
  """The tree of a stored search."""
  return Tree(f'{record.problem.question} ({record.strategy})', record.nodes)


def from_text(text: str, style: str) -> Tree | None:
  """The tree that a model's text tells; None if it departs from the grammar."""
  try:
    start, *events = traces.parse(text, style=style)
  except ValueError:
    return None
  steps = [e for e in events if isinstance(e, traces.Step)]
  numbers = start.question.partition('>')[0]
  expanded = dict.fromkeys(step.parent for step in steps)
  order = {node: i for i, node in enumerate(expanded)}
  root = traces.Node(parent=-1, step='', state=numbers, order=order.get(0, -1))
  return Tree(f'{start.question} (the model)', (root, *(
      traces.Node(
          parent=step.parent, step=step.text, state=step.state,
          order=order.get(step.node, -1), is_terminal=bool(step.outcome),
          is_correct=step.outcome == 'goal')
      for step in steps)))


class Place(NamedTuple):
  """Where a node is drawn; inches, from the left and from the bottom."""

  label: str
  x: float
  y: float
  column_end: float  # where the labels of its depth end


def draw(path: files.Path, tree: Tree) -> None:
  """Draws a search.

  Numbers in the nodes are the order of expansion, from 1. The path to the
  first correct node is thick. Of a large tree this path and the earliest
  expansions are drawn, and '+k' counts the children left out.
  """
  nodes = tree.nodes
  goal = next((i for i, node in enumerate(nodes) if node.is_correct), -1)
  solution = from_tree.path(nodes, goal)
  places, width, height = layout(nodes, _drawn(nodes, solution))
  figure = figure_lib.Figure((width, height))
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, width), ylim=(0, height))
  axes.axis('off')
  _draw_nodes(axes, nodes, places, solution)
  _draw_edges(axes, nodes, places, {*solution})
  axes.text(
      _MARGIN, height - 0.14, tree.title, ha='left', va='top',
      fontsize=10, parse_math=False)
  axes.legend(
      ncols=5, loc='upper left', frameon=False, fontsize=7.5, markerscale=0.7,
      bbox_to_anchor=(_MARGIN - 0.1, height - 0.36),
      bbox_transform=axes.transData, borderpad=0, columnspacing=1.2,
      handletextpad=0.4, handlelength=1.4)
  plots.save(path, figure)


def _drawn(nodes: Sequence[traces.Node], solution: Sequence[int]) -> set[int]:
  """The nodes to draw: closed under parents, early expansions first."""
  def rank(i):
    order = nodes[i].order
    return (i not in solution, order if order >= 0 else math.inf, i)

  kept = {0, *solution}
  for i in sorted(range(len(nodes)), key=rank)[:_MOST]:
    kept.update(from_tree.path(nodes, i))
  return kept


def layout(
    nodes: Sequence[traces.Node], drawn: Set[int]
) -> tuple[dict[int, Place], float, float]:
  """Places of nodes, width and height of the figure in inches.

  Leaves take a row each, parents the middle of their children.
  """
  children = {i: [] for i in drawn}
  hidden = dict.fromkeys(drawn, 0)
  depths = [0] * len(nodes)
  for i, node in enumerate(nodes[1:], start=1):
    depths[i] = depths[node.parent] + 1
    if i in drawn:
      children[node.parent].append(i)
    elif node.parent in drawn:
      hidden[node.parent] += 1
  labels = {i: _label(nodes[i], hidden[i]) for i in sorted(drawn)}
  starts, ends = [], []
  for depth in range(max(depths[i] for i in drawn) + 1):
    longest = max(len(labels[i]) for i in drawn if depths[i] == depth)
    starts.append(ends[-1] + _GAP if ends else _MARGIN + _RADIUS)
    ends.append(starts[-1] + _RADIUS + 0.08 + longest * _CHARACTER)
  rows, next_row, pending = {}, 0, [0]
  while pending:  # depth first; a stack, since trees can be deep
    i = pending.pop()
    if not children[i]:
      rows[i] = next_row
      next_row += 1
    pending.extend(reversed(children[i]))
  for i in sorted(drawn, reverse=True):
    if children[i]:
      rows[i] = (rows[children[i][0]] + rows[children[i][-1]]) / 2
  height = _HEADER + next_row * _ROW + _MARGIN
  places = {
      i: Place(
          label, starts[depths[i]],
          height - _HEADER - (rows[i] + 0.5) * _ROW, ends[depths[i]])
      for i, label in labels.items()}
  return places, max(ends[-1] + _MARGIN, 6.5), height


def _label(node: traces.Node, num_hidden: int) -> str:
  """The step, the state after it in braces, and children left out."""
  text = node.step
  if node.state and not node.is_terminal and not node.is_correct:
    text = f'{text}  {{{node.state}}}' if text else f'{{{node.state}}}'
  text = ' '.join(text.split('\n'))
  if len(text) > _LONGEST:
    text = f'{text[:_LONGEST - 1]}…'
  return f'{text}  +{num_hidden}' if num_hidden else text


def _kind(node: traces.Node) -> str:
  expanded, new, dead, correct = _KINDS
  if node.is_correct:
    return correct
  if node.is_terminal:
    return dead
  return expanded if node.order >= 0 else new


def _draw_nodes(
    axes: axes_lib.Axes, nodes: Sequence[traces.Node],
    places: Mapping[int, Place], solution: Sequence[int]) -> None:
  """Markers, orders of expansion, and labels."""
  def mark(some, **look):
    axes.plot(
        [places[i].x for i in some], [places[i].y for i in some],
        linestyle='none', **look)

  for kind, look in _KINDS.items():
    some = [i for i in places if _kind(nodes[i]) == kind]
    if some:
      mark(some, label=kind, **look)
  mark(
      solution, marker='o', color=plots.GREEN, markerfacecolor='none',
      markersize=13, markeredgewidth=1.8)
  for i, place in places.items():
    node = nodes[i]
    if node.order >= 0:
      number = str(node.order + 1)
      axes.text(
          place.x, place.y, number, ha='center', va='center_baseline',
          fontsize=6.0 if len(number) < 3 else 4.5, zorder=4,
          color='white' if node.is_correct else 'black')
    is_seen = node.order >= 0 or node.is_terminal or i in solution
    axes.text(
        place.x + _TEXT, place.y, place.label, ha='left',
        va='center_baseline', family='monospace', fontsize=_FONT, zorder=4,
        parse_math=False, fontweight='bold' if i in solution else 'normal',
        color='black' if is_seen else '#666666')


def _draw_edges(
    axes: axes_lib.Axes, nodes: Sequence[traces.Node],
    places: Mapping[int, Place], solution: Set[int]) -> None:
  """Square corners, so that no edge crosses a node or a label."""
  plain, thick = [], []
  for i, place in places.items():
    if i == 0:
      continue
    parent = places[nodes[i].parent]
    text_end = parent.x + _TEXT + 0.04 + len(parent.label) * _CHARACTER
    turn = parent.column_end + 0.4 * _GAP
    line = [(text_end, parent.y), (turn, parent.y), (turn, place.y),
            (place.x, place.y)]
    (thick if {i, nodes[i].parent} <= solution else plain).append(line)
  axes.add_collection(collections_lib.LineCollection(
      plain, colors=_FADED, linewidths=0.8, zorder=1))
  if thick:
    axes.add_collection(collections_lib.LineCollection(
        thick, colors=plots.GREEN, linewidths=2.2, zorder=2,
        label='solution'))
