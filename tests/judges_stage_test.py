# SPDX-License-Identifier: Apache-2.0
"""Judges of samples and the stage `quality`, on models of some seconds."""

import functools
import json
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import countdown
from configs import kinds
from data_pipelines import store
from meta_cot import sharding
from meta_cot import traces
from meta_cot.evaluation import rows as rows_lib
from meta_cot.model import transformer
from meta_cot.rollouts import player
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import states as states_lib
from meta_cot.stages import evaluate
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import quality
from tests import small_training

START, JUDGE = 'sft/solution_only', 'value/solution_only'
SPLIT = 'heldout_numbers'
STAGES = ('problems', 'traces', 'tokenizer', 'sft', 'labels', 'value')


def _experiment(**changes):
  """A policy, a value trained on the oracle, its use and its quality."""
  config = countdown.get_config('tiny')
  config.stages = (*STAGES, 'asked', 'table')
  config.model.update(small_training.MODEL)
  config.task.update(dict(max_number=6, max_target=20))
  train = dict(
      arms=('solution_only',), batch_size=8, log_every_steps=100,
      eval_every_steps=100, num_eval_batches=1, save_every_steps=1000)
  config.sft.update(train | dict(num_tokens=60_000))
  config.sft.data.sequence_length = 48
  config.sft.optimizer.learning_rate = 1e-2
  config.labels = kinds.label(
      records='traces', source='oracle', num_train=40, num_validation=12)
  config.value = kinds.train(
      objective='value', records='labels', start=START, num_tokens=3_000,
      **train)
  config.value.data.sequence_length = 48
  config.asked = kinds.evaluate(
      policies=(START,), solvers=('samples', 'beam'), num_problems=9,
      num_curve_problems=0, num_choice_problems=6, splits=(SPLIT,),
      discounts=(1.0, 0.9))
  config.asked.samples.update(dict(
      batch_size=16, num_samples=4, max_new_tokens=20, judges=(JUDGE,)))
  config.asked.search.update(dict(
      branching=2, beam_width=2, step_length=8, num_slots=4))
  config.table = kinds.quality(
      judges=(JUDGE,), policy=START, records='labels', max_tokens=24,
      batch_size=8)
  config.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  return small_training.run_stages(
      _experiment(), tmp_path_factory.mktemp('judges') / 'w', num_devices=2)


def _folder(workdir, solver, split=SPLIT) -> pathlib.Path:
  (folder,) = (pathlib.Path(workdir) / 'asked' / 'rows' / START).glob(
      f'*/{solver}/{split}')
  return folder


def _values(context, texts) -> list[float]:
  """What the judge says at the ends of texts: one plain forward pass."""
  there = context.policy(JUDGE)
  one = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
  tokens, lengths = player.padded(texts, max(map(len, texts)), 0)
  values = jax.jit(functools.partial(transformer.forward, there.model))(
      there.params(one), jnp.array(tokens)).values
  return [float(values[i, n - 1]) for i, n in enumerate(lengths)]


def test_rows_have_what_the_judge_says(ran):
  tokenizer = ran.policy(START).tokenizer()
  problems = store.read(ran.folder('problems'), SPLIT)
  rows = rows_lib.read(files.path(_folder(ran.workdir, 'samples')))
  assert len(rows) == 36
  said_of, texts = [], []
  for row in rows:
    said = row['details']['values']
    assert said['likelihood'] == row['value']
    assert math.exp(
        row['details']['log_prob'] / row['num_tokens']) == row['value']
    assert (said[JUDGE] is None) == (not row['is_finished'])
    if row['answer'] is None:
      continue
    question = traces.prompt(
        problems[row['place']], style='compact_digits')
    text = traces.render((
        traces.Start(problems[row['place']].question),
        traces.Answer(row['answer'])), style='compact_digits')
    assert text.startswith(question)
    tokens = [
        *tokenizer.encode(question), *tokenizer.encode(text[len(question):]),
        tokenizer.eos_id]
    if len(tokens) - len(tokenizer.encode(question)) != row['num_tokens']:
      continue  # said otherwise than the style would
    said_of.append(said[JUDGE])
    texts.append(tokens)
  assert len(texts) > 2
  np.testing.assert_allclose(said_of, _values(ran, texts), atol=1e-5)


def test_costs_are_those_of_the_tokens(ran):
  policy = ran.policy(START)
  tokenizer, model = policy.tokenizer(), policy.model
  problems = store.read(ran.folder('problems'), SPLIT)
  for solver in ('samples', 'beam'):
    for row in rows_lib.read(files.path(_folder(ran.workdir, solver))):
      cost, drawn = row['cost'], row['num_tokens']
      prompt = len(tokenizer.encode(traces.prompt(
          problems[row['place']], style=policy.style)))
      assert cost['prompt_tokens'] == prompt
      assert cost['forwarded_tokens'] == prompt + drawn
      least = drawn * model.flops_per_token(prompt)
      assert least < cost['flops'] - cost['prompt_flops'] < 1.5 * least
      if solver == 'samples':
        assert cost['sequential_tokens'] == drawn
        assert cost['judges'][JUDGE]['flops'] > cost['prompt_flops']
      else:
        assert 0 < cost['sequential_tokens'] <= 3 * 8


