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
from meta_cot.evaluation import report
from meta_cot.solvers import base
from meta_cot.solvers import choosing


def _run(is_correct, tokens=10, is_finished=True):
  """Trajectories of episodes, [B, G, E]."""
  is_correct = np.array(is_correct, bool)
  num_problems, _, num_episodes = is_correct.shape
  rows = lambda x, dtype: np.broadcast_to(
      np.array(x, dtype), is_correct.shape).reshape(num_problems, -1)
  return base.Outcomes(
      is_correct=rows(is_correct, bool), num_tokens=rows(tokens, float),
      is_finished=rows(is_finished, bool), answers=rows(None, object),
      num_episodes=num_episodes)


def _samples(answers, right=()):
  answers = np.array(answers, object)
  return base.Outcomes(
      is_correct=np.isin(answers, right), num_tokens=np.full(
          answers.shape, 10.0), is_finished=np.ones(answers.shape, bool),
      answers=answers)


def _one(*runs, samples=None):
  """The summary of one policy with seeds 0, 1, ..."""
  return episodes.summarise(
      {'a': dict(enumerate(runs))}, samples or SAMPLES, 'sft')['policies']['a']


# Two problems, two trajectories of each, three episodes.
CORRECT = [[[1, 0, 1], [0, 0, 1]], [[0, 1, 0], [0, 0, 0]]]
SAMPLES = _samples(
    [['7', '8', '8', '7'], ['1', '2', '3', None]], right=['7'])


def test_rates_tokens_and_intervals_of_one_run():
  summary = _one(_run(CORRECT, [10, 12, 8]))
  rows = summary['episodes']
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
  assert summary['minus_start'] is None
  assert json.loads(json.dumps(summary)) == summary


def test_intervals_cluster_by_problem_not_by_trajectory():
  values = np.zeros((8, 1, 1), bool)
  values[:4] = True
  samples = _samples([[None]] * 8)
  once = _one(_run(values), samples=samples)
  often = _one(_run(np.repeat(values, 50, axis=1)), samples=samples)
  rate = lambda s: s['episodes'][0]['this']
  assert rate(once)['ci95'] == rate(often)['ci95'] == pytest.approx(
      [1/2 - 1.96 * (2/7)**0.5 / 8**0.5, 1/2 + 1.96 * (2/7)**0.5 / 8**0.5])


def test_seeds_have_an_interval_of_their_own():
  shares = (2, 4, 6)  # of ten problems
  runs = [_run([[[i < n]] for i in range(10)]) for n in shares]
  rate = _one(*runs, samples=_samples([[None]] * 10))['episodes'][0]['this']
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
  start = {s: _run([[[0, s]], [[1, 0]]]) for s in (0, 1)}
  mine = {s: _run([[[0, s]], [[0, 1]]]) for s in (0, 1)}
  gap_of = lambda runs, of='erl2': episodes.summarise(
      dict(sft=start) | {of: runs}, SAMPLES, 'sft')['policies'][of][
          'minus_start']
  gap = gap_of(mine)
  # By seed: the first problem never differs, the second one always.
  assert gap['by_seed'] == [1/2, 1/2]
  assert gap['seeds_ci95'] == [1/2, 1/2]
  half = 1.96 * (1/2)**0.5 / 2**0.5
  assert gap['ci95'] == pytest.approx([1/2 - half, 1.0])
  # Seeds that the start has not: its mean takes their place.
  gap = gap_of({s + 5: run for s, run in mine.items()})
  assert gap['by_seed'] == [1/4, 3/4]
  gap = gap_of({0: _run([[[0]], [[0]]])})
  assert gap['success'] == 0.0 and gap['ci95'] == [0.0, 0.0]
  assert gap_of(start, of='sft') is None


def test_missing_episodes_count_as_failed_and_not_as_unfinished():
  first, second = _one(_run(
      [[[True, False]] * 2] * 2, [[[5, 0], [5, 3]]] * 2,
      [[[True, False], [False, True]]] * 2))['episodes']
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
  equal = _one(_run([[[1]], [[0]]], tokens))['episodes'][0]['equal_tokens']
  assert equal['n'] == n
  assert equal['tokens'] == 10 * n
  assert equal['oracle']['success'] == pytest.approx(best)
  assert equal['majority']['success'] == pytest.approx(majority)


