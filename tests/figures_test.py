# SPDX-License-Identifier: Apache-2.0
"""Figures of what stages left: points against rows by hand."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from configs import countdown
from configs import kinds
from meta_cot.evaluation import figures
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation.figures import base
from meta_cot.settings import config as config_lib
from meta_cot.stages import base as stages
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import figure as stage

_N, _B = 4, 6
_STUDENT = 4.303  # three runs


def _rows(
    seed, solver, split='test', step=8, number=_N, policy='p', **details):
  """Attempts that are right by a fixed draw of the seed."""
  rng = np.random.default_rng((seed, step, len(solver)))
  for b in range(_B):
    for n in range(number):
      is_correct = bool(rng.random() < 0.5)
      yield dict(
          version=rows_lib.VERSION, policy=policy, seed=seed, step=step,
          trained_tokens=100.0 * step, solver=solver, split=split,
          problem=f'{split}{b}', place=b, attempt=n, episode=1,
          is_correct=is_correct, is_finished=True, num_tokens=10.0 + seed,
          answer='a\nb' if is_correct else 'c\nd', value=0.5, seconds=0.1,
          occupancy=1.0, cost=None, details={
              k: v(rng, is_correct) for k, v in details.items()})


def _judged(rng, is_correct):
  return {'likelihood': 0.5, 'value7/arm': float(rng.random() + is_correct)}


def _samples(seed, **changes):
  return _rows(
      seed, 'samples', values=_judged, log_prob=lambda *_: -3.0, **changes)


def _correct(rows):
  return np.array([r['is_correct'] for r in rows]).reshape(_B, -1)


def _group(label, *rows, summary=None):
  return base.Group(label, [
      run for some in rows for run in base.runs_of(list(some), summary or {})])


def _interval(means):
  half = _STUDENT * np.std(means, ddof=1) / len(means)**0.5
  return np.mean(means), np.mean(means) - half, np.mean(means) + half


def test_seeds_are_stages_that_differ_in_their_last_number():
  groups = base.grouped([
      ('budget0_0', 'a', [1]), ('budget0_1', 'a', [2]), ('budget1_0', 'a', [3]),
      ('other', 'b', [4]), ('other', 'c', [5])])
  # Of the number at the very end only.
  assert [(g.label, g.runs) for g in groups] == [
      ('a', [1, 2]), ('a', [3]), ('b', [4]), ('c', [5])]
  assert base.judge('value12/arm/seed3') == 'value'
  assert base.judge('value_2') == 'value'


def test_verifiers_over_n_with_three_seeds():
  rows = [list(_samples(seed)) for seed in range(3)]
  figure = figures.FIGURES['verifiers']([_group('x', *rows)])
  assert set(figure.lines) == {'exact verifier', 'majority', 'value'}
  for line in figure.lines.values():
    assert [(p.x, p.num_runs) for p in line] == [(1, 3), (2, 3), (4, 3)]
  means = [_correct(r).any(axis=1).mean() for r in rows]
  y, low, high = _interval(means)
  assert figure.lines['exact verifier'][-1][1:4] == pytest.approx(
      (y, max(low, 0), min(high, 1)))
  # A right attempt has the higher value here whenever there is one.
  assert figure.lines['value'][-1].y == pytest.approx(y)


def test_validation_without_values_chooses_nothing():
  """As the samples by which a budget finds its size, which nobody judges."""
  tested = list(_samples(0))
  unjudged = list(_rows(
      0, 'samples', split='validation', log_prob=lambda *_: -3.0))
  make = figures.FIGURES['verifiers']
  alone, beside = (make([_group('x', rows)]) for rows in (
      tested, tested + unjudged))
  assert beside.lines == alone.lines


def test_training_curve_of_greedy_and_samples():
  rows = [
      *(r for step in (4, 8) for r in _rows(
          0, 'greedy', split='validation', step=step, number=1)),
      *(r for step in (4, 8) for r in _samples(
          0, split='validation', step=step))]
  figure = figures.FIGURES['training']([_group('x', rows)])
  assert set(figure.lines) == {'greedy', 'majority of 4', 'pass@1', 'pass@4'}
  assert [p.x for p in figure.lines['greedy']] == [400.0, 800.0]
  last = [r for r in rows if r['step'] == 8 and r['solver'] == 'samples']
  assert figure.lines['pass@1'][1].y == pytest.approx(_correct(last).mean())
  assert figure.lines['pass@4'][1].y == pytest.approx(
      _correct(last).any(axis=1).mean())


def test_training_curves_of_two_policies():
  rows = {p: [row for step in (4, 8) for seed in seeds for row in _rows(
      seed, 'greedy', 'validation', step, 1, p)]
          for p, seeds in (('a', (0, 1)), ('b', (2, 3)))}
  tested = list(_rows(0, 'teacher', number=1, policy='symbolic'))
  figure = figures.FIGURES['training']([
      _group('x', rows['a'] + rows['b'] + tested)])
  assert set(figure.lines) == {'a: greedy', 'b: greedy'}
  for policy, points in figure.lines.items():
    last = [r for r in rows[policy[0]] if r['step'] == 8]
    assert points[1].y == pytest.approx(_correct(last).mean())


def test_nodes_of_searches_and_samples():
  number = lambda rng, is_correct: 5
  groups = [
      _group('x', [*_samples(0), *_rows(0, 'beam', number=1, nodes=number)]),
      _group('y', [*_rows(1, 'beam', number=1, nodes=lambda *_: 9)])]
  figure = figures.FIGURES['nodes'](groups)
  assert [p.x for p in figure.lines['beam']] == [5, 9]
  # Answers have two lines.
  assert [p.x for p in figure.lines['best of N']] == [2, 4, 8]


def test_compute_has_a_line_for_every_label():
  figure = figures.FIGURES['compute']([
      _group('1M', _samples(0)), _group('2M', _samples(1)),
      _group('2M', _samples(2))])
  assert [p.x for p in figure.lines['1M']] == [10, 20, 40]
  assert [p.x for p in figure.lines['2M']] == [11, 22, 44]


def test_discounted_reward_falls_with_the_tokens():
  rows = list(_samples(0))
  figure = figures.FIGURES['discounted']([_group('x', rows)])
  right = _correct(rows).any(axis=1).mean()
  for gamma in (1.0, 0.995, 0.99):
    assert figure.lines[f'gamma {gamma:g}'][-1].y == pytest.approx(
        right * gamma**40)


def test_success_within_tokens_has_a_line_for_every_policy():
  rows = [[*_samples(seed, policy=p)] for p in 'ab' for seed in range(2)]
  figure = figures.FIGURES['within']([_group('x', *rows)])
  assert set(figure.lines) == {'a', 'b'}
  # Texts have 10 tokens, or 11.
  for seeds, line in zip((rows[:2], rows[2:]), figure.lines.values()):
    assert [(p.x, p.num_runs) for p in line] == [(x, 2) for x in range(8, 12)]
    means = [_correct(r).mean() for r in seeds]
    assert [p.y for p in line] == pytest.approx(
        [0, 0, means[0] / 2, sum(means) / 2])
  both = figures.FIGURES['within']([
      _group('x', rows[0]), _group('y', _rows(0, 'greedy', number=1))])
  assert set(both.lines) == {'x: a', 'y: p'}


def test_values_of_different_quality():
  beam = list(_rows(0, 'beam', number=1))
  figure = figures.FIGURES['values']([
      _group('500', [*_samples(0), *beam]), _group('oracle', beam)])
  assert set(figure.lines) == {'beam, 500', 'best of N, 500', 'beam, oracle'}
  assert figure.lines['beam, 500'][0][:2] == (10, _correct(beam).mean())
  assert [p.x for p in figure.lines['best of N, 500']] == [10, 20, 40]


def test_votes_are_labels():
  rows = list(_samples(0))
  figure = figures.FIGURES['votes']([
      _group('1', rows), _group('8', list(_samples(1)))])
  assert [p.x for p in figure.lines['value']] == [1, 8]
  assert figure.lines['value'][0].y == pytest.approx(
      _correct(rows).any(axis=1).mean())


def test_errors_over_questions():
  of = lambda e: dict(sources={'value/a': dict(mae=dict(
      estimate=e, low=e - 1, high=e + 1))})
  made = lambda label, *errors: base.Group(
      label, [base.Run({}, {}, of(e)) for e in errors])
  figure = figures.FIGURES['questions']([
      made('500', 3.0), made('4000', 1.0, 2.0, 1.5)])
  assert figure.lines['value'][0] == (500, 3.0, 2.0, 4.0, 1)
  point = figure.lines['value'][1]
  assert point[:4] == pytest.approx((4000, *_interval([1.0, 2.0, 1.5])))


def test_corrections_are_of_states_behind_one_attempt():
  def made(label, *means):
    behind = [[
        dict(num_steps=n, num_records=9, mean=mean / (n + 1),
             ci95=[mean / 4, mean]) for n in (0, 1, 2)] for mean in means]
    return base.Group(label, [
        base.Run({}, {}, dict(splits=dict(validation=dict(behind=some))))
        for some in behind])

  figure = figures.FIGURES['corrections']([
      made('50 own ones', 0.2, 0.4, 0.6), made('50 given ones', 0.8),
      made('90 own ones', 0.6)])
  assert set(figure.lines) == {'own ones', 'given ones'}
  first, second = figure.lines['own ones']
  assert first[:4] == pytest.approx((50, *_interval([0.1, 0.2, 0.3])))
  assert second == (90, 0.3, 0.15, 0.6, 1)
  assert figure.lines['given ones'] == [(50, 0.4, 0.2, 0.8, 1)]


def _searched(seed, number=2):
  """A search of as many tokens as `number` samples, and its samples."""
  steps = lambda *_: 3
  rows = [dict(r, num_tokens=number * r['num_tokens'])
          for r in _rows(seed, 'beam', number=1, difficulty=steps)]
  for row in rows[:2]:
    row['details'] = dict(difficulty=5)
  return [*_samples(seed), *rows]


def test_guides_beside_samples_of_as_many_tokens():
  groups = [_group('a', _searched(0)), _group('b', _searched(0, number=3))]
  lines = figures.FIGURES['guides'](groups).lines
  assert set(lines) == {
      'beam, a', 'beam, b', 'best of N', 'samples up to a right one'}
  right = _correct([r for r in _searched(0) if r['solver'] == 'samples'])
  assert [p.x for p in lines['best of N']] == [20, 30]
  assert lines['best of N'][0].y == pytest.approx(np.mean([
      np.mean([right[b, list(pair)].any() for pair in itertools.combinations(
          range(_N), 2)]) for b in range(_B)]))
  # One by one: what N at most cost on average, and where they are then.
  cost, solved = [0.0], [0.0]
  for n in range(_N):
    drawn = sum(not right[b, :n].any() for b in range(_B))
    cost.append(cost[-1] + 10 * drawn / _B)
    solved.append(np.mean(right[:, :n + 1].any(axis=1)))
  for point in lines['samples up to a right one']:
    assert point.y == pytest.approx(np.interp(point.x, cost, solved))


def test_differences_by_depth():
  rows = [_searched(seed) for seed in range(3)]
  line = figures.FIGURES['depth']([_group('x', *rows)]).lines['x']
  assert [p.x for p in line] == [3, 5]
  gaps = []
  for mine in rows:
    samples, beam = mine[:_B * _N], mine[_B * _N:]
    best = np.array([  # of both pairs, the one with the higher value
        np.mean([
            max(pair, key=lambda r: r['details']['values']['value7/arm'])[
                'is_correct'] for pair in (some[:2], some[2:])])
        for some in np.array(samples).reshape(_B, _N).tolist()])
    gaps.append(np.array([r['is_correct'] for r in beam]) - best)
  for point, part in zip(line, (slice(2, None), slice(2)), strict=True):
    assert point[1:4] == pytest.approx(
        _interval([g[part].mean() for g in gaps]))


def _of_pairs(some):
  """Success of the first and of the last two, by their values."""
  return np.mean([
      max(pair, key=lambda r: r['value'])['is_correct']
      for pair in (some[:2], some[2:])])


def _any_of_two(some):
  """Whether one of two is right, over all pairs."""
  return np.mean([
      a['is_correct'] or b['is_correct']
      for a, b in itertools.combinations(some, 2)])


@pytest.mark.parametrize('guide, best', [
    ('likelihood', _of_pairs), (None, _any_of_two)])
def test_without_a_judge_the_rival_is_who_guided(guide, best):
  rows = _searched(0)
  for row in rows:
    row['details'] = dict(difficulty=3)
  runs = [dataclasses.replace(run, summary=dict(rivals=[dict(judge=guide)]))
          for run in _group('x', rows).runs]
  (point,) = figures.FIGURES['depth']([base.Group('x', runs)]).lines['x']
  samples = np.array(rows[:_B * _N]).reshape(_B, _N).tolist()
  assert point.y == pytest.approx(
      np.mean([r['is_correct'] for r in rows[_B * _N:]])
      - np.mean([best(some) for some in samples]))


def test_differences_over_those_of_the_model():
  auc = lambda x: dict(estimate=x, low=x, high=x)
  quality = dict(
      by_depth=[dict(reachable=x) for x in (1.0, 0.5, 0.25)], sources=dict(
          likelihood={}, value=dict(auc=dict(
              verdict=auc(0.9), reachable={'0': None, '1': auc(0.9)}))))
  figure = figures.FIGURES['lookahead']([
      _group('x', _searched(0, number=4)),
      base.Group('x', [base.Run({}, {}, quality)]),
      _group('y', _searched(0))])
  (point,) = figure.lines['x']
  (wanted,) = figures.FIGURES['depth']([_group('x', [
      dict(r, details=r['details'] | dict(difficulty=1))
      for r in _searched(0, number=4)])]).lines['x']
  assert point.y == pytest.approx(wanted.y)
  # Four solutions of two steps, half of the steps right: a beam is ahead.
  assert 0.02 < point.x < 0.3
  assert 'y' not in figure.lines


def _experiment(**changes):
  config = countdown.get_config('tiny')
  config.stages = (*config.stages, 'picture')
  config.picture = kinds.figure(**changes)
  return experiment_lib.parse(config)


def _context(experiment, workdir):
  return stages.Context(experiment.shared, experiment.groups, None, workdir)


def test_the_stage_draws_what_a_summary_is_of(tmp_path):
  experiment = _experiment(figure='verifiers', title='T')
  where = tmp_path / 'evaluate' / 'rows' / 'p' / 'seed0-step8' / 'samples'
  where = where / 'test'
  where.mkdir(parents=True)
  rows = list(_samples(0))
  (where / f'0000000-{_B:07d}.0.jsonl').write_text(
      ''.join(json.dumps(r) + '\n' for r in rows))
  (tmp_path / 'evaluate' / 'summary.json').write_text(json.dumps(dict(
      success=[dict(policy='p', solver='samples', split='test',
                    num_problems=_B - 1)])))
  directory = tmp_path / 'picture'
  context = _context(experiment, stages.files.path(tmp_path))
  for _ in range(2):
    stage.STAGE.run(
        context, experiment.groups['picture'].settings,
        stages.files.path(directory))
    made = json.loads((directory / 'figure.json').read_text())
    assert made['title'] == 'T' and made['x'] == 'N'
    # The last problem is not in the summary.
    assert made['lines']['exact verifier'][-1]['y'] == pytest.approx(
        _correct(rows)[:-1].any(axis=1).mean())
    first, *others = [
        (directory / name).read_bytes() for name in (
            'figure.png', 'figure.svg')]
    assert first.startswith(b'\x89PNG') and b'<svg' in others[0]
  assert stage.STAGE.is_whole(context, None, stages.files.path(directory))


def test_a_figure_of_nothing_is_one_line(tmp_path):
  experiment = _experiment(figure='questions')
  (tmp_path / 'evaluate').mkdir()
  (tmp_path / 'evaluate' / 'summary.json').write_text('{"sources": {}}')
  with pytest.raises(config_lib.UserError, match='none of evaluate has what'):
    stage.STAGE.run(
        _context(experiment, stages.files.path(tmp_path)),
        experiment.groups['picture'].settings,
        stages.files.path(tmp_path / 'picture'))


@pytest.mark.parametrize('changes, words', [
    (dict(figure='nothing'), "picture.figure: got 'nothing'; .*verifiers"),
    (dict(stages=()), 'picture.stages: got '),
    (dict(stages=('absent',)), "picture.stages.*got 'absent'"),
    (dict(labels=('a', 'b')), 'picture.labels: got 2 for 1 stages')])
def test_wrong_settings_are_one_line(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words):
    _experiment(**changes)


def test_a_table_has_every_policy_with_every_value():
  greedy, mcts = (
      lambda policy, seed, solver=solver: list(
          _rows(seed, solver, number=1, policy=policy))
      for solver in ('greedy', 'mcts'))
  groups = [
      _group('value 0', mcts('first', 0), greedy('other', 3)),
      _group('value 1', [*mcts('first', 1), *greedy('first', 1)],
             [*greedy('second', 2), *mcts('second', 2)])]
  figure = figures.FIGURES['table'](groups)
  assert tuple(figure.columns.values()) == ('greedy', 'value 0', 'value 1')
  assert {k: [p.x for p in v] for k, v in figure.lines.items()} == {
      'other': [0], 'first': [0, 1, 2], 'second': [0, 2]}
  rate = _correct(list(_rows(1, 'mcts', number=1))).mean()
  assert figure.lines['first'][2].y == pytest.approx(rate)
  header, _, *lines = base.markdown(figure).splitlines()
  assert header == '| policy | greedy | value 0 | value 1 |'
  cells = [line.strip('| ').split(' | ') for line in lines]
  assert cells[1][3].startswith(f'{100 * rate:.1f} [')
  assert cells[0][2] == cells[2][2] == '-'
