# SPDX-License-Identifier: Apache-2.0
"""Best of N by judges: choosers, discounts, costs, rivals; without a model."""

import collections
import dataclasses
import itertools
import math

from etils import epath
import numpy as np
import pytest

from configs import models
from meta_cot import traces
from meta_cot.evaluation import bootstrap
from meta_cot.evaluation import budgets
from meta_cot.evaluation import choices
from meta_cot.evaluation import costs as costs_lib
from meta_cot.evaluation import report
from meta_cot.evaluation import rivals
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import summary as summary_lib
from meta_cot.model import config as model_config
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.solvers import choosing
from meta_cot.solvers import costs
from meta_cot.tasks import countdown
from meta_cot.training import flops

JUDGE = 'value/x'
MODEL = config_lib.parse(model_config.ModelConfig, models.get('tiny'))
SMALL = dataclasses.replace(MODEL, num_layers=1)


def _samples(num_problems=6, num=6, seed=0, judge=JUDGE):
  """Answers x (right), y, or none; the judge likes right ones."""
  rng = np.random.default_rng(seed)
  answers = rng.choice(np.array(['x', 'y', None], object), (num_problems, num))
  is_correct = answers == 'x'
  tokens = rng.integers(2, 9, answers.shape).astype(float)
  log_probs = -rng.random(answers.shape) * tokens
  likelihoods = np.exp(log_probs / tokens)
  said = np.round(rng.random(answers.shape) * 0.6 + 0.4 * is_correct, 2)
  values = base.objects([
      [dict(likelihood=likelihoods[b, n], **{
          judge: None if answers[b, n] is None else float(said[b, n])})
       for n in range(num)] for b in range(num_problems)])
  cost = lambda length: costs.of_text(MODEL, 10, int(length), {judge: SMALL})
  return base.Outcomes(
      is_correct=is_correct,
      is_finished=np.array([[a is not None for a in row] for row in answers]),
      num_tokens=tokens, answers=answers, values=likelihoods, seconds=36.0,
      details=dict(values=values, log_prob=log_probs.astype(object)),
      costs=base.objects([[cost(t) for t in row] for row in tokens]))


def _chosen(samples, b, group, score):
  """The first of the highest score among attempts with an answer."""
  known = [n for n in group if samples.answers[b, n] is not None]
  return max(known, key=score, default=None)


@pytest.mark.parametrize('k', [1, 2, 3, 6])
def test_choosers_of_a_judge_are_the_choice_written_out(k):
  samples = _samples()
  value = lambda b, n: samples.details['values'][b, n][JUDGE]
  assert choosing.names(samples) == (
      'first', 'oracle', 'majority', 'value', 'weighted',
      f'value by {JUDGE}', f'weighted by {JUDGE}')
  for b in range(6):
    groups = [range(i, i + k) for i in range(0, 6 - k + 1, k)]

    def success(pick, b=b, groups=groups):
      picked = [pick(group) for group in groups]
      return np.mean([p is not None and samples.is_correct[b, p]
                      for p in picked])

    def vote(group, b=b):
      sums = collections.Counter()
      for n in group:
        if samples.answers[b, n] is not None:
          sums[samples.answers[b, n]] += value(b, n)
      return _chosen(samples, b, group, lambda n: sums[samples.answers[b, n]])

    of = lambda name, b=b: choosing.by_name(name)(samples, k)[b]
    assert of(f'weighted by {JUDGE}') == success(vote)
    for power in choices.POWERS:
      wanted = success(lambda group, b=b, power=power: _chosen(
          samples, b, group, lambda n: value(b, n) * math.exp(
              power * samples.details['log_prob'][b, n])))
      assert of(choosing.tempered(JUDGE, power)) == wanted, power


@pytest.mark.parametrize('gamma', [1.0, 0.9])
@pytest.mark.parametrize('k', [1, 2, 5])
def test_discounted_success(gamma, k):
  samples = _samples(seed=3)
  oracle = choosing.discounted('oracle', samples, k, gamma)
  majority = choosing.discounted('majority', samples, k, gamma)
  for b in range(6):
    worth = [
        gamma ** samples.num_tokens[b, list(some)].sum()
        * samples.is_correct[b, list(some)].any()
        for some in itertools.combinations(range(6), k)]
    assert oracle[b] == pytest.approx(np.mean(worth))
    groups = [list(range(i, i + k)) for i in range(0, 6 - k + 1, k)]
    part = lambda group, b=b: dataclasses.replace(
        samples, details={}, costs=None, **{
            name: getattr(samples, name)[b:b + 1, group] for name in (
                'is_correct', 'is_finished', 'num_tokens', 'answers',
                'values')})
    assert majority[b] == pytest.approx(np.mean([
        gamma ** samples.num_tokens[b, group].sum()
        * choosing.majority(part(group), k)[0] for group in groups]))
  if gamma == 1.0:
    np.testing.assert_allclose(oracle, choosing.oracle(samples, k))


