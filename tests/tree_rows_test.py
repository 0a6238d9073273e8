# SPDX-License-Identifier: Apache-2.0
"""Rows that hold trees: the same texts, scores and gradient as row by row."""

import functools

from flax.linen import meta
import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import models
from meta_cot import decode
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import advantages
from meta_cot.objectives import policy_gradient
from meta_cot.rl import scoring
from meta_cot.rollouts import trees as trees_lib
from meta_cot.settings import config as config_lib

Q, T, F, C, P, V = 2, 2, 3, 9, 6, 32  # T trees a question
R, L = Q * T, 1 + F


def _drawn(seed):
  """Prompts, their lengths, and trees of random tokens."""
  rng = np.random.default_rng(seed)
  lengths_R = rng.integers(1, P + 1, Q).repeat(T)
  prompts_RxP = rng.integers(1, V, (Q, P)).repeat(T, axis=0)
  trunk_R = rng.integers(1, C + 1, R)
  kept_RxL = np.stack(
      [np.zeros(R, int)] + [rng.integers(0, trunk_R) for _ in range(F)], 1)
  lengths_RxL = rng.integers(1, C + 1 - kept_RxL)
  lengths_RxL[:, 0] = trunk_R
  lengths_RxL[0, F] = 0  # no such branch
  kept_RxL[0, F] = 0
  int32 = lambda x: jnp.asarray(x, jnp.int32)
  return int32(prompts_RxP), int32(lengths_R), trees_lib.Trees(
      tokens=int32(rng.integers(1, V, (R, L, C))),
      log_probs=jnp.asarray(-rng.random((R, L, C)), jnp.float32),
      lengths=int32(lengths_RxL), kept=int32(kept_RxL))


def _texts(prompts_RxP, lengths_R, trees):
  """The leaves in plain Python: (prompt, new tokens, their log-probs)."""
  host = jax.device_get((prompts_RxP, lengths_R, trees))
  prompts, lengths, t = host
  for r in range(R):
    for leaf in range(L):
      kept, number = t.kept[r, leaf], t.lengths[r, leaf]
      join = lambda x, r=r, leaf=leaf, kept=kept, number=number: [
          *x[r, 0, :kept], *x[r, leaf, :number]]
      yield (r, leaf), prompts[r, :lengths[r]].tolist(), join(t.tokens), join(
          t.log_probs)


@hypothesis.given(st.integers(0, 10_000))
@hypothesis.settings(max_examples=25, deadline=None)
def test_rows_have_every_token_of_every_leaf_once(seed):
  drawn = _drawn(seed)
  made = jax.device_get(trees_lib.assemble(*drawn, pad_id=0))
  tokens, log_probs, lengths = jax.device_get(trees_lib.chains(drawn[2]))
  rows, width = made.rows, made.rows.tokens.shape[1]
  assert (trees_lib.num_places(drawn[1], drawn[2]) <= width).all()
  seen = np.zeros(rows.tokens.shape, int)
  for (r, leaf), prompt, text, log in _texts(*drawn):
    assert tokens[r, leaf, :lengths[r, leaf]].tolist() == text
    np.testing.assert_array_equal(log_probs[r, leaf, :len(text)], log)
    at = np.flatnonzero(made.leaves[r, :, leaf])
    at = at[np.argsort(rows.places.positions[r, at], kind='stable')]
    assert rows.targets[r, at].tolist() == text
    whole = prompt + text
    assert rows.tokens[r, at].tolist() == whole[len(prompt) - 1:-1]
    assert rows.places.positions[r, at].tolist() == list(
        range(len(prompt) - 1, len(whole) - 1))
    np.testing.assert_array_equal(rows.behaviour[r, at], np.float32(log))
    seen[r, at] += 1
  np.testing.assert_array_equal(seen > 0, rows.is_sampled)
  assert (rows.is_sampled.sum(axis=1) == np.sum(drawn[2].lengths, axis=1)).all()


_VARIANTS = {
    'llama': {},
    'gemma': {
        'block.sliding_window': 4, 'block.sliding_window_pattern': 2,
        'rope.local_theta': 100.0, 'block.use_qk_norm': True}}


@functools.cache
def _model(variant, loop='unroll'):
  config = config_lib.parse(model_config.ModelConfig, models.get('tiny') | dict(
      vocab_size=V, num_layers=2, embed_dim=16, num_heads=2, num_kv_heads=1,
      head_dim=8, mlp_dim=24, max_length=96) | _VARIANTS[variant] | {
          'execution.layer_loop': loop})
  params = meta.unbox(transformer.init(config, jax.random.key(0)))
  noise = np.random.default_rng(1)
  return config, jax.tree.map(
      lambda x: x + 0.2 * noise.standard_normal(x.shape).astype(x.dtype),
      params)


