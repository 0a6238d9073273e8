# SPDX-License-Identifier: Apache-2.0
"""Adapters: what they compute, what moves, what is saved."""

import functools
import shutil

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import countdown
from configs import kinds
from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.model import lora
from meta_cot.model import transformer
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.training import metrics as metrics_lib
from meta_cot.training import part as part_lib
from meta_cot.training import policy as policy_lib
from tests import language_search
from tests import small_rl
from tests import small_training

_RANK, _SCALE = 3, 1.7
_PART = part_lib.Part('lora', _RANK, _SCALE * _RANK)
_TOKENS = jnp.asarray(
    np.random.default_rng(0).integers(0, language_search.VOCAB, (2, 9)))


def _adapter(model):
  """One that is random everywhere."""
  made = meta.unbox(lora.init(model, jax.random.key(1), _RANK))
  noise = np.random.default_rng(2)
  return jax.tree.map(
      lambda x: jnp.asarray(0.2 * noise.standard_normal(x.shape), x.dtype),
      made)


@pytest.mark.parametrize('variant, loop', [
    ('llama', 'unroll'), ('gemma', 'scan'),
    pytest.param('qwen', 'scan', marks=pytest.mark.slow)])
def test_beside_the_kernels_is_as_within_them(variant, loop):
  model, params = language_search.make_model(variant, loop)
  adapter = _adapter(model)
  beside = lora.join(params, adapter, _SCALE)
  within = lora.merge(params, adapter, _SCALE)
  run = jax.jit(functools.partial(transformer.forward, model))
  wanted = run(within, _TOKENS).logits
  np.testing.assert_allclose(run(beside, _TOKENS).logits, wanted, atol=2e-5)
  assert np.abs(wanted - run(params, _TOKENS).logits).max() > 0.1
  # Read token by token, with a cache, as a decoding loop has them.
  cache = cache_lib.create(model, 2, 9)
  sliced, read = transformer.slice_layers(model, beside), []
  for i in range(9):
    output = transformer.decode(
        model, sliced, _TOKENS[:, i:i + 1], cache,
        positions_BxL=jnp.full((2, 1), i))
    cache = output.cache
    read.append(output.logits[:, 0])
  np.testing.assert_allclose(np.stack(read, 1), wanted, atol=2e-5)


def test_every_projection_has_one_and_it_begins_as_nothing():
  model, params = language_search.make_model('qwen', 'scan')
  made = meta.unbox(lora.init(model, jax.random.key(1), _RANK))
  block = params['layers']
  assert made['layers'].keys() == {'attention', 'mlp'}
  pairs = 0
  for name, group in made['layers'].items():
    for proj, pair in group.items():
      kernel = block[name][proj]['kernel']
      a, b = pair['lora_a'], pair['lora_b']
      assert a.size // _RANK * (b.size // _RANK) == kernel.size * len(kernel)
      fan_in = a[0].size // _RANK
      assert 0 < np.abs(a).max() <= fan_in ** -0.5 and not np.any(b)
      pairs += 1
  assert pairs == 7
  outputs = [
      transformer.forward(model, p, _TOKENS).logits
      for p in (params, lora.join(params, made, _SCALE))]
  np.testing.assert_array_equal(*outputs)


def test_gradients_are_those_of_the_kernel_by_the_chain_rule():
  model, params = language_search.make_model('llama', 'scan')
  adapter = _adapter(model)

  def loss(whole):
    return jnp.sum(jnp.sin(transformer.forward(model, whole, _TOKENS).logits))

  of_pair = jax.grad(
      lambda x: loss(lora.join(params, x, _SCALE)))(adapter)
  of_kernel = jax.grad(loss)(lora.merge(params, adapter, _SCALE))
  for name, proj in (('attention', 'o_proj'), ('mlp', 'up_proj')):
    pick = lambda tree: tree['layers'][name][proj]
    d_w = np.asarray(pick(of_kernel)['kernel'], np.float64)
    n = len(d_w)
    a = np.asarray(pick(adapter)['lora_a'], np.float64).reshape(n, -1, _RANK)
    b = np.asarray(pick(adapter)['lora_b'], np.float64).reshape(n, _RANK, -1)
    d_w = d_w.reshape(n, a.shape[1], b.shape[2])
    for key, wanted in (
        ('lora_a', np.einsum('nio,nro->nir', d_w, b)),
        ('lora_b', np.einsum('nir,nio->nro', a, d_w))):
      found = np.asarray(pick(of_pair)[key]).reshape(wanted.shape)
      np.testing.assert_allclose(found, _SCALE * wanted, rtol=1e-3, atol=1e-4)


