# SPDX-License-Identifier: Apache-2.0
"""Steps of a language model: every node against a plain forward pass."""

import dataclasses
import functools
import re

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import models
from meta_cot import config as config_lib
from meta_cot import decode
from meta_cot import reasoning
from meta_cot import search
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.search import base
from meta_cot.search import tree as tree_lib

_SMALL = models.get('tiny') | dict(
    vocab_size=16, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=24, max_length=64, embed_scale=False)
_VARIANTS = {
    'llama': {},
    'gemma': dict(
        activation='gelu_tanh', norm_plus_one=True, use_post_norms=True,
        use_qk_norm=True, query_scale=0.3, attention_softcap=5.0,
        logit_softcap=3.0, sliding_window=3, sliding_window_pattern=2,
        rope_local_theta=100.0, embed_scale=True),
    'qwen': dict(use_qkv_bias=True, use_qk_norm=True, tie_embeddings=False),
}
_EOS, _PAD, _DELIMITERS, _LENGTH = 3, 0, (5, 6), 4
_BEST_FIRST = functools.partial(
    search.best_first, num_expansions=6, max_depth=4, num_leaves=2)
_BEAM = functools.partial(search.beam, beam_width=3, max_depth=3)

_MCTS = functools.partial(
    search.mcts, num_simulations=8, max_depth=4, num_leaves=2)


@functools.cache
def make_model(variant='llama', loop='unroll'):
  """A config, and parameters that are random everywhere."""
  config = config_lib.parse(
      model_config.ModelConfig,
      _SMALL | _VARIANTS[variant] | dict(layer_loop=loop))
  shapes = meta.unbox(jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0)))
  noise = np.random.default_rng(0)
  return config, jax.tree.map(
      lambda x: jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype),
      shapes)


def make_prompts(batch_size):
  random = np.random.default_rng(1)
  return (jnp.asarray(random.integers(0, 16, (batch_size, 6)), jnp.int32),
          jnp.asarray(random.integers(1, 7, batch_size), jnp.int32))


def nothing_is_right(problem, tokens_M, length):
  del problem, tokens_M, length
  return jnp.zeros(())


def make_step(config, **changes):
  settings = dict(
      branching=3, step_length=_LENGTH, delimiter_ids=_DELIMITERS, eos_id=_EOS,
      pad_id=_PAD, sampling=decode.Sampling(0.8), outcome=nothing_is_right)
  return reasoning.make_step_fn(config, **settings | changes)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(step, strategy, params, prompts_BxP, lengths_B, ids_B, problems=None):
  given, root = reasoning.start(
      step.config, params, prompts_BxP, lengths_B, value=step.value,
      step_length=step.step_length, problems=problems, problem_ids_B=ids_B)
  return strategy(
      given, jax.random.key(7), root, step, branching=step.branching,
      merge_steps=False)


@functools.cache
def searched(variant='llama', loop='unroll', strategy=_BEST_FIRST,
             batch_size=3):
  config, params = make_model(variant, loop)
  prompts_BxP, lengths_B = make_prompts(batch_size)
  return run(make_step(config), strategy, params, prompts_BxP, lengths_B,
             jnp.arange(batch_size))


def full_texts(output, prompts_BxP, lengths_B):
  """{(problem, node): (tokens before the step, tokens of the step)}."""
  tree = output.tree
  nodes_BxN = jnp.broadcast_to(
      jnp.arange(tree.shape[1], dtype=jnp.int32)[None], tree.shape)
  tokens, lengths = map(np.asarray, reasoning.texts(
      tree, nodes_BxN, num_path=int(tree.depths.max()) + 1, pad_id=_PAD))
  texts = {}
  for b, n in zip(*np.nonzero(np.asarray(tree.is_valid))):
    prompt = np.asarray(prompts_BxP)[b, :int(lengths_B[b])]
    text = np.concatenate([prompt, tokens[b, n, :lengths[b, n]]])
    assert (tokens[b, n, lengths[b, n]:] == _PAD).all()
    num_own = int(tree.embeddings.page.length[b, n])
    cut = len(text) - num_own
    np.testing.assert_array_equal(
        text[cut:], np.asarray(tree.embeddings.tokens)[b, n, :num_own])
    texts[b, n] = text[:cut], text[cut:]
  return texts


