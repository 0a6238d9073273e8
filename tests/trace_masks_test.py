# SPDX-License-Identifier: Apache-2.0
"""Trained parts of traces, and pruned traces."""

import dataclasses
import random

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot import traces
from meta_cot.tasks import countdown
from meta_cot.traces import arithmetic
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import masks
from meta_cot.traces.arithmetic import teacher

STRATEGIES = {
    name: dataclasses.replace(strategy, operands='descending')
    for name, (strategy, _) in teacher.STREAM_OF_SEARCH.items()}

problems = st.builds(
    countdown.make_problem,
    st.lists(st.integers(0, 30), min_size=2, max_size=4), st.integers(2, 60))
any_strategy = st.sampled_from([
    *STRATEGIES.values(),
    dataclasses.replace(teacher.COMPACT, max_value=60)])


def _events(problem, strategy):
  return traces.linearize(teacher.search(problem, strategy, 0))


_TEXT = '20,1,9>28:20+1=21,9;+30-12x9-1=8,20;+28!S9-1=8,20+8=28'


@pytest.mark.parametrize('mask, trained, end', [
    ('procedure_cloning', '20+1=21,9;+30-12x9-1=8,20;+28!S9-1=8,20+8=28', True),
    ('meta_cot', '20+1=21,9;+30-12x9-1=8,20;+28!', False),
    ('solution_path', '9-1=8,20;+28!S9-1=8,20+8=28', True)])
def test_trained_characters(mask, trained, end):
  events = traces.parse(_TEXT, 'compact')
  text, ranges = traces.trained_ranges(events, 'compact', mask)
  assert text == _TEXT
  assert ''.join(text[a:b] for a, b in ranges) == trained
  assert masks.trains_end(events, mask) == end
  assert masks.trains_end(events[:-1], mask)


def test_trained_sentences_of_the_solution_path():
  strategy, _ = teacher.STREAM_OF_SEARCH['dfs_mult']
  events = _events(countdown.make_problem([4, 9, 3], 24), strategy)
  text, ranges = traces.trained_ranges(
      events, 'stream_of_search', 'solution_path')
  assert ''.join(text[a:b] for a, b in ranges) == (
      'Moving to Node #0\nCurrent State: 24:[4, 9, 3], Operations: []\n'
      'Exploring Operation: 9-3=6, Resulting Numbers: [4, 6]\n'
      'Generated Node #0,1: 24:[4, 6] Operation: 9-3=6\n'
      "Moving to Node #0,1\nCurrent State: 24:[4, 6], Operations: ['9-3=6']\n"
      'Exploring Operation: 4*6=24, Resulting Numbers: [24]\n'
      '24,24 equal: Goal Reached\n')
  text, ranges = traces.trained_ranges(events, 'stream_of_search', 'meta_cot')
  assert text[ranges[-1][1]:] == '24,24 equal: Goal Reached\n'


@hypothesis.given(problems, st.sampled_from(sorted(arithmetic.STYLES)),
                  any_strategy)
def test_masks_are_nested(problem, style, strategy):
  events = _events(problem, strategy)
  spans = format_lib.spans(events, style)
  flags = {m: masks.trainable(spans, m) for m in masks.MASKS}
  assert spans[0].kind == 'prompt'
  for i, span in enumerate(spans):
    assert flags['procedure_cloning'][i] == (i > 0)
    assert flags['meta_cot'][i] == (span.kind == 'search')
    assert flags['solution_path'][i] <= flags['procedure_cloning'][i]
  # The path has one step per number joined, solved or not at all.
  steps = [e for e, on in zip(events, events_lib.on_path(events), strict=True)
           if on and isinstance(e, traces.Step)]
  is_solved = isinstance(events[-1], traces.Answer)
  assert len(steps) == is_solved * (len(problem.data['numbers']) - 1)
  assert '\n'.join(s.text for s in steps) == (
      events[-1].text if is_solved else '')


def test_an_unknown_mask_lists_the_choices():
  with pytest.raises(ValueError, match='meta_cot, procedure_cloning, solution'):
    traces.trained_ranges((traces.Start('1,2>3'),), 'compact', 'all')


@hypothesis.given(problems, any_strategy, st.floats(0, 1), st.integers(0, 99))
def test_pruning_cuts_whole_failed_branches(problem, strategy, keep, seed):
  record = teacher.search(problem, strategy, seed)
  pruned = traces.prune(record, keep, random.Random(seed))
  assert traces.prune(record, 1, random.Random(0)) == record
  assert pruned.is_solved == record.is_solved
  if not record.is_solved:
    assert pruned == record
    return
  steps = lambda r: [r.nodes[i].step for i in r.solution]
  assert steps(pruned) == steps(record)
  orders = sorted(n.order for n in pruned.nodes if n.order >= 0)
  assert orders == list(range(len(orders)))
  events = traces.linearize(pruned)
  for style in arithmetic.STYLES:
    assert traces.parse(traces.render(events, style), style) == events
  bare = traces.prune(record, 0, np.random.default_rng(0))
  assert len(bare.nodes) == len(problem.data['numbers'])
  assert bare.solution == tuple(range(len(bare.nodes)))


def test_pruned_branches_are_complete():
  record = teacher.search(
      countdown.make_problem([20, 1, 9, 7], 34), STRATEGIES['dfs_sum'], 0)
  pruned = traces.prune(record, 0.5, random.Random(1))
  assert 4 < len(pruned.nodes) < len(record.nodes)
  below = lambda r: {  # node -> numbers of descendants, by its path of steps
      path: sum(other[:len(path)] == path for other in _paths(r))
      for path in _paths(r)}
  kept, full = below(pruned), below(record)
  on_path = {_paths(pruned)[i] for i in pruned.solution}
  assert all(kept[p] == full[p] for p in kept if p not in on_path)


def _paths(record):
  paths = []
  for node in record.nodes:
    paths.append(
        (*paths[node.parent], node.step) if node.parent >= 0 else ())
  return paths
