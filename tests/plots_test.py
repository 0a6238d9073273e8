# SPDX-License-Identifier: Apache-2.0
"""Figures: what they show, read back from the files, and what they refuse."""

import pathlib
import re

import hypothesis
from hypothesis import strategies as st
from matplotlib import image as image_lib
import numpy as np
import pytest

from meta_cot.evaluation import plots
from meta_cot.evaluation import trees
from meta_cot.traces import record

NODES = (
    record.Node(-1, '', '20,1,9>28', order=0),
    record.Node(0, '9+1=10', '20,10', order=2),
    record.Node(0, '20+9=29', '1,29', order=1),
    record.Node(1, '20-10=10', '10', is_terminal=True),
    record.Node(2, '29-1=28', '28', is_terminal=True, is_correct=True),
    record.Node(0, '20*1=20', '9,20'),
)


def _texts(path: pathlib.Path) -> list[str]:
  """The texts of an svg; matplotlib keeps each as a comment over its paths."""
  return re.findall(r'<!-- (.*?) -->', path.read_text())


def _has_color(path: pathlib.Path, color: str) -> bool:
  pixels_HxWx3 = image_lib.imread(path)[:, :, :3]
  wanted_3 = np.array([int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)])
  return bool((np.abs(pixels_HxWx3 - wanted_3[None, None]).max(-1) < .02).any())


def test_loss_curves_show_every_arm(tmp_path):
  curves = {
      'traces': [(0, 2.0), (1e6, 1.0), (2e6, 0.5)], 'short': [(5, 0.7)]}
  plots.loss_curves(tmp_path / 'loss.svg', curves)
  texts = _texts(tmp_path / 'loss.svg')
  for text in ('traces', 'short', 'training tokens', '1M'):
    assert text in texts
  plots.loss_curves(tmp_path / 'loss.png', curves)
  assert _has_color(tmp_path / 'loss.png', '#0072B2')
  assert _has_color(tmp_path / 'loss.png', '#D55E00')


def test_success_curves_are_percentages(tmp_path):
  points = [(2e5, 0.6, 0.5, 0.7), (1e5, 0.1, 0.0, 0.2)]
  plots.success_curves(tmp_path / 'a.svg', {'traces': points})
  texts = _texts(tmp_path / 'a.svg')
  for text in ('traces', 'problems solved', '60%', '100k'):
    assert text in texts


def test_success_against_tokens_names_reference_and_points(tmp_path):
  points = [(20, 0.3, 0.25, 0.35), (200, 0.6, 0.55, 0.65)]
  plots.success_against_tokens(
      tmp_path / 'a.svg', {'best of N': points},
      reference={'greedy trace': (90, 0.5, 0.45, 0.55)},
      labels={'best of N': ['N=1', 'N=10']}, title='A title')
  texts = _texts(tmp_path / 'a.svg')
  for text in ('best of N', 'greedy trace', 'N=1', 'N=10', 'A title'):
    assert text in texts


def test_same_figures_are_the_same_bytes(tmp_path):
  for name in ('a.png', 'b.png'):
    trees.draw(tmp_path / name, trees.Tree('tree', NODES))
  assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()


def test_bars_end_at_the_rate_whatever_its_last_bits(tmp_path):
  # A mean of equal rates, and their interval summed in another order.
  points = [(2, 0.3, 0.3 + 1e-16, 0.3 + 1e-16)]
  plots.success_against_tokens(tmp_path / 'a.png', {'a': points})
  assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')


def test_unknown_suffixes_list_the_known(tmp_path):
  with pytest.raises(ValueError, match="'xyz' is not supported.*png.*svg"):
    trees.draw(tmp_path / 'a.xyz', trees.Tree('tree', NODES))
  assert not list(tmp_path.iterdir())


def test_tree_shows_steps_states_and_order(tmp_path):
  trees.draw(
      tmp_path / 'a.svg', trees.Tree('dfs on $20,1,9>28$', NODES))
  texts = _texts(tmp_path / 'a.svg')
  for text in (
      'dfs on $20,1,9&gt;28$', '{20,1,9&gt;28}', '20+9=29  {1,29}', '29-1=28',
      '20*1=20  {9,20}', '20-10=10', '1', '2', '3', 'solution', 'dead end'):
    assert text in texts or text.replace('&gt;', '>') in texts, text


def test_unsolved_trees_have_no_solution_in_the_legend(tmp_path):
  trees.draw(tmp_path / 'a.svg', trees.Tree('', NODES[:4]))
  texts = _texts(tmp_path / 'a.svg')
  assert 'dead end' in texts
  assert 'solution' not in texts
  assert 'correct' not in texts


def test_large_trees_keep_the_solution_and_count_the_rest(tmp_path):
  children = tuple(record.Node(0, f's{i}', '', order=i) for i in range(1, 300))
  goal = record.Node(299, 'goal', '', is_terminal=True, is_correct=True)
  nodes = (NODES[0], *children, goal)
  trees.draw(tmp_path / 'a.svg', trees.Tree('', nodes))
  texts = _texts(tmp_path / 'a.svg')
  assert {'s1', 's117', 's299', 'goal'} <= set(texts)
  assert 's120' not in texts
  assert any(text.endswith('+181') for text in texts)


def test_deep_trees_do_not_exhaust_the_stack(tmp_path):
  chain = tuple(record.Node(i - 1, '', '', order=i) for i in range(1500))
  places, _, _ = trees.layout(chain, set(range(1500)))
  assert len({place.y for place in places.values()}) == 1


@hypothesis.given(st.lists(st.integers(0, 10**6), max_size=60))
def test_layout_puts_no_two_things_in_one_place(draws):
  nodes = [NODES[0]] + [
      record.Node(draw % (i + 1), f'step {draw}', '')
      for i, draw in enumerate(draws)]
  places, width, height = trees.layout(nodes, set(range(len(nodes))))
  assert len({(p.x, p.y) for p in places.values()}) == len(nodes)
  for i, node in enumerate(nodes[1:], start=1):
    parent = places[node.parent]
    assert parent.x < parent.column_end < places[i].x
  columns = {}
  for place in places.values():
    assert 0 < place.x < width and 0 < place.y < height
    columns.setdefault(place.x, []).append(place.y)
  for rows in map(sorted, columns.values()):
    assert all(b - a > 0.2 for a, b in zip(rows, rows[1:]))
