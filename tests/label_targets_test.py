# SPDX-License-Identifier: Apache-2.0
"""Targets of states, from records whose attempts are merged."""

import dataclasses

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot import traces
from meta_cot.settings import config as config_lib
from meta_cot.solvers import states
from meta_cot.solvers import targets
from meta_cot.tasks import countdown
from meta_cot.traces.arithmetic import teacher
from tests import small_labels

_OTHER = '4+9=13\n13-3=10'


def _texts(record) -> list[str]:
  return [
      small_labels.reader().tokenizer.decode(tokens, show_control=True)
      for tokens in states.written(record)]


def test_attempts_with_equal_beginnings_are_merged():
  right, wrong = small_labels.RIGHT, small_labels.WRONG
  merged = small_labels.reader().merged(
      small_labels.record(right, wrong, None, _OTHER, right))
  assert _texts(merged) == [
      '', 'S9-3=6,', 'S9-3=6,4*6=24<eos>', 'S9-3=6,4+6=10<eos>', 'S4+9=13,',
      'S4+9=13,13-3=10<eos>']
  assert [n.visits for n in merged.nodes] == [4, 3, 2, 1, 1, 1]
  assert [n.is_correct for n in merged.nodes] == [
      False, False, True, False, False, False]
  assert merged.solution == (0, 1, 2)
  assert merged.nodes[1].state == '4,6' and merged.nodes[2].is_terminal
  again = small_labels.reader().merged(merged)
  assert _texts(again) == _texts(merged)


def test_what_no_attempt_is_left_of_is_the_question():
  merged = small_labels.reader().merged(small_labels.record(None, None))
  assert [n.visits for n in merged.nodes] == [1] and merged.solution == ()


def test_searches_of_the_teacher_are_written_too():
  """Its ends are whole texts, and what it did not try further is none."""
  record = teacher.search(small_labels.PROBLEM, teacher.COMPACT, 0)
  merged = small_labels.reader().merged(record)
  for node, text in zip(merged.nodes[1:], _texts(merged)[1:], strict=True):
    assert text.endswith('<eos>' if node.is_terminal else ',')
  assert sorted(n.step for n in merged.nodes) == sorted(
      n.step for n in record.nodes)
  assert any(n.is_correct for n in merged.nodes)


def _known(record, **changes) -> targets.Known:
  return targets.Known(
      small_labels.TASK, small_labels.reader().merged(record), **changes)


@pytest.mark.parametrize('source, want', [
    ('monte_carlo', [0.25, 0.5, 1, 0, 0, 0]),
    ('math_shepherd', [1, 1, 1, 0, 0, 0]),
    ('progress', [0.5, 0.625, 0.75, 0.25, 0.375, 0.5]),
    ('outcome', [0.5, 2 / 3, 1, 0, 0, 0]),
    ('td', [0.25, 0.5, 1, 0, 0, 0]),
    ('oracle', [1, 1, 1, 0, 0, 0])])
def test_sources(source, want):
  """Right is 24 from 9-3=6; 9-3=7 is false, and nothing follows from it."""
  known = _known(
      small_labels.ANSWERED, num_rollouts=4,
      num_right=[1, 2, None, None, 0, None])
  np.testing.assert_allclose(targets.SOURCES[source](known), want)


def test_a_state_that_was_not_drawn_has_no_target():
  known = _known(
      small_labels.ANSWERED, num_rollouts=4,
      num_right=[1, None, None, None, 0, None])
  assert targets.monte_carlo(known)[1] is None
  assert targets.progress(known)[:4] == [0.5, None, None, None]


def test_the_oracle_knows_what_is_reachable():
  problem = countdown.make_problem([2, 3, 5], 25)  # (2 + 3) * 5
  can = lambda state: small_labels.TASK.oracle(problem, state)
  assert can('2,3,5') and can('5,5') and can('25')
  assert not can('5,6') and not can('S5') and not can('')


@st.composite
def _trees(draw):
  """Nodes with values; leaves may be ends, right or not."""
  parents = [-1] + [
      draw(st.integers(0, i)) for i in range(draw(st.integers(0, 12)))]
  nodes = []
  for i, parent in enumerate(parents):
    is_end = i not in parents and i > 0 and draw(st.booleans())
    nodes.append(traces.Node(
        parent, f's{i}', 'x', is_terminal=is_end,
        is_correct=is_end and draw(st.booleans()),
        value=draw(st.floats(0, 1))))
  return tuple(nodes), draw(st.floats(0, 1))


def _by_episodes(nodes, mixed, i=0, share=1.0) -> float:
  """The mean of lambda-returns over random walks down, sums written out."""
  if nodes[i].is_terminal:
    return share * nodes[i].is_correct
  children = [k for k, n in enumerate(nodes) if n.parent == i]
  if not children:
    return share * nodes[i].value
  total = 0.0
  for k in children:
    worth = nodes[k].is_correct if nodes[k].is_terminal else nodes[k].value
    part = share / len(children)
    total += part * (1 - mixed) * worth
    total += _by_episodes(nodes, mixed, k, part * mixed)
  return total


@settings(max_examples=50, deadline=None)
@given(_trees())
def test_td_is_the_mean_of_lambda_returns(tree):
  nodes, mixed = tree
  record = dataclasses.replace(small_labels.ANSWERED, nodes=nodes, solution=())
  got = targets.td(targets.Known(small_labels.TASK, record, td_lambda=mixed))
  np.testing.assert_allclose(got[0], _by_episodes(nodes, mixed), atol=1e-9)


def test_td_needs_values():
  with pytest.raises(config_lib.UserError, match="source 'td' needs the value"):
    targets.td(_known(small_labels.ANSWERED, td_lambda=0.5))