def test_the_curve_of_samples():
  values = episodes.summarise(
      dict(a={0: _run(CORRECT)}), SAMPLES, 'sft')['samples']
  assert (values['num_samples'], values['mean_tokens']) == (4, 10.0)
  assert [p['n'] for p in values['curve']] == [1, 2, 4]
  assert [p['oracle']['success'] for p in values['curve']] == pytest.approx(
      [1/4, 5/12, 1/2])
  assert [p['majority']['success'] for p in values['curve']] == [1/4, 1/4, 1/2]


@hypothesis.settings(max_examples=20)
@hypothesis.given(st.lists(st.integers(-1, 2), min_size=4, max_size=4),
                  st.integers(1, 4))
def test_majority_is_the_vote_written_out(answers, k):
  outcomes = _samples([[None if a < 0 else str(a) for a in answers]], ['1'])
  groups = [answers[i:i + k] for i in range(0, 4 - k + 1, k)]
  votes = [
      collections.Counter(a for a in group if a >= 0).most_common(1)
      for group in groups]
  wanted = np.mean([bool(vote) and vote[0][0] == 1 for vote in votes])
  assert choosing.majority(outcomes, k).tolist() == [wanted]


def test_any_of_first_never_falls_and_covers_every_episode():
  rng = np.random.default_rng(0)
  is_correct = rng.random((5, 3, 6)) < 0.3
  rows = _one(_run(is_correct), samples=_samples([[None]] * 5))['episodes']
  anyhow = [r['any']['success'] for r in rows]
  assert all(a <= b for a, b in itertools.pairwise(anyhow))
  assert all(r['this']['success'] <= r['any']['success'] for r in rows)
  assert anyhow[-1] == is_correct.any(axis=-1).mean()


def _graded(run, *difficulty):
  """A run that knows how difficult its problems are."""
  number = run.is_correct.shape[1]
  return dataclasses.replace(run, details=dict(
      difficulty=np.repeat(np.array(difficulty, object)[:, None], number, 1)))


def test_problems_are_split_by_difficulty(tmp_path):
  samples = _samples([[None]] * 3)
  runs = [
      _graded(_run([[[0, first]], [[0, 1]], [[1, 0]]]), 1, 0, 1)
      for first in (0, 1)]
  summary = episodes.summarise(dict(a=dict(enumerate(runs))), samples, 'sft')
  easy, hard = summary['policies']['a']['by_difficulty']
  assert [(p['difficulty'], p['num_problems']) for p in (easy, hard)] == [
      (0, 1), (1, 2)]
  rates = lambda part: [rate['by_seed'] for rate in part['episodes']]
  assert rates(easy) == [[0, 0], [1, 1]]
  assert rates(hard) == [[1/2, 1/2], [0, 1/2]]
  text = report.episodes(tmp_path / 'a', json.loads(json.dumps(summary)))
  assert '| a | 0 | 1 | 100.0 [100.0, 100.0] | [100.0, 100.0] |\n' in text
  assert '| a | 1 | 2 | 25.0 [' in text


@pytest.mark.parametrize('difficulty', [(2, 2), (2, None), (None, None)])
def test_problems_that_are_alike_are_not_split(difficulty, tmp_path):
  summary = episodes.summarise(
      {'sft': {0: _graded(_run(CORRECT), *difficulty)}}, SAMPLES, 'sft')
  assert summary['policies']['sft']['by_difficulty'] == []
  assert 'difficulty' not in report.episodes(tmp_path / 'a', summary)


def _summary():
  run = _run(CORRECT)
  return episodes.summarise(
      dict(sft={0: run, 1: run}, erl2={0: run},
           single={0: _run([[[1]], [[0]]])}), SAMPLES, 'sft')


def test_report_has_every_policy_and_both_rivals(tmp_path):
  summary = json.loads(json.dumps(_summary()))
  text = report.episodes(tmp_path / 'a', summary)
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
  this, anyhow = (report.episode_curves(summary, k) for k in ('this', 'any'))
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
    (lambda: dataclasses.replace(SAMPLES, answers=np.zeros((2, 3))),
     'outcomes: shapes .* of 2 axes'),
    (lambda: _run([[[1, 1]]], [4, 0]), 'attempt of 0 tokens'),
    (lambda: _run([[[0, 0]]], [0, 4]), 'first episode is less than 1'),
    (lambda: dataclasses.replace(SAMPLES, num_episodes=3),
     'must divide the 4')])
def test_refusals(make, words):
  with pytest.raises(ValueError, match=words):
    make()
