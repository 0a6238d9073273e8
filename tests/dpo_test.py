# SPDX-License-Identifier: Apache-2.0
"""Step-level DPO: pairs of siblings, their loss and its gradient, a run."""

import dataclasses
import types as types_lib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import countdown
from configs import kinds
from data_pipelines import pairs
from data_pipelines import pipelines
from data_pipelines import store
from meta_cot import types
from meta_cot.model import transformer
from meta_cot.objectives import dpo
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import policy as policy_lib
from meta_cot.training import preferred
from tests import small_arms
from tests import small_labels
from tests import small_rl
from tests import small_training

_BETA = 0.5
# Of a state: 9-3=6 and 9-3=7 are children of the question, and 4*6=24 and
# 4+6=10 of the first of them.
_TARGETS = {'9-3=6': 0.5, '9-3=7': 0.0, '4*6=24': 1.0, '4+6=10': 0.25}


def _record(**targets):
  reader = small_labels.reader()
  merged = reader.merged(small_labels.ANSWERED)
  values = _TARGETS | targets
  return dataclasses.replace(
      merged, arguments=dict(
          base_rate=0.5, tokenizer=reader.tokenizer.fingerprint),
      nodes=tuple(
          dataclasses.replace(n, value=values.get(n.step))
          for n in merged.nodes))


def _pairs(min_gap=0.25, arm='solution_only'):
  config = dataclasses.replace(small_arms.CONFIG.pairs, min_gap=min_gap)
  return pairs.Pairs(
      small_arms.ARMS[arm], config, small_labels.reader().tokenizer,
      small_labels.STYLE)


@pytest.mark.parametrize('min_gap, want', [
    (0.25, {('9-3=6', '9-3=7'), ('4*6=24', '4+6=10')}),
    (0.6, {('4*6=24', '4+6=10')}), (0.9, set())])
def test_siblings_that_differ_enough(min_gap, want):
  record = _record()
  assert {
      (record.nodes[i].step, record.nodes[k].step)
      for i, k in pairs.find(record, min_gap)} == want


def test_a_step_without_a_target_is_in_no_pair():
  record = _record(**{'9-3=7': None})
  assert len(pairs.find(record, 0.25)) == 1


def test_texts_of_a_pair():
  rng, seen, tokenizer = np.random.default_rng(0), {}, _pairs().tokenizer
  for _ in range(40):
    pair = _pairs()(_record(), rng)
    np.testing.assert_allclose(pair['weights'].sum(), 1, rtol=1e-6)
    key = []
    for number in range(2):
      text = pair[pair['is_second'] == number]
      assert text['place'].tolist() == list(range(len(text)))
      np.testing.assert_array_equal(text['tokens'][1:], text['targets'][:-1])
      np.testing.assert_allclose(text['weights'].sum(), 0.5, rtol=1e-6)
      show = lambda ids: tokenizer.decode(ids.tolist(), show_control=True)
      is_step = text['weights'] > 0
      key.append((
          show(text['tokens'][:1]) + show(text['targets'][~is_step]),
          show(text['targets'][is_step])))
    seen[tuple(key)] = seen.get(tuple(key), 0) + 1
  question = '4,9,3>24:'
  assert set(seen) == {
      ((question, 'S9-3=6,'), (question, 'S9-3=7,')),
      ((question + 'S9-3=6,', '4*6=24<eos>'),
       (question + 'S9-3=6,', '4+6=10<eos>'))}
  assert min(seen.values()) > 10  # each as likely


def test_records_without_targets_are_one_line():
  with pytest.raises(config_lib.UserError, match='has no targets') as error:
    _pairs()(small_labels.ANSWERED, np.random.default_rng(0))
  assert '\n' not in str(error.value)


def _batch(length=96):
  """Rows of several pairs, as training packs them."""
  config = dataclasses.replace(
      small_arms.CONFIG, sequence_length=length, packing_bins=2)
  made = next(pipelines.train_batches(
      [_record()] * 8, _pairs(), config, seed=0, batch_size=2, num_hosts=1,
      host_index=0))
  return types.Batch(**made)