def test_the_base_is_not_copied_and_shapes_are_those_of_arrays():
  model, params = language_search.make_model('llama', 'scan')
  mesh = sharding.make_mesh(sharding.MeshConfig(-1, 1, 2))
  trained = meta.unbox(_PART.init(model, jax.random.key(0)))
  whole = _PART.whole(_PART.base(params), trained)
  assert whole['layers']['mlp']['up_proj']['kernel'] is (
      params['layers']['mlp']['up_proj']['kernel'])
  shapes = _PART.whole(
      _PART.base(policy_lib.abstract(model, mesh)),
      policy_lib.abstract(model, mesh, _PART), is_shape=True)
  assert jax.tree.map(jnp.shape, whole) == jax.tree.map(
      lambda x: x.shape, shapes)
  assert all(x.sharding.mesh == mesh for x in jax.tree.leaves(shapes))


def _experiment(**changes):
  """A policy, an adapter on it, and one on that."""
  config = countdown.get_config('tiny')
  config.model.update(small_training.MODEL)
  config.task.update(dict(max_number=6, max_target=20))
  train = dict(
      arms=('solution_only',), num_tokens=3_000, batch_size=8,
      log_every_steps=1, num_eval_batches=1, save_every_steps=2)
  config.sft.update(train)
  config.sft.data.sequence_length = 96
  for name, start in (
      ('first', 'sft/solution_only'), ('second', 'first/solution_only')):
    config[name] = kinds.train(start=start, **train)
    config[name].data.sequence_length = 96
    config[name].optimizer.trained.part = 'lora'
  config.stages = (*config.stages[:4], 'first', 'second')
  config.update_from_flattened_dict(changes)
  return experiment_lib.parse(config)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  return small_training.run_stages(
      _experiment(), tmp_path_factory.mktemp('lora') / 'w', num_devices=2)


def test_checkpoints_have_the_adapter_alone(trained):
  policies = [
      trained.policy(f'{stage}/solution_only')
      for stage in ('sft', 'first', 'second')]
  assert policies[0].base is None
  assert policies[2].base.folder == '../../first/solution_only'
  before, first, second = (p.params(trained.mesh) for p in policies)
  for old, new in ((before, first), (first, second)):
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), old, new)
    kernels = jax.tree_util.tree_leaves_with_path(moved['layers'])
    assert all(is_moved == ('kernel' in jax.tree_util.keystr(path))
               for path, is_moved in kernels)
    assert not any(jax.tree.leaves(
        (moved['embedder'], moved['final_norm'], moved['value_head'])))
  sizes = [sum(x.size for x in jax.tree.leaves(policy_lib.abstract(
      p.model, trained.mesh, p.base.part if p.base else part_lib.ALL)))
           for p in policies]
  assert sizes[1] < sizes[0]
  rows = metrics_lib.read(policies[1].directory / 'metrics.jsonl')
  assert np.isfinite([row['loss'] for row in rows]).all()


def test_a_missing_base_is_named(trained, tmp_path):
  policy = trained.policy('second/solution_only')
  moved = tmp_path / 'a' / 'b'
  shutil.copytree(policy.directory, moved)
  with pytest.raises(config_lib.UserError, match='first/solution_only'):
    policy_lib.read(files.path(moved)).params(trained.mesh)


@pytest.mark.parametrize('changes, words', [
    ({'first.start': None, 'first.tokenizer': 'tokenizer'},
     'first.optimizer.trained.part: got .lora. with start None'),
    ({'first.optimizer.trained.part': 'some'},
     'trained.part: .*must be one of'),
    ({'first.optimizer.trained.rank': 0}, 'trained.rank: got 0')])
def test_what_cannot_be_trained_is_refused(changes, words):
  with pytest.raises(config_lib.ConfigError, match=words):
    _experiment(**changes)


def test_reinforcement_learning_moves_the_adapter_alone():
  run = small_rl.Run(
      trained=dict(part='lora', rank=2, alpha=4.0), num_iterations=2)
  before = jax.tree.map(np.asarray, run.setup.start)
  state, rows = run.iterate(2)
  assert len(rows) == 2 and np.isfinite([r['loss'] for r in rows]).all()
  assert state.params.keys() == {'layers', 'value_head'}
  moved = jax.tree.map(lambda x: bool(np.any(x)), state.params['layers'])
  assert all(pair['lora_b'] for group in moved.values()
             for pair in group.values())
  after = run.setup.start  # the reference policy: the adapter is off
  jax.tree.map(np.testing.assert_array_equal, before, after)