def test_choices_are_the_best_of_the_grid():
  samples = _samples(seed=5)
  chosen = choices.of_validation(samples)
  assert list(chosen) == ['likelihood', JUDGE]
  mean = lambda name: np.mean([
      choosing.by_name(name)(samples, k).mean() for k in (2, 4, 6)])
  names = [choosing.tempered(JUDGE, p) for p in choices.POWERS]
  best = max(names, key=mean)
  assert names[choices.POWERS.index(chosen[JUDGE]['power'])] == best
  assert chosen[JUDGE]['best'] == max((best, f'weighted by {JUDGE}'), key=mean)
  for name in names:
    assert chosen[JUDGE]['success'][name] == pytest.approx(mean(name))
  assert chosen['likelihood']['best'] in ('value', 'weighted')
  assert chosen['likelihood']['power'] is None


def test_costs_of_samples_and_their_judge():
  samples = _samples()
  one = costs_lib.of_attempts(samples)
  tokens = samples.num_tokens.mean()
  assert one['tokens'] == tokens and one['seconds'] == 1.0
  assert one['forwarded_tokens'] == pytest.approx(10 + tokens)
  assert one['sequential_tokens'] == pytest.approx(tokens)
  some = costs_lib.of_attempts(samples, 3, JUDGE)
  assert some['forwarded_tokens'] == pytest.approx(2 * (10 + 3 * tokens))
  assert some['sequential_tokens'] == pytest.approx(np.mean([
      row[i:i + 3].max() for row in samples.num_tokens for i in (0, 3)]))
  prefill = lambda model, n: flops.prefill_flops(model, 1, n, num_readouts=0)
  work = prefill(MODEL, 10) + prefill(SMALL, 10)
  for row in samples.num_tokens:
    for t in row:
      work += 3 / 36 * (
          t * MODEL.flops_per_token(10 + t / 2)
          + prefill(SMALL, 10 + t) - prefill(SMALL, 10))
  assert some['flops'] == pytest.approx(work)
  unknown = costs_lib.of_attempts(dataclasses.replace(samples, costs=None), 2)
  assert unknown['flops'] is None and unknown['tokens'] == 2 * tokens


class Characters:
  """One token a character."""

  encode = encode_prompt = staticmethod(list)


@pytest.mark.parametrize('name, chain', [('beam', 4 + 5), ('mcts', 4 + 5 + 2)])
def test_costs_of_searches(name, chain):
  problem = countdown.make_problem([1, 2], 3)
  node = lambda parent, number, **more: traces.Node(
      parent, '', '', tokens=(7,) * number, **more)
  record = traces.TraceRecord(
      problem, name, {}, 0, 'm', (
          node(-1, 0), node(0, 4), node(0, 3), node(1, 5), node(2, 2)), (),
      'expansion')
  policy = base.Policy('a', MODEL, None, Characters(), 'compact')
  prompt = len(traces.prompt(problem, style='compact'))
  ones = np.ones((1, 1), bool)
  outcomes = base.Outcomes(
      ones, ones, ones * 28.0, base.objects([['x']]),
      records=base.objects([[record]]))
  found = costs.of_searches(
      policy, name, ('likelihood', 'head'), [problem], outcomes)[0, 0]
  assert found['sequential_tokens'] == chain
  assert found['forwarded_tokens'] == prompt + 28
  # 14 tokens are in the record, and as many were drawn besides.
  each = lambda start, n: n * MODEL.flops_per_token(prompt + start + n / 2)
  assert found['flops'] - found['prompt_flops'] == pytest.approx(
      2 * (each(0, 4) + each(0, 3) + each(4, 5) + each(3, 2)))
  assert costs.of_searches(
      policy, name, ('head', 'x'), [problem], outcomes) is None
  other = costs.of_searches(
      policy, name, ('model',), [problem], outcomes, judge=MODEL)[0, 0]
  assert other['sequential_tokens'] == chain
  for key in ('forwarded_tokens', 'flops', 'prompt_flops'):
    assert other[key] == pytest.approx(2 * found[key])


