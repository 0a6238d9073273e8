# SPDX-License-Identifier: Apache-2.0
"""The yardstick: the same model written straight in jax.numpy.

What one would write by hand for exactly this shape of model and nothing else:
Llama blocks in a Python loop, no scan, no shardings, no packing masks, one
batch of equally long rows, a cache of fixed size. The maths is that of the
library, so that the numbers agree and only the speed can differ.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.training import optimizer

Weights = dict[str, Any]  # 'embedding', 'norm' and 'layers', a list of dicts


def from_params(
    model: model_config.ModelConfig, params: types.Params
) -> Weights:
  """The library's parameters as a list of layers of flat matrices, copied."""
  blocks = params['layers']

  def layer(i):
    attention, mlp = blocks['attention'], blocks['mlp']
    matrix = lambda part, name: part[name]['kernel'][i]
    wide = lambda name: matrix(attention, name).reshape(model.embed_dim, -1)
    return dict(
        q=wide('q_proj'), k=wide('k_proj'), v=wide('v_proj'),
        o=matrix(attention, 'o_proj').reshape(-1, model.embed_dim),
        gate=matrix(mlp, 'gate_proj'), up=matrix(mlp, 'up_proj'),
        down=matrix(mlp, 'down_proj'),
        norm1=blocks['attention_norm']['scale'][i],
        norm2=blocks['mlp_norm']['scale'][i])

  return dict(
      embedding=jnp.array(params['embedder']['embedding']),
      norm=jnp.array(params['final_norm']['scale']),
      layers=[layer(i) for i in range(model.num_layers)])


def _norm(model, x, scale_D):
  x32 = x.astype(jnp.float32)
  square = jnp.mean(jnp.square(x32), axis=-1, keepdims=True)
  scale = scale_D.reshape((1,) * (x.ndim - 1) + scale_D.shape)
  normed = x32 * jax.lax.rsqrt(square + model.block.norm_epsilon)
  return (normed * scale).astype(x.dtype)


def _angles(model, positions_L):
  exponents = jnp.arange(0, model.head_dim, 2) / model.head_dim
  angles = positions_L[:, None] * (1.0 / model.rope.theta ** exponents)[None]
  return jnp.cos(angles)[None, None], jnp.sin(angles)[None, None]


def _rotate(x, cos, sin):
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate(
      [first * cos - second * sin, second * cos + first * sin],
      axis=-1).astype(x.dtype)


def _heads(model, x_BxLxI):
  b, length, _ = x_BxLxI.shape
  return x_BxLxI.reshape(b, length, -1, model.head_dim).transpose(0, 2, 1, 3)


