# SPDX-License-Identifier: Apache-2.0
"""Episodes beside samples of as many tokens: numbers worked out by hand."""

import collections
import dataclasses
import itertools
import json

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot.evaluation import episodes
from meta_cot.evaluation import episodes_report


def _record(policy, seed, is_correct, tokens=10):
  is_correct = np.array(is_correct, bool)
  return episodes.Record(
      policy=policy, seed=seed, is_correct=is_correct,
      tokens=np.broadcast_to(np.array(tokens), is_correct.shape),
      is_finished=np.ones(is_correct.shape, bool))


# Two problems, two trajectories of each, three episodes.
CORRECT = [[[1, 0, 1], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]]
SAMPLES = episodes.Samples(
    policy='sft',
    is_correct=np.array([[1, 0, 0, 1], [0, 0, 0, 0]], bool),
    tokens=np.full((2, 4), 10),
    answers=np.array([[7, 8, 8, 7], [1, 2, 3, -1]]))


def test_rates_tokens_and_intervals_of_one_run():
  summary = episodes.summarise(
      [_record('erl2', 0, CORRECT, [10, 12, 8])], SAMPLES)
  rows = summary['policies']['erl2']['episodes']
  assert [r['episode'] for r in rows] == [1, 2, 3]
  assert [r['tokens'] for r in rows] == [10, 22, 30]
  assert [r['this']['success'] for r in rows] == [1/4, 1/4, 1/2]
  assert [r['any']['success'] for r in rows] == [1/4, 1/2, 3/4]
  assert [r['taken'] for r in rows] == [r['finished'] for r in rows] == [1] * 3
  # Problems solve 1/2 and 0 in episode 1: deviation sqrt(1/8), over sqrt(2).
  half = 1.96 * (1/8)**0.5 / 2**0.5
  assert rows[0]['this']['ci95'] == pytest.approx([0.0, 1/4 + half])
  # All that is right is in the first problem: 1 and 0, deviation sqrt(1/2).
  assert rows[2]['this']['ci95'] == pytest.approx([0.0, 1.0])
  assert rows[0]['this']['seeds_ci95'] is None
  assert rows[0]['this']['by_seed'] == [1/4]
  assert summary['policies']['erl2']['minus_start'] is None
  assert json.loads(json.dumps(summary)) == summary


def test_intervals_cluster_by_problem_not_by_trajectory():
  values = np.zeros((8, 1, 1), bool)
  values[:4] = True
  once = episodes.summarise([_record('a', 0, values)], _samples(8))
  often = episodes.summarise(
      [_record('a', 0, np.repeat(values, 50, axis=1))], _samples(8))
  rate = lambda s: s['policies']['a']['episodes'][0]['this']
  assert rate(once)['ci95'] == rate(often)['ci95'] == pytest.approx(
      [1/2 - 1.96 * (2/7)**0.5 / 8**0.5, 1/2 + 1.96 * (2/7)**0.5 / 8**0.5])


def _samples(num_problems):
  return episodes.Samples(
      policy='sft', is_correct=np.zeros((num_problems, 2), bool),
      tokens=np.full((num_problems, 2), 10),
      answers=np.full((num_problems, 2), -1))


def test_seeds_have_an_interval_of_their_own():
  shares = (2, 4, 6)  # of ten problems
  runs = [
      _record('a', seed, [[[i < n]] for i in range(10)])
      for seed, n in enumerate(shares)]
  rate = episodes.summarise(runs, _samples(10))[
      'policies']['a']['episodes'][0]['this']
  assert rate['by_seed'] == pytest.approx([0.2, 0.4, 0.6])
  assert rate['success'] == pytest.approx(0.4)
  # Deviation 0.2, over sqrt(3), times t(2) = 4.303: below 0 is cut off.
  assert rate['seeds_ci95'] == pytest.approx(
      [0.0, 0.4 + 4.303 * 0.2 / 3**0.5])
  # Problems 0, 1: always; 2, 3: twice of three; 4, 5: once; the rest never.
  values = np.repeat([1, 2/3, 1/3, 0, 0], 2)
  half = 1.96 * values.std(ddof=1) / 10**0.5
  assert rate['ci95'] == pytest.approx([0.4 - half, 0.4 + half])