def same_trees(one, two, rtol=0.0, atol=1e-5):
  """Equal structure and tokens; values up to `atol`."""
  for name in ('parents', 'depths', 'is_valid', 'is_terminal',
               'expansion_order', 'visit_counts', 'num_nodes', 'num_tokens'):
    np.testing.assert_array_equal(
        getattr(one, name), getattr(two, name), err_msg=name)
  np.testing.assert_array_equal(one.embeddings.tokens, two.embeddings.tokens)
  np.testing.assert_array_equal(
      one.embeddings.page.length, two.embeddings.page.length)
  for name in ('values', 'rewards', 'log_probs'):
    np.testing.assert_allclose(
        getattr(one, name), getattr(two, name), rtol, atol, err_msg=name)


@pytest.mark.parametrize('variant, loop, strategy', [
    ('llama', 'unroll', _BEST_FIRST), ('llama', 'scan', _BEAM),
    ('gemma', 'unroll', _BEAM), ('gemma', 'scan', _BEST_FIRST),
    ('qwen', 'unroll', _BEST_FIRST), ('qwen', 'scan', _MCTS)])
def test_every_node_equals_a_plain_forward_pass(variant, loop, strategy):
  config, params = make_model(variant, loop)
  prompts_BxP, lengths_B = make_prompts(3)
  output = searched(variant, loop, strategy)
  texts = full_texts(output, prompts_BxP, lengths_B)
  assert len(texts) > 40 and int(output.tree.depths.max()) > 2
  width = max(len(a) + len(b) for a, b in texts.values())
  rows = np.stack([
      np.pad(np.concatenate(ab), (0, width - len(ab[0]) - len(ab[1])))
      for ab in texts.values()])
  plain = jax.jit(transformer.forward, static_argnums=0)(
      config, params, jnp.asarray(rows, jnp.int32))
  log_probs = np.asarray(jax.nn.log_softmax(plain.logits / 0.8, axis=-1))
  for row, ((b, n), (before, own)) in enumerate(texts.items()):
    last = len(before) + len(own) - 1
    np.testing.assert_allclose(
        output.tree.values[b, n], plain.values[row, last], atol=1e-4)
    np.testing.assert_allclose(
        output.tree.log_probs[b, n],
        sum(log_probs[row, len(before) - 1 + i, token]
            for i, token in enumerate(own)), atol=1e-4)


def test_steps_end_where_they_should():
  prompts_BxP, lengths_B = make_prompts(3)
  ends = {'delimiter': 0, 'eos': 0, 'length': 0}
  config, params = make_model()
  output = run(make_step(config, outcome=None), _BEAM, params, prompts_BxP,
               lengths_B, jnp.arange(3))
  tree = output.tree
  for (b, n), (_, own) in full_texts(output, prompts_BxP, lengths_B).items():
    if n == 0:
      continue
    assert 1 <= len(own) <= _LENGTH
    assert not set(own[:-1].tolist()) & {_EOS, *_DELIMITERS}
    assert tree.is_terminal[b, n] == (own[-1] == _EOS)
    kind = 'eos' if own[-1] == _EOS else (
        'delimiter' if own[-1] in _DELIMITERS else 'length')
    assert kind != 'length' or len(own) == _LENGTH
    ends[kind] += 1
    behind = np.asarray(tree.embeddings.tokens)[b, n, len(own):]
    assert (behind == _PAD).all()
    if kind == 'eos':
      assert tree.rewards[b, n] == tree.values[b, n]
  assert all(ends.values()), ends
  np.testing.assert_array_equal(
      tree.num_tokens,
      jnp.sum(tree.embeddings.page.length * tree.is_valid, axis=1))


