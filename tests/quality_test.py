# SPDX-License-Identifier: Apache-2.0
"""Measures of values against sums written out."""

import itertools
import json
import math

from etils import epath
import numpy as np
import pytest

from meta_cot.evaluation import bootstrap
from meta_cot.evaluation import quality
from meta_cot.evaluation import report_quality

NUM, NUM_PROBLEMS = 60, 7


def _states(seed=0, **changes):
  rng = np.random.default_rng(seed)
  is_end = rng.random(NUM) < 0.3
  targets = np.where(
      is_end, rng.integers(0, 2, NUM), rng.integers(0, 5, NUM) / 4)
  return quality.States(**dict(
      problems=rng.integers(0, NUM_PROBLEMS, NUM) + 10,
      depths=rng.integers(0, 3, NUM), targets=targets, is_end=is_end,
      visits=rng.integers(1, 4, NUM),
      reachable=(targets > 0).astype(float)) | changes)


def _values(seed=1):
  """With ties."""
  return np.random.default_rng(seed).integers(0, 8, NUM) / 8


def _auc(values, positive, negative):
  """Over all pairs."""
  total = won = 0.0
  for (v, p, _), (w, _, n) in itertools.product(
      list(zip(values, positive, negative)), repeat=2):
    total += p * n
    won += p * n * (1.0 if v > w else 0.5 if v == w else 0.0)
  return won / total


@pytest.mark.parametrize('seed', range(3))
def test_auc_is_the_share_of_pairs(seed):
  rng = np.random.default_rng(seed)
  positive, negative = rng.random((2, NUM))
  assert quality.auc(_values(), positive, negative) == pytest.approx(
      _auc(_values(), positive, negative))
  ones = np.ones(NUM)
  assert quality.auc(ones, positive, negative) == pytest.approx(0.5)
  assert quality.auc(positive, positive > 0.5, positive <= 0.5) == 1.0
  assert math.isnan(quality.auc(positive, ones, 0 * ones))


def test_every_number_of_a_summary():
  states, values = _states(), _values()
  summary = quality.summarise(states, dict(mine=values))
  assert json.loads(json.dumps(summary)) == summary
  y, mine = states.targets, summary['sources']['mine']
  constant = sum(y) / NUM
  mae = sum(abs(v - t) for v, t in zip(values, y)) / NUM
  assert mine['mae']['estimate'] == pytest.approx(mae)
  assert mine['minus_constant']['mae']['estimate'] == pytest.approx(
      mae - sum(abs(constant - t) for t in y) / NUM)
  # To single outcomes, right with the probability of the target.
  assert mine['brier']['estimate'] == pytest.approx(sum(
      t * (v - 1)**2 + (1 - t) * v**2 for v, t in zip(values, y)) / NUM)
  for name, positive in (('target', y), ('reachable', states.reachable)):
    for depth in range(3):
      rows = [i for i in range(NUM)
              if states.depths[i] == depth and not states.is_end[i]]
      assert mine['auc'][name][str(depth)]['estimate'] == pytest.approx(_auc(
          values[rows], positive[rows], 1 - positive[rows])), (name, depth)
  ends, weights = states.is_end, states.visits[states.is_end]
  assert mine['auc']['verdict']['estimate'] == pytest.approx(_auc(
      values[ends], weights * y[ends], weights * (1 - y[ends])))
  nothing = summary['sources']['constant']
  assert nothing['auc']['verdict']['estimate'] == pytest.approx(0.5)
  assert nothing['minus_constant']['brier']['estimate'] == 0.0
  assert summary['num_problems'] == NUM_PROBLEMS
  assert sum(d['num_states'] for d in summary['by_depth']) == NUM


def test_intervals_draw_problems_anew():
  states, values = _states(), _values()
  found = quality.summarise(states, dict(mine=values))['sources']['mine']
  of = {b: np.abs(values - states.targets)[states.problems == b]
        for b in np.unique(states.problems)}
  means = []
  for counts in bootstrap.counts(NUM_PROBLEMS):
    drawn = [x for times, each in zip(counts, of.values())
             for x in list(each) * int(times)]
    means.append(sum(drawn) / len(drawn))
  assert [found['mae']['low'], found['mae']['high']] == pytest.approx(
      np.quantile(means, [0.025, 0.975]))
  assert bootstrap.counts(5).sum(axis=1).tolist() == (
      [5] * bootstrap.NUM_RESAMPLES)
  gap = bootstrap.difference(np.array([1., 0, 1]), np.array([0., 0, 1]))
  assert gap['estimate'] == pytest.approx(1 / 3)
  assert gap['low'] == 0.0 and gap['high'] == 1.0
  with pytest.raises(ValueError, match='3 and 2 problems'):
    bootstrap.difference(np.ones(3), np.ones(2))


def test_bins_of_calibration_have_equal_counts():
  values, targets = _values(), _states().targets
  bins = quality.calibration(values, targets)
  assert [b['num_states'] for b in bins] == [6] * 10
  ordered = sorted(range(NUM), key=lambda i: values[i])
  for b, start in zip(bins, range(0, NUM, 6)):
    rows = ordered[start:start + 6]
    assert b['value'] == pytest.approx(sum(values[i] for i in rows) / 6)
    assert b['target'] == pytest.approx(sum(targets[i] for i in rows) / 6)


def test_what_cannot_be_said_is_none(tmp_path):
  ones = np.ones(NUM)
  states = _states(
      reachable=None, is_end=np.zeros(NUM, bool), targets=ones)
  summary = quality.summarise(states, dict(mine=_values()))
  auc = summary['sources']['mine']['auc']
  assert auc['reachable'] is None and auc['verdict'] is None
  assert set(auc['target'].values()) == {None}
  report_quality.write(epath.Path(tmp_path), 'Values: q', summary)
  text = (tmp_path / 'report.md').read_text()
  assert '## Reachability' not in text and '| mine | 0.' in text


def test_the_report_has_every_source_and_plot(tmp_path):
  summary = quality.summarise(
      _states(), dict(likelihood=_values(2), head=_values()))
  report_quality.write(epath.Path(tmp_path), 'Values: q', summary)
  text = (tmp_path / 'report.md').read_text()
  for words in ('# Values: q', '| likelihood | ', '| head | ', '| constant | ',
                '## Reachability', '## Targets', '(calibration.png)',
                '(auc_target.png)', '| source | 0 | 1 | 2 |'):
    assert words in text, words
  auc = summary['sources']['head']['auc']['target']['1']
  assert f'{auc["estimate"]:.3f} [{auc["low"]:.3f}, {auc["high"]:.3f}]' in text
  for name in ('calibration', 'auc_reachable', 'auc_target'):
    png = (tmp_path / f'{name}.png').read_bytes()
    assert png.startswith(b'\x89PNG')
    assert '<svg' in (tmp_path / f'{name}.svg').read_text()
  svg = (tmp_path / 'calibration.svg').read_bytes()
  report_quality.write(epath.Path(tmp_path), 'Values: q', summary)
  assert svg == (tmp_path / 'calibration.svg').read_bytes()