def test_differences_from_the_start_are_paired():
  start = [_record('sft', s, [[[0, s]], [[1, 0]]]) for s in (0, 1)]
  mine = [_record('erl2', s, [[[0, s]], [[0, 1]]]) for s in (0, 1)]
  gap = episodes.summarise([*start, *mine], SAMPLES)[
      'policies']['erl2']['minus_start']
  # By seed: the first problem never differs, the second one always.
  assert gap['by_seed'] == [1/2, 1/2]
  assert gap['seeds_ci95'] == [1/2, 1/2]
  half = 1.96 * (1/2)**0.5 / 2**0.5
  assert gap['ci95'] == pytest.approx([1/2 - half, 1.0])
  # Seeds that the start has not: its mean takes their place.
  other = [dataclasses.replace(r, seed=r.seed + 5) for r in mine]
  gap = episodes.summarise([*start, *other], SAMPLES)[
      'policies']['erl2']['minus_start']
  assert gap['by_seed'] == [1/4, 3/4]
  worse = _record('single', 0, [[[0]], [[0]]])
  gap = episodes.summarise([*start, worse], SAMPLES)[
      'policies']['single']['minus_start']
  assert gap['success'] == 0.0 and gap['ci95'] == [0.0, 0.0]
  assert episodes.summarise(start, SAMPLES)[
      'policies']['sft']['minus_start'] is None


def test_missing_episodes_count_as_failed_and_not_as_unfinished():
  record = episodes.Record(
      policy='a', seed=0, is_correct=np.array([[[True, False]] * 2] * 2),
      tokens=np.array([[[5, 0], [5, 3]]] * 2),
      is_finished=np.array([[[True, False], [False, True]]] * 2))
  first, second = episodes.summarise([record], SAMPLES)[
      'policies']['a']['episodes']
  assert (first['taken'], second['taken']) == (1.0, 0.5)
  assert (first['finished'], second['finished']) == (0.5, 1.0)
  assert (first['tokens'], second['tokens']) == (5.0, 6.5)


@pytest.mark.parametrize('tokens, n, best, majority', [
    # Of 4 samples 2 are right in problem 1, none in problem 2.
    (10, 1, 1/4, 1/4),  # any one of them
    (20, 2, (5/6) / 2, 1/4),  # 1 - C(2,2)/C(4,2); groups 7,8 and 8,7
    (15, 1.5, (1/4 + 5/12) / 2, 1/4),
    (30, 3, 1/2, 0.0),  # 7,8,8: wrong
    (35, 3.5, 1/2, 1/4),
    (40, 4, 1/2, 1/2),  # 7,8,8,7: a tie, the first
    (3, 1, 1/4, 1/4), (900, 4, 1/2, 1/2)])
def test_samples_of_as_many_tokens(tokens, n, best, majority):
  record = _record('a', 0, [[[1]], [[0]]], tokens)
  equal = episodes.summarise([record], SAMPLES)[
      'policies']['a']['episodes'][0]['equal_tokens']
  assert equal['n'] == n
  assert equal['tokens'] == 10 * n
  assert equal['best']['success'] == pytest.approx(best)
  assert equal['majority']['success'] == pytest.approx(majority)


def test_the_curve_of_samples():
  values = episodes.summarise([_record('a', 0, CORRECT)], SAMPLES)['best_of_n']
  assert (values['num_samples'], values['mean_tokens']) == (4, 10.0)
  assert [p['k'] for p in values['curve']] == [1, 2, 4]
  assert [p['success'] for p in values['curve']] == pytest.approx(
      [1/4, 5/12, 1/2])
  assert [p['majority']['success'] for p in values['curve']] == [1/4, 1/4, 1/2]


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.integers(-1, 2), min_size=4, max_size=4),
                  st.integers(1, 4))
def test_majority_is_the_vote_written_out(answers, k):
  is_correct = np.array([[a == 1 for a in answers]])
  samples = episodes.Samples(
      policy='sft', is_correct=is_correct, tokens=np.ones((1, 4), int),
      answers=np.array([answers]))
  groups = [answers[i:i + k] for i in range(0, 4 - k + 1, k)]
  votes = [
      collections.Counter(a for a in group if a >= 0).most_common(1)
      for group in groups]
  wanted = np.mean([bool(vote) and vote[0][0] == 1 for vote in votes])
  assert episodes.majority_success(samples, k).tolist() == [wanted]


