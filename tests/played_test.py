# SPDX-License-Identifier: Apache-2.0
"""Figures of episodes and of what no strategy solves: points by hand."""

import itertools

import numpy as np
import pytest

from meta_cot.evaluation import figures
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation.figures import base
from meta_cot.runtime import files
from meta_cot.stages import figure as stage

_B, _G, _E = 5, 3, 2


def _row(
    place, solver, is_correct, tokens, *, policy='p', attempt=0, episode=1):
  return dict(
      version=rows_lib.VERSION, policy=policy, seed=0, step=1,
      trained_tokens=None, solver=solver, split='test', problem=f'p{place}',
      place=place, attempt=attempt, episode=episode, is_correct=is_correct,
      is_finished=True, num_tokens=tokens, answer='a', value=None, seconds=0.1,
      occupancy=1.0, cost=None, details={})


def _played(rng):
  is_right = rng.random((_B, _G, _E)) < 0.4
  return is_right, [
      _row(b, 'revisions', bool(is_right[b, g, e]), 6.0, attempt=g,
           episode=e + 1) for b, g, e in np.ndindex(is_right.shape)]


def test_turns_count_all_attempts_and_judge_the_last():
  is_right, rows = _played(np.random.default_rng(0))
  figure = figures.FIGURES['turns']([
      base.Group('answered', base.runs_of(rows, {}))])
  line = figure.lines['answered: p']
  assert [p.x for p in line] == [2, 4, 6]
  for n, point in enumerate(line, 1):
    assert point.y == pytest.approx(np.mean([
        is_right[:, list(some), -1].any(axis=1)
        for some in itertools.combinations(range(_G), n)]))


def test_episodes_are_read_of_what_a_stage_left(tmp_path):
  is_right, rows = _played(np.random.default_rng(1))
  rows_lib.write(tmp_path / 'rows' / f'0-{_B}.jsonl', rows)
  taught = [_row(0, name, True, 3.0, policy='symbolic') for name in 'ab']
  rows_lib.write(tmp_path / 'rows' / 'symbolic' / 'all.jsonl', taught)
  files.write_json(tmp_path / 'summary.json', dict(
      success=[dict(policy='symbolic', solver=name, split='test',
                    num_problems=1) for name in 'ab'],
      episodes=dict(num_problems=_B - 1)))
  run, teacher = stage._runs(tmp_path)
  assert {key.solver for key in teacher.outcomes} == {'a', 'b'}
  assert run.tested('revisions').is_correct.tolist() == (
      is_right[:-1].reshape(_B - 1, -1).tolist())


def test_unsolved_are_those_of_no_strategy_with_as_many_tokens():
  # Tokens of the policy's texts and of two strategies; None: wrong.
  tokens = ((8, None, None), (8, 20, 9), (20, 9, None), (None, 30, 30),
            (8, float('nan'), None))
  rows = []
  for place, (mine, *theirs) in enumerate(tokens):
    rows.append(_row(place, 'samples', mine is not None, float(mine or 20)))
    for name, number in zip(('astar', 'beam', 'teacher'), (*theirs, 8)):
      rows.append(_row(
          place, name, number is not None, None if number is None
          or np.isnan(number) else float(number), policy='symbolic'))
  group = base.Group('x', base.runs_of(rows, {}))
  line = figures.FIGURES['unsolved']([group]).lines['p']
  found = {p.x: p.y for p in line}
  # The first two are solved with 8 tokens, when strategies have none of them;
  # the third is solved by one that had 9. Teachers do not count.
  assert found[8.0] == pytest.approx(2 / 5)
  assert found[9.0] == pytest.approx(1 / 5)
  assert found[20.0] == pytest.approx(1 / 5)
  # A third text of another policy solves the first problem with 10 tokens.
  many = [
      _row(place, 'samples', place == 0 and attempt == 2, 10.0, policy='q',
           attempt=attempt)
      for place in range(len(tokens)) for attempt in range(3)]
  lines = figures.FIGURES['unsolved'](
      [group, base.Group('many', base.runs_of(many, {}))]).lines
  assert set(lines) == {'p'}
  found = {p.x: p.y for p in lines['p']}
  assert found[9.0] == pytest.approx(1 / 5)
  assert found[20.0] == 0
