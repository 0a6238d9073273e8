# SPDX-License-Identifier: Apache-2.0
"""The training step, its loop, checkpoints and metrics."""

import functools
import itertools

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from configs import kinds
from data_pipelines import pipelines
from meta_cot import sharding
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import sft
from meta_cot.settings import config as config_lib
from meta_cot.training import checkpoint
from meta_cot.training import compilation
from meta_cot.training import flops
from meta_cot.training import optimizer
from meta_cot.training import state as state_lib
from meta_cot.training import step as step_lib

ROWS, LENGTH, VOCAB, STEPS = 16, 12, 32, 6


def _model() -> model_config.ModelConfig:
  config = base.get_config().model
  config.update(dict(
      vocab_size=VOCAB, num_layers=2, embed_dim=16, num_heads=4,
      num_kv_heads=2, head_dim=8, mlp_dim=32, max_length=LENGTH))
  return config_lib.parse(model_config.ModelConfig, config)


MODEL = _model()
OPTIMIZER = config_lib.parse(
    optimizer.OptimizerConfig, kinds.train().optimizer)
UPDATE = optimizer.make(OPTIMIZER, STEPS)


def _loss(params, batch):
  output = transformer.forward(
      MODEL, params, batch.tokens, positions_BxL=batch.positions,
      segment_ids_BxL=batch.segment_ids)
  return sft.loss_sums(output.logits, batch)


def _rows(seed: int) -> dict[str, np.ndarray]:
  """A host batch: two segments a row, then padding; half the tokens trained."""
  rng = np.random.default_rng(seed)
  shape = (ROWS, LENGTH)
  column = np.broadcast_to(np.arange(LENGTH), shape)
  cut = rng.integers(2, LENGTH - 2, (ROWS, 1))
  segments = np.where(column < cut, 1, np.where(column < LENGTH - 1, 2, 0))
  return dict(
      tokens=rng.integers(4, VOCAB, shape).astype(np.int32),
      targets=rng.integers(4, VOCAB, shape).astype(np.int32),
      positions=np.where(column < cut, column, column - cut).astype(np.int32),
      segment_ids=segments.astype(np.int32),
      loss_mask=((segments > 0) * rng.integers(0, 2, shape)).astype(
          np.float32))


def _iterator(seed: int = 0):
  """Endless batches whose position can be saved."""
  seeds = grain.MapDataset.range(1000).shuffle(seed=seed).repeat()
  batches = seeds.map(lambda i: _rows(int(i))).to_iter_dataset()
  return pipelines.Streams({0: iter(batches)})


class _Run:
  """A small training run on a mesh."""

  def __init__(self, mesh, num_accumulation=1):
    self.mesh = mesh
    init = functools.partial(transformer.init, MODEL)
    self.abstract, placed = state_lib.shardings(init, UPDATE, mesh)
    self._first = state_lib.jit_create(init, UPDATE, mesh)(jax.random.key(0))
    self.create = lambda: jax.tree.map(jnp.copy, self._first)
    self.step = jax.jit(
        step_lib.make_train_step(
            _loss, UPDATE, optimizer.schedule(OPTIMIZER, STEPS),
            num_accumulation),
        in_shardings=(placed, sharding.batch(mesh)),
        out_shardings=(placed, sharding.replicated(mesh)),
        donate_argnames=('state',))

  def batch(self, rows):
    return types.Batch(**sharding.put_batch(rows, self.mesh))

  def train(self, state, iterator, num_steps):
    losses = []
    with sharding.use_mesh(self.mesh):
      for _ in range(num_steps):
        state, metrics = self.step(state, self.batch(next(iterator)))
        losses.append(float(metrics['loss']))
    return state, losses


def _mesh(*axes):
  return sharding.make_mesh(
      sharding.MeshConfig(*axes), jax.devices()[:int(np.prod(axes))])


@functools.cache
def _run(*axes, num_accumulation=1):
  """One run a mesh, so that each program is compiled once."""
  return _Run(_mesh(*axes), num_accumulation)