def _attend(model, q, k, v, sees_LxM):
  """q [B, H, L, Dh] over k and v [B, K, M, Dh]."""
  b, h, length, dh = q.shape
  grouped = (b, k.shape[1], h // k.shape[1] * length, dh)
  scores = jnp.einsum(
      'bkrd,bkmd->bkrm', (q * dh ** -0.5).reshape(grouped), k,
      preferred_element_type=jnp.float32)
  scores = scores.reshape(*scores.shape[:2], -1, length, k.shape[2])
  scores = jnp.where(sees_LxM[None, None, None], scores, -1e30)
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  y = jnp.einsum(
      'bkrm,bkmd->bkrd', weights.reshape(*grouped[:3], k.shape[2]), v)
  return y.reshape(q.shape).transpose(0, 2, 1, 3).reshape(b, length, h * dh)


def _block(model, w, x, angles, sees_LxM, cache=None, slot=None):
  """One layer; returns x and the keys and values that it attended to."""
  y = _norm(model, x, w['norm1'])
  q = _rotate(_heads(model, y @ w['q']), *angles)
  k = _rotate(_heads(model, y @ w['k']), *angles)
  v = _heads(model, y @ w['v'])
  if cache is not None:
    k, v = (
        jax.lax.dynamic_update_slice(old, new, (0, 0, slot, 0))
        for old, new in zip(cache, (k, v)))
  x += _attend(model, q, k, v, sees_LxM) @ w['o']
  y = _norm(model, x, w['norm2'])
  return x + (jax.nn.silu(y @ w['gate']) * (y @ w['up'])) @ w['down'], (k, v)


def _read_out(model, weights, x):
  return jnp.einsum(
      'bld,vd->blv', _norm(model, x, weights['norm']), weights['embedding'],
      preferred_element_type=jnp.float32)


def _cast(model, weights):
  """Matrices in the compute dtype; the scales of norms stay as they are."""
  return jax.tree.map(
      lambda x: x.astype(model.dtype) if x.ndim > 1 else x, weights)


def _trunk(model, weights, tokens_BxL):
  """Output of the last layer, and the keys and values of every layer."""
  length = tokens_BxL.shape[1]
  angles = _angles(model, jnp.arange(length))
  sees_LxL = jnp.tril(jnp.ones((length, length), bool))
  x, caches = weights['embedding'][tokens_BxL], []
  for w in weights['layers']:
    x, cache = _block(model, w, x, angles, sees_LxL)
    caches.append(cache)
  return x, caches


def forward(
    model: model_config.ModelConfig, weights: Weights, tokens_BxL: jax.Array
) -> jax.Array:
  """Logits [B, L, V] float32."""
  weights = _cast(model, weights)
  return _read_out(model, weights, _trunk(model, weights, tokens_BxL)[0])


def loss(
    model: model_config.ModelConfig,
    weights: Weights,
    tokens_BxL: jax.Array,
    targets_BxL: jax.Array,
) -> jax.Array:
  """Mean cross-entropy of the targets, in nats."""
  log_probs_BxLxV = jax.nn.log_softmax(forward(model, weights, tokens_BxL))
  return -jnp.mean(jnp.take_along_axis(
      log_probs_BxLxV, targets_BxL[..., None], axis=-1))


def adamw_init(weights: Weights) -> tuple:
  """(number of updates, first moments, second moments)."""
  zeros = lambda: jax.tree.map(jnp.zeros_like, weights)
  return jnp.zeros((), jnp.int32), zeros(), zeros()


def train_step(
    model: model_config.ModelConfig,
    config: optimizer.OptimizerConfig,
    state: tuple[Weights, tuple],
    tokens_BxL: jax.Array,
    targets_BxL: jax.Array,
) -> tuple[tuple[Weights, tuple], jax.Array]:
  """One AdamW update with clipping; returns the new state and the loss."""
  weights, (count, firsts, seconds) = state
  value, grads = jax.value_and_grad(functools.partial(loss, model))(
      weights, tokens_BxL, targets_BxL)
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
  grads = jax.tree.map(
      lambda g: g * (config.clip_norm / jnp.maximum(norm, config.clip_norm)),
      grads)
  count += 1
  firsts = jax.tree.map(
      lambda m, g: config.b1 * m + (1 - config.b1) * g, firsts, grads)
  seconds = jax.tree.map(
      lambda v, g: config.b2 * v + (1 - config.b2) * g * g, seconds, grads)

  def update(w, m, v):
    step = m / (1 - config.b1 ** count) / (
        jnp.sqrt(v / (1 - config.b2 ** count)) + config.epsilon)
    decay = config.weight_decay * w if w.ndim > 1 else 0.0
    return w - config.learning_rate * (step + decay)

  return (
      jax.tree.map(update, weights, firsts, seconds),
      (count, firsts, seconds)), value


def generate(
    model: model_config.ModelConfig,
    weights: Weights,
    prompts_BxP: jax.Array,
    rng: types.PRNGKey,
    *,
    new_tokens: int,
    temperature: float,
) -> jax.Array:
  """Samples [B, T] int32 after prompts of one length; 0 takes the likeliest."""
  weights = _cast(model, weights)
  b, p = prompts_BxP.shape
  slots = p + new_tokens - 1

  def draw(logits_BxV, step):
    if temperature == 0:
      return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)
    return jax.random.categorical(
        jax.random.fold_in(rng, step), logits_BxV / temperature)

  def body(step, carry):
    last_B, caches, out_BxT = carry
    slot = p + step - 1
    angles = _angles(model, slot[None])
    sees_1xM = jnp.arange(slots)[None] <= slot
    x, new = weights['embedding'][last_B[:, None]], []
    for w, cache in zip(weights['layers'], caches):
      x, cache = _block(model, w, x, angles, sees_1xM, cache, slot)
      new.append(cache)
    last_B = draw(_read_out(model, weights, x)[:, 0], step)
    return last_B, new, out_BxT.at[:, step].set(last_B)

  x, caches = _trunk(model, weights, prompts_BxP)
  widen = lambda x: jnp.pad(x, [(0, 0), (0, 0), (0, slots - p), (0, 0)])
  first_B = draw(_read_out(model, weights, x[:, -1:])[:, 0], 0)
  out_BxT = jnp.zeros((b, new_tokens), jnp.int32).at[:, 0].set(first_B)
  return jax.lax.fori_loop(
      1, new_tokens, body, (first_B, jax.tree.map(widen, caches), out_BxT))[2]