def test_rivals_have_equal_tokens_and_are_paired():
  samples, validation = _samples(9, seed=1), _samples(seed=2)
  chosen = choices.of_validation(validation)
  is_correct = np.arange(9)[:, None] % 2 == 0
  other = base.Outcomes(
      is_correct, is_correct | True, np.full((9, 1), 13.0),
      base.objects([['x']] * 9))
  entries = rivals.against(other, samples, chosen)
  assert [e['judge'] for e in entries] == ['likelihood', JUDGE, 'verifier']
  n = 13 / samples.num_tokens.mean()
  hard = np.argsort(1 - samples.is_correct.mean(axis=1), kind='stable')
  for entry in entries:
    name = 'oracle' if entry['judge'] == 'verifier' else (
        chosen[entry['judge']]['best'])
    assert entry['chooser'] == name and entry['n'] == pytest.approx(n)
    assert entry['cost']['tokens'] == pytest.approx(13)
    theirs = budgets.success(samples, entry['n'], name)
    gaps = is_correct[:, 0] - theirs
    assert entry['minus']['estimate'] == pytest.approx(gaps.mean())
    assert [entry['minus'][k] for k in ('low', 'high')] == pytest.approx(
        np.quantile(bootstrap.counts(9) @ gaps / 9, [0.025, 0.975]))
    assert [part['estimate'] for part in entry['by_difficulty']] == (
        pytest.approx([gaps[hard[i:i + 3]].mean() for i in (0, 3, 6)]))
  told = rivals.against(other, samples, chosen, -np.arange(9.0))
  assert told[0]['by_difficulty'][0]['estimate'] == pytest.approx(
      gaps_of(other, samples, told[0])[6:].mean())


def gaps_of(other, samples, entry):
  return other.is_correct[:, 0] - budgets.success(
      samples, entry['n'], entry['chooser'])


def _rows(outcomes, solver, split):
  policy = base.Policy('p', None, None, None, 'compact')
  problems = [
      countdown.make_problem([1, b + 1], b + 2)
      for b in range(len(outcomes.is_correct))]
  return rows_lib.of(policy, solver, split, problems, outcomes)


def test_a_summary_with_judges_and_one_without(tmp_path):
  samples, num = _samples(9, seed=1), 9
  other = base.Outcomes(
      samples.is_correct[:, :1], np.ones((num, 1), bool),
      np.full((num, 1), 13.0), base.objects([['x']] * num))
  rows = _rows(samples, 'samples', 'test') + _rows(other, 'mcts', 'test')
  plain = [
      row | dict(details={}, cost=None) for row in rows]
  write = lambda name, rows, **more: report.write(
      epath.Path(tmp_path / name), 'T', summary_lib.of_rows(rows, **more))
  write('plain', plain)
  text = (tmp_path / 'plain' / 'report.md').read_text()
  assert [line for line in text.splitlines() if line.startswith('#')] == [
      '# T', '## Success and cost', '## Samples', '## At equal tokens',
      '## The run as one page']
  assert ' by ' + JUDGE not in text
  rows += _rows(_samples(seed=2), 'samples', 'validation')
  write('judged', rows, judges=dict(p=JUDGE), discounts=(1.0, 0.99))
  more = (tmp_path / 'judged' / 'report.md').read_text()
  assert [line for line in more.splitlines() if line.startswith('#')] == [
      '# T', '## Success and cost', '## Samples', '### Chosen on validation',
      '## At equal tokens', '### Beside best of N by every judge',
      '### Discounted', '## What it costs', '## The run as one page']
  summary = summary_lib.of_rows(rows, judges=dict(p=JUDGE))
  assert summary['rivals'][0]['judge'] == JUDGE
  assert f'| {JUDGE} (its own) | ' in more
  power = summary['choices']['p'][JUDGE]['power']
  for entry in (*summary['samples'], *summary['equal_tokens']):
    assert choosing.tempered(JUDGE, power) in entry
  known = [e for e in summary['costs'] if e['flops'] is not None]
  assert {(e['judge'], e['n']) for e in known} == {
      (judge, n) for judge in (None, JUDGE) for n in (1, 2, 4, 6)}