def test_summary_and_report_have_every_judge(ran):
  directory = ran.folder('asked')
  summary = files.read_json(directory / 'summary.json')
  chosen = summary['choices'][START]
  assert list(chosen) == ['likelihood', JUDGE]
  assert chosen[JUDGE]['num_problems'] == 6
  (rivals,) = summary['rivals']
  assert rivals['beside'] == [START, 'beam']
  assert rivals['judge'] == 'likelihood'
  assert [r['judge'] for r in rivals['rivals']] == [
      'likelihood', JUDGE, 'verifier']
  assert {p['split'] for p in summary['samples']} == {SPLIT}
  assert {(p['gamma'], p['n']) for p in summary['discounted']} == {
      (gamma, n) for gamma in (1.0, 0.9) for n in (1, 2, 4)}
  text = (directory / 'report.md').read_text()
  for words in (f'value by {JUDGE} %', '### Chosen on validation',
                '### Beside best of N by every judge', 'likelihood (its own)',
                '### Discounted', '## What it costs', 'log prob'):
    assert words in text, words
  assert (directory / 'discounted.png').exists()


def test_rows_depend_on_a_judge_from_anywhere(ran, tmp_path):
  workdir, judge = tmp_path / 'w', tmp_path / 'judge'
  shutil.copytree(ran.workdir, workdir)
  found = []
  for policy in (JUDGE, START):  # the same model and tokenizer
    shutil.copytree(ran.workdir / policy, judge)
    small_training.run_stages(
        _experiment(**{'asked.samples.judges': (str(judge),)}), workdir,
        'asked', num_devices=2)
    folder = _folder(workdir, 'samples')
    identity = json.loads((folder / 'identity.json').read_text())
    rows = rows_lib.read(files.path(folder))
    found.append((
        identity['settings'].pop('judges')[str(judge)]['params'], identity,
        [row['answer'] for row in rows],
        [row['details']['values'][str(judge)] for row in rows]))
    shutil.rmtree(judge)
    (workdir / 'asked' / 'summary.json').unlink()  # it runs again
  (one, identity, answers, values), (other, *same, others) = found
  assert one != other and values != others
  assert [identity, answers] == same


def test_the_table_is_of_the_values_of_all_states(ran):
  directory = ran.folder('table')
  summary = files.read_json(directory / 'summary.json')
  tokenizer = ran.policy(START).tokenizer()
  source = store.read(ran.folder('labels'), 'validation')
  texts, targets = [], []
  for i in range(len(source)):
    question = tokenizer.encode(traces.prompt(
        source[i].problem, style='compact_digits'))
    for node, text in zip(
        source[i].nodes, states_lib.written(source[i]), strict=True):
      if len(text) <= 24:
        texts.append([*question, *text])
        targets.append(node.value)
  errors = np.abs(np.array(targets) - _values(ran, texts))
  assert summary['num_states'] == len(errors) > 20
  mine = summary['sources'][JUDGE]
  assert mine['mae']['estimate'] == pytest.approx(np.mean(errors), abs=1e-5)
  assert set(summary['sources']) == {'likelihood', JUDGE, 'constant'}
  # The targets are the oracle's own here.
  assert mine['auc']['reachable'] == mine['auc']['target']
  for name in ('report.md', 'calibration.png', 'calibration.svg'):
    assert (directory / name).exists()
  assert f'| {JUDGE} | ' in (directory / 'report.md').read_text()


def test_programs_are_those_that_run(ran):
  context = small_training.context_of(_experiment(), num_devices=2)
  with sharding.use_mesh(context.mesh):
    asked = evaluate.STAGE.programs(context, context.groups['asked'].settings)
    judge = asked[f'judge/{JUDGE}']()
    assert judge.arguments[1].shape[0] == 16
    judge.lower()
    table = quality.STAGE.programs(context, context.groups['table'].settings)
    assert list(table) == ['likelihood', f'value/{JUDGE}']
    for build in table.values():
      build().lower()


@pytest.mark.parametrize('changes, words', [
    ({'asked.samples.judges': ('sft/traces',)},
     "config.asked.samples.judges: got 'sft/traces', which stage sft does not"),
    ({'asked.samples.judges': ('labels',)},
     "config.asked.samples.judges: got 'labels'; stage labels leaves no"),
    ({'asked.samples.judges': ('valu',)},
     "config.asked.samples.judges: got 'valu'; 'valu' is no stage"),
    ({'asked.samples.judge_reading': 'x'}, 'judge_reading: got .x'),
    ({'asked.discounts': (0.0,)}, r'config.asked.discounts\[0\]: got 0.0'),
    ({'table.judges': ('traces',)}, "config.table.judges: got 'traces'; stage"),
    ({'table.records': 'traces'},
     "config.table.records: got 'traces'; must be a stage of kind label"),
    ({'table.max_tokens': 200}, 'config.table.max_tokens: got 200; texts of'),
    ({'value.style': 'compact', 'value.start': None},
     "config.asked.samples.judges: got .*; its texts have style 'compact'")])
def test_wrong_settings_are_named(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    _experiment(**changes)
  assert '\n' not in str(error.value)


def test_a_model_without_a_value_cannot_judge():
  with pytest.raises(
      config_lib.ConfigError, match='asked.samples.judges: .* no value head'):
    _experiment(**{
        'model.value_head': 'none', 'asked.samples.judges': (START,),
        'value.objective': 'sft', 'value.records': 'traces',
        'table.judges': (START,)})
