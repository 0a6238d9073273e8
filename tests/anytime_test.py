# SPDX-License-Identifier: Apache-2.0
"""Success within t tokens and regret, against plain loops."""

import dataclasses
import types

from etils import epath
import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot.evaluation import anytime
from meta_cot.evaluation import report_anytime
from meta_cot.evaluation import runs
from meta_cot.solvers import base

_B, _G, _E = 3, 4, 3


def _outcomes(seed, num_episodes=_E) -> base.Outcomes:
  rng = np.random.default_rng(seed)
  shape = _B, _G, num_episodes
  taken = np.arange(num_episodes) < rng.integers(
      1, num_episodes + 1, shape[:2])[..., None]
  finished = (rng.uniform(size=shape) < 0.7) & taken
  flat = lambda x: x.reshape(_B, -1)
  return base.Outcomes(
      is_correct=flat((rng.uniform(size=shape) < 0.5) & finished),
      is_finished=flat(finished),
      num_tokens=flat(rng.integers(1, 6, shape) * taken * 1.0),
      answers=flat(np.full(shape, None, object)), num_episodes=num_episodes,
      details=dict(searched=flat(np.where(
          finished, rng.integers(0, 4, shape).astype(object), None))))


@hypothesis.given(st.integers(0, 10_000))
def test_the_newest_finished_answer_counts(seed):
  outcomes = _outcomes(seed)
  tokens = list(range(1, 20))
  grid = outcomes.by_episode
  want = np.zeros((_B, len(tokens)))
  for b, i in np.ndindex(want.shape):
    for g in range(_G):
      spent, is_right = 0, False
      for e in range(_E):
        spent += grid(outcomes.num_tokens)[b, g, e]
        if spent <= tokens[i] and grid(outcomes.is_finished)[b, g, e]:
          is_right = grid(outcomes.is_correct)[b, g, e]
      want[b, i] += is_right / _G
  np.testing.assert_allclose(anytime.within(outcomes, tokens), want)


def test_regret_is_the_area_above_the_curve():
  success = np.array([0.0, 0.25, 0.25, 1.0])
  np.testing.assert_allclose(
      anytime.regret(success, 1.0), [1, 1.75, 2.5, 2.5])


def _summary(grid=(2, 4, 15)):
  one = {0: _outcomes(0, 1), 1: _outcomes(1, 1)}
  runs = {
      ('sft', 'samples', 'test'): {0: _outcomes(2, 1)},
      ('rl', 'samples', 'test'): one,
      ('rl', 'revisions', 'test'): {0: _outcomes(3)},
      ('rl', 'beam', 'test'): {0: _outcomes(4, 1)},
      ('rl', 'greedy', 'validation'): {0: _outcomes(5, 1)}}
  return one, runs, anytime.summarise(types.MappingProxyType(runs), grid, 'sft')


def test_entries():
  one, asked, (start, mine, alone) = _summary()
  assert [e['solver'] for e in (start, mine, alone)] == [
      'samples', 'samples', 'revisions']
  assert mine['seeds'] == [0, 1] and alone['policy'] == 'rl'
  for i, t in enumerate((2, 4, 15)):
    rates = [anytime.within(o, [t]).mean() for o in one.values()]
    theirs = anytime.within(asked['sft', 'samples', 'test'][0], [t]).mean()
    point = mine['points'][i]
    assert point['t'] == t
    assert point['within']['by_seed'] == pytest.approx(rates)
    assert point['minus_start']['success'] == pytest.approx(
        np.mean(rates) - theirs)
    assert start['points'][i]['minus_start'] is None
    assert alone['points'][i]['minus_start'] is None  # was not asked so
    curve = [np.mean([anytime.within(o, [s]).mean() for o in one.values()])
             for s in range(1, t + 1)]
    assert point['regret'] == pytest.approx(sum(mine['best'] - np.array(curve)))
    by_seed = [sum(mine['best'] - anytime.within(o, [s]).mean()
                   for s in range(1, t + 1)) for o in one.values()]
    assert point['regret_ci95'] == pytest.approx(runs.interval(by_seed))
    assert alone['points'][i]['regret_ci95'] is None
  assert mine['best'] == start['best'] == max(
      e['points'][-1]['within']['success'] for e in (start, mine))
  right = np.concatenate([
      o.details['searched'][o.is_correct] for o in one.values()])
  assert mine['to_answer'] == pytest.approx(right.astype(float).mean())
  assert mine['tokens'] == pytest.approx(
      np.mean([o.num_tokens.mean() for o in one.values()]))
  without = dataclasses.replace(one[0], details={})
  (entry,) = anytime.summarise(
      {('rl', 'greedy', 'test'): {0: without}}, (4,), None)
  assert entry['to_answer'] is None


def test_the_report_has_them(tmp_path):
  text = report_anytime.write(epath.Path(tmp_path), _summary()[2])
  header = next(x for x in text.splitlines() if x.startswith('| policy'))
  assert header.endswith('| within 2 % | within 4 % | within 15 % | regret |')
  assert text.count('| rl | samples | test |') == 2  # and minus the start
  of_seeds = next(x for x in text.splitlines() if '| rl | samples' in x)
  assert of_seeds.count('[') == 3 + 1  # rates, and the regret
  for name in ('within.png', 'regret.png'):
    assert f']({name})' in text
    assert (tmp_path / name).stat().st_size > 1000
  assert _summary(())[2] == []
  assert report_anytime.write(epath.Path(tmp_path), []) == ''
