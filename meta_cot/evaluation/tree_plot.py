# SPDX-License-Identifier: Apache-2.0
"""Draws one search tree: who was expanded when, and where the answer lay.

The root is on the left. Data coordinates are inches and every column is as
wide as its longest label, so labels cannot overlap whatever the tree.
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from matplotlib import axes as axes_lib
from matplotlib import collections as collections_lib
from matplotlib import lines as lines_lib

from meta_cot.evaluation import canvas
from meta_cot.traces import record

_FONT = 7.0  # points
_CHARACTER = 0.0085 * _FONT  # inches: a monospace character, with some air
_ROW = 0.25  # inches between leaves
_GAP = 0.40  # inches between columns, crossed by the edges
_RADIUS = 0.10  # inches
_MARGIN = 0.25
_HEADER = 0.75  # inches above the tree: title and legend
_LONGEST = 40  # characters of a label

_FADED = '#aaaaaa'


class Layout(NamedTuple):
  """Where everything goes."""

  labels: dict[int, str]  # of the nodes that are drawn, in order of index
  x: dict[int, float]  # inches
  y: dict[int, float]  # inches, from the bottom
  column_end: list[float]  # inches; where the labels of a depth end
  depths: list[int]  # of all nodes
  width: float
  height: float


def search_tree(
    path: canvas.Path, nodes: Sequence[record.Node], title: str = '', *,
    solution: Sequence[int] | None = None, max_nodes: int = 120,
) -> None:
  """Draws the tree of a search.

  Numbers in the nodes are the order of expansion, from 1. The path to the
  solution is thick. Of a tree with more than `max_nodes` nodes the solution
  and the earliest expansions are drawn, and '+k' counts the children left out.

  Args:
    path: image to write; the suffix names the format.
    nodes: `TraceRecord.nodes`; parents come before their children.
    title: above the tree.
    solution: node indices root..goal; None takes the first correct node.
    max_nodes: how many nodes are drawn at most, besides the solution.

  Raises:
    ValueError: no nodes, a parent that does not come before its child, or a
      solution that names no node.
  """
  _check(path, nodes, solution)
  if solution is None:
    goal = next((i for i, node in enumerate(nodes) if node.is_correct), None)
    solution = () if goal is None else _ancestry(nodes, goal)
  layout = layout_of(nodes, _drawn(nodes, solution, max_nodes))
  figure, axes = canvas.new_figure(layout.width, layout.height)
  figure.set_layout_engine('none')
  axes.set_position((0, 0, 1, 1))
  axes.set_xlim(0, layout.width)
  axes.set_ylim(0, layout.height)
  axes.axis('off')
  _draw_edges(axes, nodes, layout, set(solution))
  for i in layout.labels:
    _draw_node(axes, nodes[i], layout, i, i in set(solution))
  _draw_header(axes, nodes, layout, title, bool(solution))
  canvas.save(figure, path)


def _check(path, nodes, solution) -> None:
  if not nodes:
    raise ValueError(f'{path}: nothing to draw; the tree has no nodes.')
  for i, node in enumerate(nodes):
    if not (node.parent == -1 if i == 0 else 0 <= node.parent < i):
      raise ValueError(
          f'{path}: node {i} has parent {node.parent}; must be -1 for node 0 '
          'and an earlier node otherwise.')
  for i in solution or ():
    if not 0 <= i < len(nodes):
      raise ValueError(
          f'{path}: solution names node {i}; the tree has {len(nodes)}.')


def _ancestry(nodes: Sequence[record.Node], i: int) -> tuple[int, ...]:
  """Node indices from the root to node i."""
  path = []
  while i != -1:
    path.append(i)
    i = nodes[i].parent
  return tuple(reversed(path))


def _drawn(nodes, solution, max_nodes: int) -> set[int]:
  """The nodes to draw: closed under parents, early expansions first."""
  def rank(i):
    order = nodes[i].order
    return (i not in solution, order if order >= 0 else math.inf, i)

  kept = {0, *solution}
  for i in sorted(range(len(nodes)), key=rank)[:max_nodes]:
    kept.update(_ancestry(nodes, i))
  return kept


def layout_of(nodes: Sequence[record.Node], drawn: set[int]) -> Layout:
  """Leaves take a row each, parents the middle of their children."""
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
  return Layout(
      labels=labels, x={i: starts[depths[i]] for i in drawn},
      y={i: height - _HEADER - (rows[i] + 0.5) * _ROW for i in drawn},
      column_end=ends, depths=depths, width=max(ends[-1] + _MARGIN, 6.5),
      height=height)


def _label(node: record.Node, num_hidden: int) -> str:
  """The step, the state after it in braces, and children left out."""
  text = node.step
  if node.state and not node.is_terminal and not node.is_correct:
    text = f'{text}  {{{node.state}}}' if text else f'{{{node.state}}}'
  text = ' '.join(text.split('\n'))
  if len(text) > _LONGEST:
    text = f'{text[:_LONGEST - 1]}…'
  return f'{text}  +{num_hidden}' if num_hidden else text


def _draw_edges(axes, nodes, layout: Layout, solution: set[int]) -> None:
  """Square corners, so that no edge crosses a node or a label."""
  plain, thick = [], []
  for i in layout.labels:
    parent = nodes[i].parent
    if parent == -1:
      continue
    text_end = _text_start(layout, parent) + 0.04 + (
        len(layout.labels[parent]) * _CHARACTER)
    y = layout.y[parent]
    turn = layout.column_end[layout.depths[parent]] + 0.4 * _GAP
    line = [(text_end, y), (turn, y), (turn, layout.y[i]),
            (layout.x[i], layout.y[i])]
    (thick if {i, parent} <= solution else plain).append(line)
  axes.add_collection(collections_lib.LineCollection(
      plain, colors=_FADED, linewidths=0.8, zorder=1))
  axes.add_collection(collections_lib.LineCollection(
      thick, colors=canvas.GREEN, linewidths=2.2, zorder=2))


def _text_start(layout: Layout, i: int) -> float:
  return layout.x[i] + _RADIUS + 0.05


def _draw_node(
    axes: axes_lib.Axes, node: record.Node, layout: Layout, i: int,
    is_on_solution: bool) -> None:
  """Marker, order of expansion, and label."""
  x, y = layout.x[i], layout.y[i]
  marker, face, edge, size = _look(node)
  axes.plot(
      [x], [y], marker=marker, markerfacecolor=face, markersize=size,
      markeredgecolor=canvas.GREEN if is_on_solution else edge,
      markeredgewidth=1.8 if is_on_solution else 1.0, zorder=3)
  if node.order >= 0:
    number = str(node.order + 1)
    axes.text(
        x, y, number, ha='center', va='center_baseline',
        fontsize=6.0 if len(number) < 3 else 4.5, zorder=4,
        color='white' if node.is_correct else 'black')
  was_visited = node.order >= 0 or node.is_terminal or is_on_solution
  axes.text(
      _text_start(layout, i), y, layout.labels[i], ha='left',
      va='center_baseline', family='monospace', fontsize=_FONT, zorder=4,
      fontweight='bold' if is_on_solution else 'normal', parse_math=False,
      color='black' if was_visited else canvas.GREY)


def _look(node: record.Node) -> tuple[str, str, str, float]:
  """Marker, face colour, edge colour, size in points."""
  if node.is_correct:
    return 'o', canvas.GREEN, canvas.GREEN, 13
  if node.is_terminal:
    return 'X', canvas.RED, canvas.RED, 7
  if node.order >= 0:
    return 'o', 'white', canvas.BLUE, 13
  return 'o', 'white', _FADED, 6


def _draw_header(
    axes: axes_lib.Axes, nodes, layout: Layout, title: str,
    has_solution: bool) -> None:
  """Title, and a legend of what the tree shows."""
  axes.text(
      _MARGIN, layout.height - 0.14, title, ha='left', va='top', fontsize=10,
      parse_math=False)
  drawn = [nodes[i] for i in layout.labels]
  entries = (
      (('o', 'white', canvas.BLUE, 9), 'expanded (number: when)',
       any(node.order >= 0 for node in drawn)),
      (('o', 'white', _FADED, 6), 'never expanded',
       any(_look(node)[2] == _FADED for node in drawn)),
      (('X', canvas.RED, canvas.RED, 7), 'dead end',
       any(_look(node)[2] == canvas.RED for node in drawn)),
      (('o', canvas.GREEN, canvas.GREEN, 9), 'correct',
       any(node.is_correct for node in drawn)))
  handles = [
      lines_lib.Line2D(
          [], [], linestyle='none', marker=marker, markerfacecolor=face,
          markeredgecolor=edge, markersize=size, label=label)
      for (marker, face, edge, size), label, is_drawn in entries if is_drawn]
  if has_solution:
    handles.append(
        lines_lib.Line2D([], [], color=canvas.GREEN, lw=2.2, label='solution'))
  axes.legend(
      handles=handles, ncols=5, loc='upper left', frameon=False, fontsize=7.5,
      bbox_to_anchor=(_MARGIN - 0.1, layout.height - 0.36),
      bbox_transform=axes.transData, borderpad=0, columnspacing=1.2,
      handletextpad=0.4, handlelength=1.4)
