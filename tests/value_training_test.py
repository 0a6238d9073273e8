# SPDX-License-Identifier: Apache-2.0
"""A value learns from targets: sequences, weights, loss, what moves."""

import dataclasses

from flax.linen import meta
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import models
from data_pipelines import examples
from data_pipelines import pipelines
from data_pipelines import values
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import value
from meta_cot.settings import config as config_lib
from meta_cot.training import optimizer
from meta_cot.training import part as part_lib
from meta_cot.training import valued
from tests import small_arms
from tests import small_labels

_RATE = 0.3
_TARGETS = (0.25, 0.5, 1.0, 0.0, None, 0.0)
_PLAIN = examples.ValueConfig(weight=2.0, policy_weight=0.5, balance=None)


def _record(**changes):
  reader = small_labels.reader()
  merged = reader.merged(small_labels.ANSWERED)
  return dataclasses.replace(
      merged, arguments=dict(
          base_rate=_RATE, tokenizer=reader.tokenizer.fingerprint) | changes,
      nodes=tuple(
          dataclasses.replace(n, value=v)
          for n, v in zip(merged.nodes, _TARGETS, strict=True)))


def _example(config=_PLAIN, arm='solution_only'):
  return values.Values(
      small_arms.ARMS[arm], config, small_labels.reader().tokenizer,
      small_labels.STYLE)


def _drawn(number, **changes):
  rng = np.random.default_rng(0)
  example = _example(**changes)
  tokenizer = example.tokenizer
  return [
      (tokenizer.decode(x['tokens'].tolist(), show_control=True), x)
      for x in (example(_record(), rng) for _ in range(number))]


def test_targets_stand_at_the_ends_of_steps():
  seen = {}
  for text, x in _drawn(200):
    seen[text] = seen.get(text, 0) + 1
    np.testing.assert_array_equal(x['targets'][:-1], x['tokens'][1:])
    question, _, steps = text.partition('S')
    assert question == '4,9,3>24:'
    first = text.index(',', len(question))
    places = {len(question) - 1: 0.25, first: 0.5, len(x) - 1: 1.0}
    if '9-3=7' in steps:
      places = {len(question) - 1: 0.25, len(x) - 1: 0.0}
    elif '+6' in steps:
      places[len(x) - 1] = 0.0
    want = np.zeros(len(x))
    want[list(places)] = 2
    np.testing.assert_array_equal(x['value_weights'], want)
    assert {i: x['value_targets'][i] for i in places} == places
    is_right = np.zeros(len(x))
    if steps.endswith('4*6=24<eos>') and '9-3=6' in steps:
      is_right[len(question) - 1:-1] = 0.5  # all that it writes, and its end
    np.testing.assert_array_equal(x['weights'], is_right)
  # Of four attempts two are the right one.
  assert len(seen) == 3 and 80 < max(seen.values()) < 120


def test_other_orders_of_the_question():
  questions = {
      text.partition('S')[0] for text, _ in _drawn(
          40, arm='solution_only_permuted')}
  assert len(questions) == 6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(.05, .95))
def test_balance_is_put_right(targets, share):
  """Balanced or not, the best value of all is the mean target."""
  rate = float(np.mean(targets))
  if not 0.02 < rate < 0.98:
    return
  example = _example(dataclasses.replace(_PLAIN, weight=1.0, balance=share))
  rows = np.zeros((len(targets), 1), values.POSITION)
  for row, target in zip(rows, targets, strict=True):
    example._label(row, target, rate)
  weights = rows['value_weights'].astype(np.float64)
  success = weights * rows['value_targets']
  np.testing.assert_allclose(success.sum() / weights.sum(), share, atol=1e-4)
  np.testing.assert_allclose(weights.mean(), 1.0, atol=1e-4)
  best = np.log(rate / (1 - rate))
  gradient = weights * (
      1 / (1 + np.exp(-best - rows['value_offsets'])) - rows['value_targets'])
  np.testing.assert_allclose(gradient.sum(), 0.0, atol=1e-4)


def test_right_attempts_are_seen_as_often_as_the_balance_says():
  """And weigh less for it: sums over many draws are what they were."""
  sums, seen, number = {}, {}, 4_000
  for share in (None, 0.8):
    rng = np.random.default_rng(0)
    example = _example(dataclasses.replace(_PLAIN, balance=share))
    drawn = [example(_record(), rng) for _ in range(number)]
    drawn = [x for x in drawn if x is not None]
    seen[share] = np.mean([x['weights'].any() for x in drawn]), len(drawn)
    sums[share] = sum(x['weights'].sum() for x in drawn) / len(drawn)
  # Half of the attempts are right; a success counts 8/3, a failure 2/7.
  right, wrong = 0.8 / _RATE, 0.2 / (1 - _RATE)
  assert seen[None] == (pytest.approx(0.5, abs=0.04), number)
  assert seen[0.8][0] == pytest.approx(right / (right + wrong), abs=0.03)
  assert seen[0.8][1] / number == pytest.approx(
      (right + wrong) / 2 / right, abs=0.04)
  # The mean weight of a draw is divided by that of all factors.
  assert sums[0.8] == pytest.approx(
      sums[None] / ((right + wrong) / 2), rel=0.08)