def test_no_token_is_read_twice(monkeypatch):
  config, params = make_model()
  prompts_1xP, lengths_1 = make_prompts(1)
  read, decode_hidden = [], transformer.decode_hidden

  def counted(config, params, tokens_BxL, *args, **keywords):
    jax.debug.callback(lambda: read.append(tokens_BxL.shape))
    return decode_hidden(config, params, tokens_BxL, *args, **keywords)

  monkeypatch.setattr(transformer, 'decode_hidden', counted)
  monkeypatch.setattr(transformer, 'forward', None)
  strategy = functools.partial(
      search.best_first, num_expansions=5, max_depth=4)
  output = run(make_step(config, sampling=decode.Sampling(0.9)), strategy,
               params, prompts_1xP, lengths_1, jnp.arange(1))
  jax.effects_barrier()
  assert read[0] == prompts_1xP.shape
  tree = jax.tree.map(lambda x: np.asarray(x[0]), output.tree)
  # Of every expansion as many passes as its longest child has tokens.
  passes = sum(
      tree.embeddings.page.length[first:first + 3].max()
      for first in tree.first_child if first != tree_lib.NONE)
  assert read[1:] == [(3, 1)] * int(passes)


def test_a_problem_is_searched_alike_in_any_batch():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts(8)
  all_at_once = searched(batch_size=8)
  step = make_step(config)
  for b in (0, 3, 7):
    rows = slice(b, b + 1)
    alone = run(step, _BEST_FIRST, params, prompts_BxP[rows], lengths_B[rows],
                jnp.array([b]))
    same_trees(
        alone.tree, jax.tree.map(lambda x, r=rows: x[r], all_at_once.tree))
  order = jnp.array([5, 1, 7, 0, 2, 6, 3, 4])
  shuffled = run(step, _BEST_FIRST, params, prompts_BxP[order],
                 lengths_B[order], order)
  same_trees(
      shuffled.tree, jax.tree.map(lambda x: x[order], all_at_once.tree))
  again = run(step, _BEST_FIRST, params, prompts_BxP, lengths_B, jnp.arange(8))
  jax.tree.map(np.testing.assert_array_equal, again, all_at_once)


@pytest.mark.parametrize('data, model, loop, strategy', [
    (8, 1, 'unroll', _BEST_FIRST), (4, 2, 'scan', _BEAM)])
def test_eight_devices_search_as_one(data, model, loop, strategy):
  config, params = make_model(loop=loop)
  prompts_BxP, lengths_B = make_prompts(8)
  expected = searched(loop=loop, strategy=strategy, batch_size=8)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=data, fsdp=1, model=model))
  boxed = jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0))
  with sharding.use_mesh(mesh):
    params = jax.device_put(params, sharding.of_params(mesh, boxed))
    arrays = jax.device_put(
        (prompts_BxP, lengths_B, jnp.arange(8)), sharding.batch(mesh))
    compiled = run.lower(
        make_step(config), strategy, params, *arrays).compile()
    found = compiled(params, *arrays)
  same_trees(found.tree, expected.tree)
  if model == 1:  # problems stay where they are
    assert not re.findall(
        r'all-gather|all-to-all|collective-permute', compiled.as_text())


def test_padding_of_prompts_does_not_count():
  config, params = make_model('gemma')
  prompts_BxP, lengths_B = make_prompts(3)
  is_text_BxP = jnp.arange(6)[None] < lengths_B[:, None]
  wide_BxP = jnp.pad(
      jnp.where(is_text_BxP, prompts_BxP, 9), ((0, 0), (0, 2)),
      constant_values=11)
  found = run(make_step(config), _BEAM, params, wide_BxP, lengths_B,
              jnp.arange(3))
  same_trees(found.tree, searched('gemma', strategy=_BEAM).tree)


def is_even(problem, tokens_M, length):
  is_text_M = jnp.arange(tokens_M.shape[0]) < length
  total = jnp.sum(jnp.where(is_text_M, tokens_M, 0)) + problem['offset']
  return (total % 2 == 0).astype(jnp.float32)


def by_length(problem, tokens_M, length):
  return problem['offset'] + length / (1.0 + tokens_M.shape[0])


def first_token(problem, tokens_M, length):
  del problem
  return jnp.stack([tokens_M[0], length])