def _node_advantages(drawn, returns, is_judged):
  """Of every token of every leaf, by sets of leaves in plain Python."""
  found, texts = {}, {
      key: (len(prompt), text) for key, prompt, text, _ in _texts(*drawn)}
  kept = np.asarray(drawn[2].kept)

  def has(r, leaf, t, of):  # token t of leaf `of` of tree r is in this leaf
    if (r, leaf) == of:
      return t < len(texts[of][1])
    if r != of[0]:
      return False
    own = lambda x: 0 if x == 0 else kept[r, x]
    if of[1] == 0:
      return t < own(leaf)
    if leaf == 0:
      return t < own(of[1])
    return t < min(own(leaf), own(of[1]))

  for of, (_, text) in texts.items():
    peers = [x for x in texts if x[0] // T == of[0] // T and is_judged[x]]
    values = []
    for t in range(len(text)):
      below = [returns[x] for x in peers if has(*x, t, of)]
      others = [returns[x] for x in peers if not has(*x, t, of)]
      values.append(
          np.mean(below) - np.mean(others) if below and others else 0.0)
    found[of] = values
  return found


def _loss(config, params, rows, advantages_RxX, mask, weights):
  scores = scoring.score(
      config, params, rows['tokens'], rows['targets'],
      sampling=decode.Sampling(temperature=0.7), places=rows['places'])
  losses, _ = policy_gradient.clipped(
      scores.sampled, rows['behaviour'], advantages_RxX, mask, level='token',
      clip_low=0.2, clip_high=0.3)
  losses -= 0.1 * scores.entropy
  return jnp.sum(jnp.where(mask, losses * weights, 0.0))


@pytest.mark.parametrize('variant, loop, how', [
    ('llama', 'scan', 'sequence'), ('gemma', 'unroll', 'constant'),
    pytest.param('llama', 'unroll', 'token', marks=pytest.mark.slow),
    pytest.param('gemma', 'scan', 'token', marks=pytest.mark.slow)])
def test_the_gradient_is_that_of_all_leaves_one_by_one(variant, loop, how):
  config, params = _model(variant, loop)
  drawn, rng = _drawn(7), np.random.default_rng(3)
  returns = rng.integers(0, 3, (R, L)).astype(np.float32)
  is_judged = rng.random((R, L)) < 0.85
  is_judged[0, F] = False  # there is none
  made = trees_lib.assemble(*drawn, pad_id=0)
  leaves = np.asarray(made.leaves) & is_judged[:, None]
  by_question = lambda x: np.asarray(x).reshape(Q, T, *x.shape[1:])
  advantages_RxX = advantages.subtree_rloo(*map(
      by_question, (returns, is_judged, made.leaves))).reshape(R, -1)
  wanted = _node_advantages(drawn, returns, is_judged)
  for (r, leaf), values in wanted.items():
    at = np.flatnonzero(np.asarray(made.leaves)[r, :, leaf])
    at = at[np.argsort(np.asarray(made.rows.places.positions)[r, at])]
    np.testing.assert_allclose(advantages_RxX[r, at], values, atol=1e-6)
  rows = dict(
      tokens=made.rows.tokens, targets=made.rows.targets,
      behaviour=made.rows.behaviour, places=made.rows.places)
  mask = leaves.any(axis=2)
  ours = jax.value_and_grad(functools.partial(_loss, config))(
      params, rows, advantages_RxX, mask,
      policy_gradient.tree_weights(leaves, how, constant=20.0))

  # The same, a leaf a row.
  flat = {name: np.zeros((R * L, P + C), np.int32)
          for name in ('tokens', 'targets')}
  flat |= dict(behaviour=np.zeros((R * L, P + C), np.float32), places=None)
  gains, mask = (np.zeros((R * L, P + C), t) for t in (np.float32, bool))
  for (r, leaf), prompt, text, log in _texts(*drawn):
    n, whole, row = len(prompt), prompt + text, r * L + leaf
    flat['tokens'][row, :len(whole) - 1] = whole[:-1]
    flat['targets'][row, :len(whole) - 1] = whole[1:]
    flat['behaviour'][row, n - 1:len(whole) - 1] = log
    gains[row, n - 1:len(whole) - 1] = wanted[r, leaf]
    mask[row, n - 1:len(whole) - 1] = is_judged[r, leaf]
  theirs = jax.value_and_grad(functools.partial(_loss, config))(
      params, flat, gains, mask,
      policy_gradient.token_weights(mask, how, constant=20.0))
  np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
  largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(theirs[1]))
  assert largest > 1e-3
  jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * max(
          1.0, largest)), ours[1], theirs[1])


def test_a_sample_alone_is_compared_as_by_rloo():
  returns = np.random.default_rng(0).random((3, 4)).astype(np.float32)
  compare = lambda returns: advantages.subtree_rloo(
      returns[..., None], np.ones((3, 4, 1), bool), np.ones((3, 4, 1, 1), bool)
  )[..., 0]
  np.testing.assert_allclose(
      compare(returns), advantages.rloo(returns), atol=1e-6)
  assert not np.any(compare(np.full((3, 4), 0.3, np.float32)))


def test_places_are_needed():
  """Without them the texts of a tree would read one another."""
  config, params = _model('llama')
  made = trees_lib.assemble(*_drawn(5), pad_id=0)
  score = lambda places: scoring.score(
      config, params, made.rows.tokens, made.rows.targets,
      sampling=decode.Sampling(1.0), places=places).plain
  mask = np.asarray(made.rows.is_sampled)
  away = np.abs(score(made.rows.places) - score(None))[mask]
  assert away.max() > 0.01