@functools.cache
def _unsharded_run():
  run = _run(1, 1, 1)
  state, losses = run.train(run.create(), _iterator(), STEPS)
  return jax.device_get(state.params), losses


def _assert_close(a, b, tolerance):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=tolerance, rtol=tolerance)


def _assert_same_bits(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize('axes', [
    pytest.param((8, 1, 1), marks=pytest.mark.slow),
    pytest.param((1, 8, 1), marks=pytest.mark.slow), (2, 2, 2)])
def test_sharded_training_equals_unsharded(axes):
  run = _run(*axes)
  state, losses = run.train(run.create(), _iterator(), STEPS)
  params, expected = _unsharded_run()
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  # Adam divides by the root of a moment near zero: sums in another order show.
  _assert_close(jax.device_get(state.params), params, 2e-4)


def test_parameters_are_really_sharded():
  run = _run(2, 2, 2)
  kernels = [
      x for x in jax.tree.leaves(run.create().params) if x.ndim >= 3]
  assert kernels
  for x in kernels:
    assert x.addressable_shards[0].data.size == x.size // 4


def test_accumulation_changes_nothing():
  whole, parts = _run(2, 1, 1), _run(2, 1, 1, num_accumulation=4)
  state_a, losses_a = whole.train(whole.create(), _iterator(), 3)
  state_b, losses_b = parts.train(parts.create(), _iterator(), 3)
  np.testing.assert_allclose(losses_a, losses_b, rtol=1e-5)
  _assert_close(
      jax.device_get(state_a.params), jax.device_get(state_b.params), 2e-4)


def test_loss_equals_numpy():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(ROWS, LENGTH, VOCAB)).astype(np.float32)
  batch = types.Batch(**_rows(0))
  sums = sft.loss_sums(jnp.asarray(logits), batch)
  loss = correct = 0.0
  for b, l in itertools.product(range(ROWS), range(LENGTH)):
    if batch.loss_mask[b, l]:
      p = np.exp(logits[b, l]) / np.exp(logits[b, l]).sum()
      loss -= np.log(p[batch.targets[b, l]])
      correct += logits[b, l].argmax() == batch.targets[b, l]
  np.testing.assert_allclose(sums.loss, loss, rtol=1e-5)
  assert sums.correct == correct
  assert sums.weight == batch.loss_mask.sum()
  assert sums.tokens == (batch.segment_ids > 0).sum()


def test_second_step_does_not_compile():
  run = _run(2, 2, 2)
  iterator = _iterator()
  state, _ = run.train(run.create(), iterator, 1)
  before = compilation.num_programs()
  run.train(state, iterator, 2)
  assert compilation.num_programs() == before
  jax.jit(lambda x: x * 3.25 + 1)(1.0)
  assert compilation.num_programs() > before


@pytest.mark.parametrize('stop', [
    pytest.param(1, marks=pytest.mark.slow), 2,
    pytest.param(5, marks=pytest.mark.slow)])
def test_resume_continues_to_the_same_bits(tmp_path, stop):
  run = _run(2, 2, 1)
  unbroken, expected = run.train(run.create(), _iterator(), STEPS)

  iterator = _iterator()
  state, first = run.train(run.create(), iterator, stop)
  saved = checkpoint.Checkpoints(tmp_path / 'c', None)
  saved.save(state, iterator, step=stop, config={'a': 1}, tokenizer='')
  # The save is asynchronous: going on at once must not change what it holds.
  run.train(state, iterator, 1)
  saved.close()

  again = checkpoint.Checkpoints(tmp_path / 'c', None)
  iterator = _iterator()
  state = again.restore(run.abstract, iterator)
  assert int(state.step) == stop
  state, second = run.train(state, iterator, STEPS - stop)
  assert first + second == expected
  _assert_same_bits(
      jax.device_get((state.params, state.opt_state)),
      jax.device_get((unbroken.params, unbroken.opt_state)))
  _assert_same_bits(
      jax.random.key_data(state.rng), jax.random.key_data(unbroken.rng))
  again.close()