def test_functions_of_texts():
  config, params = make_model()
  config = dataclasses.replace(config, value_head='none')
  prompts_BxP, lengths_B = make_prompts(3)
  step = make_step(
      config, outcome=is_even, value=by_length, state_key=first_token)
  strategy = functools.partial(_BEAM, merge_states=True)
  output = run(step, strategy, params, prompts_BxP, lengths_B, jnp.arange(3),
               {'offset': jnp.arange(3)})
  tree, num_goals = output.tree, 0
  np.testing.assert_array_equal(tree.values[:, 0], jnp.arange(3.0))
  for (b, n), (before, own) in full_texts(
      output, prompts_BxP, lengths_B).items():
    text = np.concatenate([before[int(lengths_B[b]):], own])
    if n == 0:
      continue
    np.testing.assert_allclose(
        tree.values[b, n], b + len(text) / (1 + 3 * _LENGTH), rtol=1e-6)
    np.testing.assert_array_equal(tree.state_keys[b, n], [text[0], len(text)])
    if tree.is_terminal[b, n]:
      assert tree.rewards[b, n] == ((text.sum() + b) % 2 == 0)
      num_goals += int(tree.rewards[b, n])
  assert 0 < num_goals < int(tree.is_terminal.sum())


def test_rows_without_a_leaf_have_no_children():
  config, params = make_model()
  prompts_BxP, lengths_B = make_prompts(2)

  @jax.jit
  def expand():
    given, root = reasoning.start(
        config, params, prompts_BxP, lengths_B, step_length=_LENGTH)
    path = base.Path(
        embeddings=jax.tree.map(lambda x: x[:, None], root.embedding),
        length=jnp.array([1, 0]), nodes=jnp.zeros((2, 1), jnp.int32),
        keys=jax.random.split(jax.random.key(0), 2))
    return make_step(config)(given, jax.random.key(1), path)

  expansion = expand()
  np.testing.assert_array_equal(
      expansion.is_valid, [[True] * 3, [False] * 3])
  assert (expansion.num_tokens[0] > 0).all()
  assert (expansion.num_tokens[1] == 0).all()


@pytest.mark.parametrize('loop', ['scan', 'unroll'])
def test_select_rows_takes_whole_prompts(loop):
  config, params = make_model(loop=loop)
  start = jax.jit(lambda tokens: reasoning.start(
      config, params, tokens, jnp.array([4, 5, 6]), step_length=_LENGTH,
      problems=tokens[:, 0])[0][1])
  prompts_BxP, _ = make_prompts(3)
  new, old = start(prompts_BxP), start(15 - prompts_BxP)
  is_new_B = jnp.array([True, False, True])
  expected = start(
      jnp.where(is_new_B[:, None], prompts_BxP, 15 - prompts_BxP))
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=1e-6),
      reasoning.select_rows(is_new_B, new, old), expected)


@pytest.mark.parametrize('changes, message', [
    (dict(branching=0), 'branching: got 0'),
    (dict(step_length=0), 'step_length: got 0'),
    (dict(eos_id=16), 'eos_id: got 16; must be a token id from 0 to 15'),
    (dict(pad_id=-1), 'pad_id: got -1'),
    (dict(delimiter_ids=(5, 99)), r'delimiter_ids\[1\]: got 99')])
def test_bad_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    make_step(make_model()[0], **changes)


def test_what_cannot_be_searched_is_refused():
  config, params = make_model()
  headless = dataclasses.replace(config, value_head='none')
  with pytest.raises(ValueError, match='the model has no value head'):
    make_step(headless)
  prompts_BxP, lengths_B = make_prompts(2)
  with pytest.raises(ValueError, match='step_length = 59 tokens after prompts'):
    reasoning.start(config, params, prompts_BxP, lengths_B, step_length=59)
  deep = functools.partial(search.best_first, num_expansions=2, max_depth=15)
  with pytest.raises(ValueError, match='max_depth x step_length = 15 x 4'):
    run(make_step(config), deep, params, prompts_BxP, lengths_B, jnp.arange(2))