def test_any_of_first_never_falls_and_covers_every_episode():
  rng = np.random.default_rng(0)
  record = _record('a', 0, rng.random((5, 3, 6)) < 0.3)
  rows = episodes.summarise([record], _samples(5))['policies']['a']['episodes']
  anyhow = [r['any']['success'] for r in rows]
  assert all(a <= b for a, b in itertools.pairwise(anyhow))
  assert all(r['this']['success'] <= r['any']['success'] for r in rows)
  assert anyhow[-1] == record.is_correct.any(axis=-1).mean()


def _summary():
  return episodes.summarise(
      [_record('sft', 0, CORRECT), _record('sft', 1, CORRECT),
       _record('erl2', 0, CORRECT), _record('single', 0, [[[1]], [[0]]])],
      SAMPLES)


def test_report_has_every_policy_and_both_rivals(tmp_path):
  summary = json.loads(json.dumps(_summary()))
  episodes_report.write(tmp_path / 'a', summary)
  text = (tmp_path / 'a' / 'report.md').read_text()
  lines = text.splitlines()
  assert '| single | 0 | 1 | 10.0 | 50.0 [0.0, 100.0] | - ' in text
  assert '| sft | 0, 1 | 3 | 30.0 | 50.0 [0.0, 100.0] | [50.0, 50.0] | - ' in (
      text)
  rows = [line for line in lines if line.startswith('| erl2 | ')]
  assert len(rows) == 4  # the final one, and three episodes
  # Episode 2: 25.0, any so far 50.0; two samples: 41.7 and 25.0.
  assert [cell.split()[0] for cell in rows[2].strip('| ').split(' | ')] == [
      'erl2', '2', '20.0', '25.0', '-', '50.0', '100.0', '2.00', '41.7', '25.0']
  for name in ('episodes.png', 'any_episode.png'):
    assert f'({name})' in text
    assert (tmp_path / 'a' / name).read_bytes().startswith(b'\x89PNG')


def test_every_plot_has_the_rivals():
  summary = _summary()
  this, anyhow = (episodes_report.curves(summary, k) for k in ('this', 'any'))
  for curves in (this, anyhow):
    assert list(curves) == [
        'sft', 'erl2', 'single', 'sft, best of N', 'sft, majority of N']
    assert [p[0] for p in curves['sft, best of N']] == [10, 20, 40]
  assert [p[:2] for p in this['erl2']] == [(10, 1/4), (20, 1/4), (30, 1/2)]
  assert [p[1] for p in anyhow['erl2']] == [1/4, 1/2, 3/4]
  # Bars: over seeds where there are several, else over problems.
  assert this['sft'][2][2:] == (1/2, 1/2)
  assert this['erl2'][2][2:] == (0.0, 1.0)


@pytest.mark.parametrize('make, words', [
    (lambda: _record('a', 3, [[1, 0]]), "'a', seed 3: shapes .* of 3 axes"),
    (lambda: _record('a', 0, [[[1, 1]]], [4, 0]), 'episode of 0 tokens'),
    (lambda: _record('a', 0, [[[0, 0]]], [0, 4]), 'must be at least 1'),
    (lambda: dataclasses.replace(SAMPLES, answers=np.zeros((2, 3))),
     "samples of 'sft': shapes"),
    (lambda: dataclasses.replace(SAMPLES, tokens=np.zeros((2, 4))),
     'tokens has 0.0; must be at least 1'),
    (lambda: episodes.summarise([], SAMPLES), 'records: none'),
    (lambda: episodes.summarise([_record('a', 0, CORRECT)] * 2, SAMPLES),
     r"policy 'a': seeds=\[0, 0\]; must differ"),
    (lambda: episodes.summarise(
        [_record('a', 0, CORRECT), _record('a', 1, [[[1]], [[0]]])], SAMPLES),
     r"policy 'a': is_correct has shapes \[\(2, 1, 1\), \(2, 2, 3\)\]"),
    (lambda: episodes.summarise([_record('a', 0, [[[1]]])], SAMPLES),
     'of the 2 problems')])
def test_refusals(make, words):
  with pytest.raises(ValueError, match=words):
    make()
