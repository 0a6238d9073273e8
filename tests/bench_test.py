# SPDX-License-Identifier: Apache-2.0
"""Rows of procedures: each computed once, whole or not there."""

import collections
import dataclasses
import json
import re

from etils import epath
import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np
import pytest

from configs import models
from meta_cot import evaluation
from meta_cot import tasks
from meta_cot.evaluation import bench
from meta_cot.evaluation import report
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import summary as summary_lib
from meta_cot.model import config as model_config
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import choosing
from meta_cot.solvers import table
from meta_cot.tasks import countdown
from tests import small_run

PROBLEMS = [countdown.make_problem([a, 7], a + 7) for a in range(1, 10)]
MODEL = config_lib.parse(model_config.ModelConfig, models.get('tiny'))


@dataclasses.dataclass(frozen=True)
class Settings:
  """Of a solver that is not ours."""

  num_samples: int


class Guess:
  """Adds or multiplies the numbers, whatever the policy is."""

  def __init__(self, settings, task, mesh):
    del mesh
    self._settings, self._task = settings, task
    self.asked = []  # places of problems

  def __call__(self, policy, problems, rng, *, first=0):
    self.asked += range(first, first + len(problems))
    answers = base.objects([
        [self._guess(p, jax.random.fold_in(rng, first + b), n)
         for n in range(self._settings.num_samples)]
        for b, p in enumerate(problems)])
    is_correct = np.array([
        [self._task.verify(p, answer).is_correct for answer in mine]
        for p, mine in zip(problems, answers)])
    return base.Outcomes(
        is_correct=is_correct, is_finished=np.ones_like(is_correct),
        num_tokens=np.full(is_correct.shape, 5.0), answers=answers,
        values=is_correct + 0.5, details=dict(length=base.objects(
            [[len(answer) for answer in mine] for mine in answers])))

  def _guess(self, problem, rng, n):
    a, b = problem.data['numbers']
    is_sum = bool(jax.random.bernoulli(jax.random.fold_in(rng, n)))
    return f'{a}+{b}={a + b}' if is_sum else f'{a}*{b}={a * b}'


def _made(number=2) -> bench.Procedure:
  """As `bench.make` makes one: a new solver is one line of the table."""
  solvers = {**table.SOLVERS, 'guess': Guess}
  settings = Settings(number)
  return bench.Procedure(
      settings, solvers['guess'](settings, tasks.make('countdown'), None))


def _policy(label='a', params=1.0, **more):
  return base.Policy(label, MODEL, {'w': np.float32(params)}, None, 'compact',
                     **more)


def _run(directory, made, problems=PROBLEMS, policy=None, seed=0, **more):
  return bench.run(
      [policy or _policy()], {'samples': made}, {'test': problems},
      epath.Path(directory), rng=jax.random.key(seed), **more)


def _bare(rows):
  return [{k: v for k, v in row.items() if k != 'seconds'} for row in rows]


FIELDS = (
    'version', 'policy', 'seed', 'step', 'trained_tokens', 'solver', 'split',
    'problem', 'place', 'attempt', 'episode', 'is_correct', 'is_finished',
    'num_tokens', 'answer', 'value', 'seconds', 'occupancy', 'cost', 'details')


def test_rows_have_the_schema_and_read_back(tmp_path):
  rows = _run(tmp_path, _made())
  assert len(rows) == 18
  for row in rows:
    assert tuple(row) == FIELDS
    assert row['version'] == rows_lib.VERSION
    problem = PROBLEMS[row['place']]
    assert row['problem'] == problem.id
    assert row['is_correct'] == tasks.make('countdown').verify(
        problem, row['answer']).is_correct
    assert row['value'] == row['is_correct'] + 0.5
    assert row['details'] == {'length': len(row['answer'])}
  outcomes = rows_lib.outcomes(rows)
  assert outcomes.is_correct.shape == (9, 2)
  assert outcomes.is_correct.reshape(-1).tolist() == [
      row['is_correct'] for row in rows]
  assert outcomes.mean_tokens == 5.0
  assert {row['is_correct'] for row in rows} == {True, False}


def test_what_is_there_is_not_computed_again(tmp_path):
  made = _made()
  few = _run(tmp_path / 'a', made, PROBLEMS[:4], piece_size=3)
  assert made.solver.asked == [0, 1, 2, 3]
  assert _run(tmp_path / 'a', made, PROBLEMS[:4]) == few
  assert made.solver.asked == [0, 1, 2, 3]
  more = _run(tmp_path / 'a', made)
  assert made.solver.asked == list(range(9))
  twice = _run(tmp_path / 'a', made, num_rounds=2)
  assert made.solver.asked == [*range(9), *range(9)]
  # As if asked for at once, and in other pieces.
  whole = _run(tmp_path / 'b', _made(), num_rounds=2, piece_size=2)
  assert _bare(twice) == _bare(whole)
  assert _bare(more) == _bare(r for r in twice if r['attempt'] < 2)
  assert {row['attempt'] for row in twice} == {0, 1, 2, 3}
  # Fewer problems are a part.
  assert _run(tmp_path / 'a', made, PROBLEMS[:4]) == [
      r for r in twice if r['place'] < 4]