@pytest.mark.parametrize('axes', [
    (1, 1, 1), pytest.param((2, 1, 2), marks=pytest.mark.slow), (2, 2, 2)])
def test_checkpoint_restores_on_any_number_of_devices(tmp_path, axes):
  saver = _run(1, 4, 1)
  iterator = _iterator()
  state, _ = saver.train(saver.create(), iterator, 2)
  saved = checkpoint.Checkpoints(tmp_path / 'c', None)
  saved.save(state, iterator, step=2, config={}, tokenizer='')
  expected = jax.device_get(state.params)
  saved.close()

  reader = _run(*axes)
  opened = checkpoint.Checkpoints(tmp_path / 'c', None)
  iterator = _iterator()
  restored = opened.restore(reader.abstract, iterator)
  opened.close()
  _assert_same_bits(jax.device_get(restored.params), expected)
  _, losses = reader.train(restored, iterator, STEPS - 2)
  np.testing.assert_allclose(losses, _unsharded_run()[1][2:], rtol=1e-5)


def test_uneven_shard_names_parameter_shape_and_axis():
  config = _model()
  narrow = config.__class__(**{**vars(config), 'vocab_size': 33})
  init = functools.partial(transformer.init, narrow)
  expected = r"parameter .*embed.*\(33, 16\).*'vocab'"
  with pytest.raises(ValueError, match=expected):
    state_lib.shardings(init, UPDATE, _mesh(2, 2, 2))


@pytest.mark.parametrize('sizes', [(3, 1, 1), (1, 1, 16)])
def test_mesh_must_use_all_devices(sizes):
  with pytest.raises(config_lib.ConfigError, match='must equal the number'):
    sharding.make_mesh(sharding.MeshConfig(*sizes))


def test_mesh_takes_the_devices_left_over():
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 2, 2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'model': 2}
  with pytest.raises(config_lib.ConfigError, match='at most one -1'):
    sharding.MeshConfig(-1, -1, 1)


def test_schedule_warms_up_and_anneals():
  schedule = optimizer.schedule(OPTIMIZER, 1000)
  values = [float(schedule(i)) for i in (0, OPTIMIZER.warmup_steps, 1000)]
  np.testing.assert_allclose(
      values, [0.0, OPTIMIZER.learning_rate,
               OPTIMIZER.learning_rate * OPTIMIZER.final_fraction], rtol=1e-5)


def test_norms_and_biases_do_not_decay():
  run = _run(1, 1, 1)
  params = jax.tree.map(jnp.ones_like, run.create().params)
  zeros = jax.tree.map(jnp.zeros_like, params)
  opt_state, update = UPDATE.init(params), jax.jit(UPDATE.update)
  for _ in range(2):  # the first learning rate of the warm-up is 0
    updates, opt_state = update(zeros, opt_state, params)
  moved = {}
  for path, update in jax.tree_util.tree_leaves_with_path(updates):
    moved[jax.tree_util.keystr(path).lower()] = bool(np.any(update))
  assert set(moved.values()) == {True, False}
  for name, is_moved in moved.items():
    assert is_moved == ('norm' not in name and 'bias' not in name), name


def test_flops_formula():
  matrices = sum(  # by hand: attention, feed-forward, tied table, value head
      (16 * 8 * 4 * 2 + 16 * 8 * 2 * 2 + 3 * 16 * 32, 2 * 16)[i]
      for i in (0, 1)) * 2 + VOCAB * 16 + 16 + 17
  assert MODEL.num_params() == matrices
  attention = 2 * 4 * 8 * 10  # layers x heads x head width x row
  assert flops.training_flops_per_token(MODEL, 10) == (
      6 * matrices + 6 * attention)
  assert flops.peak_per_device() > 1e8