def test_loss_against_a_loop():
  noise = np.random.default_rng(0)
  shape = 2, 5
  draw = lambda: noise.uniform(size=shape).astype(np.float32)
  ints = np.zeros(shape, np.int32)
  batch = types.Batch(
      ints, ints, ints, ints + 1, draw(), value_targets=draw(),
      value_weights=draw() * (draw() < 0.6), value_offsets=draw())
  logits = noise.normal(size=shape).astype(np.float32)
  sums = value.cross_entropy_sums(jnp.asarray(logits), batch)
  loss = correct = 0.0
  for i in np.ndindex(shape):
    p = 1 / (1 + np.exp(-float(logits[i] + batch.value_offsets[i])))
    y, w = float(batch.value_targets[i]), float(batch.value_weights[i])
    loss -= w * (y * np.log(p) + (1 - y) * np.log(1 - p))
    correct += w * ((p > 0.5) == (y > 0.5))
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
  np.testing.assert_allclose(sums.correct, correct, rtol=1e-5)
  np.testing.assert_allclose(
      batch.weight, batch.loss_mask.sum() + batch.value_weights.sum(),
      rtol=1e-6)


def test_batches_have_the_fields_of_values():
  config = dataclasses.replace(small_arms.CONFIG, sequence_length=64)
  batch = next(pipelines.train_batches(
      [_record()] * 8, _example(), config, seed=0, batch_size=2, num_hosts=1,
      host_index=0))
  made = types.Batch(**batch)
  assert made.value_weights.shape == made.tokens.shape == (2, 64)
  assert (made.value_weights[made.segment_ids == 0] == 0).all()
  starts = np.diff(made.segment_ids, axis=1, prepend=0) > 0
  assert (made.value_weights > 0).sum() >= 2 * (starts & (
      made.segment_ids > 0)).sum()


@pytest.mark.parametrize('trained', part_lib.PARTS)
def test_the_loss_falls(trained):
  """With the trunk as far as it can: to the entropy of the targets."""
  data = dataclasses.replace(small_arms.CONFIG, sequence_length=64)
  example = _example(dataclasses.replace(_PLAIN, policy_weight=0.0))
  batch = types.Batch(**next(pipelines.train_batches(
      [_record()] * 8, example, data, seed=0, batch_size=4, num_hosts=1,
      host_index=0)))
  model = config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      vocab_size=40, num_layers=1, embed_dim=32, num_heads=2, num_kv_heads=2,
      head_dim=16, mlp_dim=32, max_length=64))
  made = optimizer.make(optimizer.OptimizerConfig(
      0.02, 0.1, 0, 0.9, 0.98, 1e-8, 0.0, 1.0,
      part_lib.ALL), 120)
  part = part_lib.Part(trained, 4, 8.0)
  start = meta.unbox(transformer.init(model, jax.random.key(0)))
  base = part.base(start)
  mean = lambda params: valued.loss(
      model, part.whole(base, params), batch, num_chunks=1).loss / batch.weight

  @jax.jit
  def fit(params):
    def step(carry, _):
      params, state = carry
      loss, grads = jax.value_and_grad(mean)(params)
      updates, state = made.update(grads, state, params)
      return (optax.apply_updates(params, updates), state), loss

    start = params, made.init(params)
    return jax.lax.scan(step, start, length=120)[1]

  losses = fit(part.begin(
      meta.unbox(part.init(model, jax.random.key(1))), start))
  p = np.clip(np.float64(batch.value_targets), 1e-9, 1 - 1e-9)
  entropy = np.average(
      -p * np.log(p) - (1 - p) * np.log(1 - p), weights=batch.value_weights)
  # Which attempt it is the first steps do not say, but what they lead to.
  assert 0.1 < entropy < losses[-1] < losses[0] - 0.05
  assert losses[-1] < entropy + 0.02 or trained == 'value_head'


@pytest.mark.parametrize('changes, words', [
    (dict(tokenizer='0' * 64), 'another tokenizer, 000000000000;')])
def test_targets_of_other_tokens_are_refused(changes, words):
  with pytest.raises(config_lib.UserError, match=words):
    _example()(_record(**changes), np.random.default_rng(0))


def test_records_without_targets_are_refused():
  with pytest.raises(
      config_lib.UserError, match='has no targets; this objective'):
    _example()(small_labels.ANSWERED, np.random.default_rng(0))