def test_packed_texts_do_not_see_one_another():
  batch = _batch()
  assert batch.segment_ids.max() >= 4 and batch.segment_ids.max() % 2 == 0
  for row in range(2):
    for segment in range(1, batch.segment_ids[row].max() + 1):
      mine = batch.segment_ids[row] == segment
      positions = batch.positions[row][mine]
      assert positions.tolist() == list(range(len(positions)))
      np.testing.assert_allclose(batch.loss_mask[row][mine].sum(), 0.5, 1e-5)
  np.testing.assert_allclose(
      batch.loss_mask.sum(), sum(x.max() // 2 for x in batch.segment_ids), 1e-5)


def _by_loops(log_probs, reference, batch):
  """Loss, gradient by log-probs and preferred pairs, in NumPy."""
  loss, right, gradient = 0.0, 0, np.zeros(log_probs.shape)
  for row in range(len(log_probs)):
    for pair in range(1, batch.segment_ids[row].max() // 2 + 1):
      ratios, masks = [], []
      for segment in (2 * pair - 1, 2 * pair):
        masks.append((batch.segment_ids[row] == segment) & (
            batch.loss_mask[row] > 0))
        ratios.append(float((log_probs - reference)[row][masks[-1]].sum()))
      margin = _BETA * (ratios[0] - ratios[1])
      loss += np.log1p(np.exp(-margin))
      right += margin > 0
      slope = -_BETA / (1 + np.exp(margin))
      gradient[row][masks[0]] += slope
      gradient[row][masks[1]] -= slope
  return loss, gradient, right


def test_the_loss_and_its_gradient_against_loops():
  batch, noise = _batch(), np.random.default_rng(1)
  log_probs, reference = noise.normal(
      size=(2, *batch.tokens.shape)).astype(np.float32)

  def loss(log_probs):
    sums = dpo.pair_sums(log_probs, reference, batch, beta=_BETA)
    return sums.loss, sums

  gradient, sums = jax.grad(loss, has_aux=True)(jnp.asarray(log_probs))
  want, slopes, right = _by_loops(
      log_probs.astype(np.float64), reference.astype(np.float64), batch)
  np.testing.assert_allclose(sums.loss, want, rtol=1e-5)
  np.testing.assert_allclose(gradient, slopes, atol=1e-6)
  np.testing.assert_allclose(sums.correct, right, rtol=1e-5)
  np.testing.assert_allclose(sums.weight, batch.weight, rtol=1e-5)


def _expected(theta, reference, worth):
  """Loss over all pairs of steps of one state, each as often as it is seen.

  Steps are the entries of a table; i is preferred to k with the probability
  sigmoid(worth i - worth k) (Bradley and Terry), and all pairs are compared.
  """
  number = len(worth)
  better, worse = np.array([
      (i, k) for i in range(number) for k in range(number) if i != k]).T
  often = 1 / (1 + np.exp(worth[worse] - worth[better]))
  batch = types_lib.SimpleNamespace(
      tokens=np.zeros((len(better), 2), int),
      segment_ids=np.tile([1, 2], (len(better), 1)),
      loss_mask=np.repeat(often[:, None] / 2, 2, axis=1))
  of = lambda table: jnp.stack([
      jax.nn.log_softmax(table)[better], jax.nn.log_softmax(table)[worse]], 1)
  return dpo.pair_sums(of(theta), of(reference), batch, beta=_BETA).loss


def test_the_gradient_of_a_table_against_enumeration():
  noise = np.random.default_rng(0)
  theta, reference, worth = noise.normal(size=(3, 4))
  got = jax.grad(_expected)(
      jnp.asarray(theta, jnp.float32), jnp.asarray(reference, jnp.float32),
      worth)
  softmax = np.exp(theta) / np.exp(theta).sum()
  want = np.zeros(4)
  for i in range(4):
    for k in range(4):
      if i != k:
        often = 1 / (1 + np.exp(worth[k] - worth[i]))
        margin = _BETA * (theta[i] - reference[i] - theta[k] + reference[k])
        slope = -_BETA * often / (1 + np.exp(margin))
        want += slope * (
            (np.eye(4)[i] - softmax) - (np.eye(4)[k] - softmax))
  assert np.abs(want).max() > 0.1
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_best_policy_is_the_reference_times_the_exponential_of_worth():
  noise = np.random.default_rng(0)
  reference, worth = noise.normal(size=(2, 4)).astype(np.float32)
  gradient = jax.grad(_expected)
  best = gradient(jnp.asarray(reference + worth / _BETA), reference, worth)
  start = gradient(jnp.asarray(reference), reference, worth)
  assert np.abs(best).max() < 1e-5 < 0.1 < np.abs(start).max()


def _experiment(**changes):
  """Pairs of a teacher's searches: what is better the task itself knows."""
  config = countdown.get_config('tiny')
  config.stages = (
      'problems', 'traces', 'tokenizer', 'sft', 'labels', 'preferred')
  config.model.update(small_training.MODEL)
  config.task.update(dict(max_number=6, max_target=20))
  train = dict(
      arms=('solution_only',), num_tokens=3_000, batch_size=8,
      log_every_steps=1, num_eval_batches=1, save_every_steps=4)
  config.sft.update(train)
  config.sft.data.sequence_length = 96
  config.labels = kinds.label(records='traces', source='oracle')
  config.preferred = kinds.train(
      objective='dpo', records='labels', start='sft/solution_only',
      **train | dict(num_tokens=8_000))
  config.preferred.data.sequence_length = 96
  config.preferred.optimizer.warmup_steps = 0
  config.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


@pytest.mark.parametrize('num_chunks', [
    pytest.param(1, marks=pytest.mark.slow), 4])
def test_log_probs_of_a_model(num_chunks):
  """In pieces or not; and each text is scored as if it were alone."""
  model, batch = _experiment().shared.model, _batch(48)
  params = small_rl.parameters(model)
  sums = jax.jit(
      lambda params, reference: preferred.loss(
          model, params, batch, num_chunks=num_chunks, reference=reference,
          beta=_BETA))
  same = sums(params, params)
  np.testing.assert_allclose(
      same.loss / same.weight, np.log(2), rtol=1e-5)
  other = jax.tree.map(lambda x: 1.2 * x, params)
  found = np.zeros((2, *batch.tokens.shape), np.float32)
  for number, some in enumerate((other, params)):
    for row in range(2):
      for segment in range(1, batch.segment_ids[row].max() + 1):
        mine = batch.segment_ids[row] == segment
        logits = transformer.forward(
            model, some, jnp.asarray(batch.tokens[row][mine][None])).logits[0]
        found[number][row][mine] = np.asarray(jax.nn.log_softmax(logits))[
            np.arange(mine.sum()), batch.targets[row][mine]]
  np.testing.assert_allclose(
      sums(other, params).loss, _by_loops(*found, batch)[0], rtol=1e-4)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  return small_training.run_stages(
      _experiment(), tmp_path_factory.mktemp('dpo') / 'w')


def _values(context, name):
  return jax.tree.leaves(jax.device_get(
      context.policy(name).params(context.mesh)))


def test_it_learns_from_the_task_what_leads_on(finished):
  folder = finished.workdir / 'preferred' / 'solution_only'
  rows = metrics_lib.read(folder / 'metrics.jsonl')
  # Before the first update the policy is its reference.
  np.testing.assert_allclose(rows[0]['loss'], np.log(2), rtol=1e-4)
  assert rows[0]['accuracy'] == 0 and rows[-1]['accuracy'] > 0.6
  assert rows[-1]['loss'] < rows[0]['loss'] - 0.01
  assert rows[-1]['eval_loss'] < np.log(2)
  there, start = (
      policy_lib.read(x) for x in (
          folder, finished.workdir / 'sft' / 'solution_only'))
  assert there.about['objective'] == 'dpo'
  assert there.about['longest'] == start.about['longest']
  assert any(
      (a != b).any() for a, b in zip(*(
          _values(finished, name) for name in (
              'preferred/solution_only', 'sft/solution_only')), strict=True))


def test_its_pairs_are_of_the_records(finished):
  source = store.read(finished.folder('labels'), 'train')
  found = [pairs.find(source[i], 0.25) for i in range(len(source))]
  assert sum(map(bool, found)) > 5


def test_an_adapter_is_preferred_to_what_it_is_on(finished):
  """The reference is the start, not the base without its head."""
  experiment = _experiment(**{
      'preferred.optimizer.trained.part': 'lora', 'preferred.num_tokens': 1500})
  context = small_training.run_stages(
      experiment, finished.workdir, 'preferred')
  rows = metrics_lib.read(
      context.workdir / 'preferred' / 'solution_only' / 'metrics.jsonl')
  np.testing.assert_allclose(rows[0]['loss'], np.log(2), rtol=1e-4)
  assert rows[-1]['loss'] != rows[0]['loss']


def test_what_is_compiled_has_the_reference():
  experiment = _experiment()
  context = small_training.context_of(experiment)
  programs = experiment_lib.programs(experiment, context.mesh)
  for name in ('train_step', 'eval_loss'):
    program = programs[f'preferred/{name}']()
    first, batch, rest = program.arguments
    assert rest['base'] == {} and batch.value_targets is None
    params = first.params if name == 'train_step' else first
    assert jax.tree.map(lambda x: x.shape, rest['reference']) == (
        jax.tree.map(lambda x: x.shape, params))
    program.lower()


@pytest.mark.parametrize('changes, words', [
    ({'preferred.start': None}, "config.preferred.objective: got 'dpo' with "
     'start None'),
    ({'preferred.optimizer.trained.part': 'value_head'},
     "config.preferred.objective: got 'dpo' with start 'sft/solution_only' and "
     "optimizer.trained.part 'value_head'"),
    ({'preferred.arms': ('traces',)}, "config.preferred.arms: got 'traces'"),
    ({'preferred.data.pairs.beta': 0.0}, 'data.pairs.beta: got 0.0'),
    ({'preferred.data.pairs.min_gap': 0.0}, 'data.pairs.min_gap: got 0.0')])
def test_wrong_settings_are_one_line(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words) as error:
    _experiment(**changes)
  assert '\n' not in str(error.value)