def test_a_killed_run_leaves_whole_pieces(tmp_path, monkeypatch):
  class Killed(BaseException):
    """As a signal that nothing handles."""

  made, write = _made(), rows_lib.write

  def write_some(path, rows):
    if path.name.startswith('0000004'):
      path.with_name('x.tmp').write_text('{"half of a')
      raise Killed
    write(path, rows)

  monkeypatch.setattr(rows_lib, 'write', write_some)
  with pytest.raises(Killed):
    _run(tmp_path / 'a', made, piece_size=2)
  monkeypatch.setattr(rows_lib, 'write', write)
  made.solver.asked.clear()
  rows = _run(tmp_path / 'a', made, piece_size=2)
  assert made.solver.asked == [4, 5, 6, 7, 8]
  assert _bare(rows) == _bare(_run(tmp_path / 'b', _made()))


@pytest.mark.parametrize('change', [
    dict(made=_made(3)), dict(seed=1), dict(policy=_policy(params=2.0))])
def test_rows_made_otherwise_are_made_anew(tmp_path, change):
  made = change.get('made', _made())
  _run(tmp_path, _made())
  made.solver.asked.clear()
  rows = _run(tmp_path, **(dict(made=made) | change))
  assert made.solver.asked == list(range(9))
  assert _bare(rows) == _bare(
      _run(tmp_path / 'alone', **(dict(made=made) | change)))


def test_a_kill_while_old_rows_are_removed_leaves_none_as_new(
    tmp_path, monkeypatch):
  class Killed(BaseException):
    """As a signal that nothing handles."""

  def kill(path, value):
    raise Killed

  _run(tmp_path, _made())
  monkeypatch.setattr(bench.files, 'write_json', kill)
  with pytest.raises(Killed):
    _run(tmp_path, _made(), seed=1)
  monkeypatch.undo()
  made = _made()
  _run(tmp_path, made, seed=1)
  assert made.solver.asked == list(range(9))


def test_other_steps_and_seeds_of_a_policy_have_rows_of_their_own(tmp_path):
  made = _made()
  _run(tmp_path, made)
  for more in (dict(step=5), dict(seed=1), dict(label='b')):
    made.solver.asked.clear()
    _run(tmp_path, made, policy=_policy(**more))
    assert len(made.solver.asked) == 9
  made.solver.asked.clear()
  _run(tmp_path, made)
  assert not made.solver.asked


def test_rows_of_another_version_are_refused(tmp_path):
  _run(tmp_path, _made())
  path = next(tmp_path.rglob('*.jsonl'))
  row = json.loads(path.read_text().splitlines()[0])
  path.write_text(json.dumps(row | {'version': 0}) + '\n')
  with pytest.raises(ValueError, match='version is 0, this one reads 2'):
    rows_lib.read(epath.Path(path.parent))
  for damaged, words in (
      ('{}\n', "1: not a row (has no 'version')"),
      (json.dumps(row)[:-1], '1: not a row (not valid JSON'),
      (json.dumps(row | {'place': 'x'}), "'place' must be int, is str"),
      ('null\n', 'must be an object, is NoneType')):
    path.write_text(damaged)
    with pytest.raises(config_lib.UserError, match=re.escape(words)) as error:
      rows_lib.read(epath.Path(path.parent))
    assert str(path) in str(error.value) and '\n' not in str(error.value)


_ATTEMPTS = st.lists(
    st.lists(st.tuples(st.sampled_from('xyz_'), st.integers(1, 3)),
             min_size=6, max_size=6), min_size=1, max_size=3)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(_ATTEMPTS, st.integers(1, 6))
def test_choosers_are_the_choice_written_out(attempts, k):
  answers = base.objects(
      [[None if a == '_' else a for a, _ in mine] for mine in attempts])
  is_correct = answers == 'x'
  outcomes = base.Outcomes(
      is_correct=is_correct, is_finished=np.ones_like(is_correct),
      num_tokens=np.ones(is_correct.shape), answers=answers,
      values=np.array([[float(v) for _, v in mine] for mine in attempts]))

  def of_group(group):
    """What every chooser takes of attempts (answer, value)."""
    votes, sums = collections.Counter(), collections.Counter()
    for a, v in group:
      votes[a] += a != '_'
      sums[a] += v * (a != '_')
    best = max((v for a, v in group if a != '_'), default=0)
    return dict(
        first=group[0][0], majority=max(votes, key=votes.get),
        weighted=max(sums, key=sums.get),
        value=next((a for a, v in group if a != '_' and v == best), '_'))

  for b, mine in enumerate(attempts):
    groups = [mine[i:i + k] for i in range(0, 6 - k + 1, k)]
    taken = list(map(of_group, groups))
    for name in ('first', 'majority', 'weighted', 'value'):
      wanted = np.mean([t[name] == 'x' for t in taken])
      assert choosing.CHOOSERS[name](outcomes, k)[b] == wanted, name
    assert choosing.oracle(outcomes, k)[b] == evaluation.pass_at_k(
        num_samples=6, num_correct=int(is_correct[b].sum()), k=k)


def test_attempts_without_values_have_fewer_choosers():
  ones = np.ones((2, 3), bool)
  outcomes = base.Outcomes(
      ones, ones, ones * 4.0, base.objects([['x'] * 3] * 2))
  assert choosing.names(outcomes) == ('first', 'oracle', 'majority')
  with pytest.raises(ValueError, match='the attempts have no values'):
    choosing.value(outcomes, 1)
  with pytest.raises(ValueError, match='k=4 must be at least 1 and at most 3'):
    choosing.majority(outcomes, 4)


def test_summary_and_report_are_made_of_rows_alone(tmp_path):
  rows = []
  for label, number in (('a', 1), ('b', 4)):
    name = 'greedy' if label == 'a' else 'samples'
    for step in (3, 6):
      rows += bench.run(
          [_policy(label, step=step, trained_tokens=10.0 * step)],
          {name: _made(number)}, {'test': PROBLEMS[:step]},
          epath.Path(tmp_path), rng=jax.random.key(step))
  summary = summary_lib.of_rows(rows, reference=('a', 'greedy'))
  assert json.loads(json.dumps(summary)) == summary
  greedy = small_run.find(summary['success'], policy='a')
  right = [
      r['is_correct'] for r in rows if r['policy'] == 'a' and r['step'] > 3]
  assert greedy['num_problems'] == 6 and greedy['minus'] is None
  assert greedy['success'] == sum(right) / 6
  assert greedy['ci95'] == list(evaluation.wilson(sum(right), 6))
  assert [p['n'] for p in summary['samples']] == [1, 2, 4]
  (equal,) = summary['equal_tokens']
  assert equal['beside'] == ['a', 'greedy'] and equal['n'] == 1
  # Three problems are those of both steps.
  assert [(p['step'], p['tokens']) for p in summary['curve']] == [
      (3, 30.0), (6, 60.0)]
  assert summary['curve'][1]['success'] == pytest.approx(sum(right[:3]) / 3)
  report.write(epath.Path(tmp_path / 'r'), 'Title', summary)
  text = (tmp_path / 'r' / 'report.md').read_text()
  for words in ('# Title', '| a | greedy | test | 6 |', '## At equal tokens',
                '(learning_curve.png)', '(success_against_tokens.png)',
                '(../run.html)'):
    assert words in text
  assert '## Training' not in text and '## Episode' not in text
  assert json.loads((tmp_path / 'r' / 'summary.json').read_text())[
      'curve'] == summary['curve']


def test_a_report_begins_with_the_reference_beside_the_others(tmp_path):
  rows = []
  for i, label in enumerate('abc'):
    rows += bench.run(
        [_policy(label)], {'greedy': _made(1)},
        {'first': PROBLEMS, 'second': PROBLEMS[:4],
         'validation': PROBLEMS[:2]}, epath.Path(tmp_path),
        rng=jax.random.key(i))
  summary = summary_lib.of_rows(rows, reference=('b', 'greedy'))
  report.write(epath.Path(tmp_path / 'r'), 'Title', summary)
  text = (tmp_path / 'r' / 'report.md').read_text()
  headline, _, _ = text.partition('\n## ')
  solved = lambda label, split: 100 * np.mean([
      r['is_correct'] for r in rows
      if (r['policy'], r['split']) == (label, split)])
  assert len({solved(label, 'first') for label in 'abc'}) > 1
  assert f'`b`, greedy, solves {solved("b", "first"):.1f} [' in headline
  assert ']% of 9 problems of first, ' in headline
  assert ']% of 4 problems of second. Beside it:' in headline
  assert 'validation' not in headline
  for other in 'ac':
    for split in ('first', 'second'):
      rate = solved(other, split)
      assert f'- `{other}` {rate:.1f} [' in headline
      gap = solved('b', split) - rate
      assert f']% of {split}: a difference of {gap:+.1f} [' in headline
  alone = summary_lib.of_rows([r for r in rows if r['policy'] == 'b'],
                              reference=('b', 'greedy'))
  report.write(epath.Path(tmp_path / 's'), 'Title', alone)
  assert 'Beside it' not in (tmp_path / 's' / 'report.md').read_text()
