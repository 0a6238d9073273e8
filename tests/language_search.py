# SPDX-License-Identifier: Apache-2.0
"""Searches of small random language models, for tests."""

import functools

from flax.linen import meta
import jax
import jax.numpy as jnp
import numpy as np

from configs import models
from meta_cot import decode
from meta_cot import reasoning
from meta_cot import search
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.settings import config as config_lib

VOCAB, NUM_PROMPT = 16, 6
EOS, PAD, DELIMITERS, LENGTH = 3, 0, (5, 6), 4
TEMPERATURE = 0.8
_SMALL = models.get('tiny') | dict(
    vocab_size=VOCAB, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2,
    head_dim=8, mlp_dim=24, max_length=64, embed_scale=False)
_VARIANTS = {
    'llama': {},
    'gemma': {
        'block.activation': 'gelu_tanh', 'block.norm_plus_one': True,
        'block.use_post_norms': True, 'block.use_qk_norm': True,
        'block.query_scale': 0.3, 'block.attention_softcap': 5.0,
        'logit_softcap': 3.0, 'block.sliding_window': 3,
        'block.sliding_window_pattern': 2, 'rope.local_theta': 100.0,
        'embed_scale': True},
    'qwen': {
        'block.use_qkv_bias': True, 'block.use_qk_norm': True,
        'tie_embeddings': False},
}
BEST_FIRST = functools.partial(
    search.best_first, num_expansions=6, max_depth=4, num_leaves=2)
BEAM = functools.partial(search.beam, beam_width=3, max_depth=3)
_MCTS = functools.partial(search.mcts, num_simulations=8, max_depth=4)
STRATEGIES = {
    'beam': BEAM,
    'dvts': functools.partial(search.dvts, num_subtrees=2, max_depth=3),
    'breadth_first': functools.partial(
        search.breadth_first, breadth_limit=3, max_depth=3),
    'best_first': BEST_FIRST,
    'depth_first': functools.partial(
        search.depth_first, num_expansions=6, max_depth=4),
    'uct': functools.partial(_MCTS, rule='uct'),
    'uct_paper': functools.partial(_MCTS, rule='uct_paper'),
    'puct': functools.partial(_MCTS, rule='puct', num_leaves=3),
    'gumbel': functools.partial(_MCTS, rule='gumbel', num_leaves=2),
}


@functools.cache
def make_model(variant='llama', loop='unroll'):
  """A config, and parameters that are random everywhere."""
  config = config_lib.parse(
      model_config.ModelConfig,
      _SMALL | _VARIANTS[variant] | {'execution.layer_loop': loop})
  shapes = meta.unbox(jax.eval_shape(
      lambda rng: transformer.init(config, rng), jax.random.key(0)))
  noise = np.random.default_rng(0)
  return config, jax.tree.map(
      lambda x: jnp.asarray(0.3 * noise.standard_normal(x.shape), x.dtype),
      shapes)


def make_prompts(batch_size):
  """Tokens [B, P] and lengths [B]."""
  random = np.random.default_rng(1)
  tokens_BxP = random.integers(0, VOCAB, (batch_size, NUM_PROMPT))
  return (jnp.asarray(tokens_BxP, jnp.int32), jnp.asarray(
      random.integers(1, NUM_PROMPT + 1, batch_size), jnp.int32))


def nothing_is_right(problem, tokens_M, length):
  del problem, tokens_M, length
  return jnp.zeros(())


def make_step(config, **changes):
  settings = dict(
      branching=3, step_length=LENGTH, delimiter_ids=DELIMITERS, eos_ids=(EOS,),
      pad_id=PAD, sampling=decode.Sampling(TEMPERATURE),
      outcome=nothing_is_right)
  return reasoning.LanguageStep(config, **settings | changes)


@functools.partial(
    jax.jit, static_argnums=(0, 1), static_argnames='merge_steps')
def run(step, strategy, params, prompts_BxP, lengths_B, ids_B, problems=None,
        is_terminal_B=None, merge_steps=False):
  """A search, from the prompts to its output."""
  given, root = reasoning.start(
      step.config, params, prompts_BxP, lengths_B, value=step.value,
      step_length=step.step_length, problems=problems, problem_ids_B=ids_B)
  if is_terminal_B is not None:
    root = root.replace(is_terminal=is_terminal_B)
  return strategy(
      given, jax.random.key(7), root, step, branching=step.branching,
      merge_steps=merge_steps)


@functools.cache
def searched(variant='llama', loop='unroll', strategy=BEST_FIRST,
             batch_size=3):
  """The output of a search of `make_prompts(batch_size)`."""
  config, params = make_model(variant, loop)
  return run(
      make_step(config), strategy, params, *make_prompts(batch_size),
      jnp.arange(batch_size))


def full_texts(output, prompts_BxP, lengths_B):
  """{(problem, node): (tokens before the step, tokens of the step)}."""
  tree = output.tree
  nodes_BxN = jnp.broadcast_to(
      jnp.arange(tree.shape[1], dtype=jnp.int32)[None], tree.shape)
  tokens, lengths = jax.device_get(reasoning.texts(
      tree, nodes_BxN, num_path=int(tree.depths.max()) + 1, pad_id=PAD))
  tree, prompts_BxP, lengths_B = jax.device_get((tree, prompts_BxP, lengths_B))
  texts = {}
  for b, n in zip(*np.nonzero(tree.is_valid)):
    prompt = prompts_BxP[b, :lengths_B[b]]
    text = np.concatenate([prompt, tokens[b, n, :lengths[b, n]]])
    assert (tokens[b, n, lengths[b, n]:] == PAD).all()
    num_own = int(tree.embeddings.page.length[b, n])
    cut = len(text) - num_own
    np.testing.assert_array_equal(
        text[cut:], tree.embeddings.tokens[b, n, :num_own])
    texts[b, n] = text[:cut], text[cut:]
  return texts


@functools.partial(jax.jit, static_argnums=0)
def _forward(config, params, rows_RxL):
  """Values, and the log-prob of every token but the first."""
  plain = transformer.forward(config, params, rows_RxL)
  log_probs = jax.nn.log_softmax(plain.logits / TEMPERATURE, axis=-1)
  return plain.values, jnp.take_along_axis(
      log_probs[:, :-1], rows_RxL[:, 1:, None], axis=2)[..., 0]


def check_faithful(config, params, output, prompts_BxP, lengths_B):
  """Log-probs and values of all nodes against one forward pass over texts.

  Returns:
    The number of nodes.
  """
  texts = full_texts(output, prompts_BxP, lengths_B)
  num_rows = -(-len(texts) // 128) * 128
  rows_RxL = np.zeros((num_rows, NUM_PROMPT + 4 * LENGTH), np.int32)
  for row, (before, own) in enumerate(texts.values()):
    text = np.concatenate([before, own])
    rows_RxL[row, :len(text)] = text
  values_RxL, log_probs_RxL = jax.device_get(_forward(config, params, rows_RxL))
  starts_R = np.array([len(before) for before, _ in texts.values()])
  ends_R = starts_R + [len(own) for _, own in texts.values()]
  at_L = np.arange(1, rows_RxL.shape[1])
  is_own_RxL = (at_L >= starts_R[:, None]) & (at_L < ends_R[:, None])
  at_R = tuple(np.array(list(texts)).T)
  used = slice(len(texts))
  np.testing.assert_allclose(
      np.asarray(output.tree.values)[at_R],
      values_RxL[np.arange(len(texts)), ends_R - 1], atol=1e-4)
  np.testing.assert_allclose(
      np.asarray(output.tree.log_probs)[at_R],
      np.sum(log_probs_RxL[used], axis=1, where=is_own_RxL), atol=1e-4)
  return len(texts)


def same_trees(one, two, atol=1e-5):
  """Equal structure and tokens; values up to `atol`."""
  for name in ('parents', 'depths', 'is_valid', 'is_terminal',
               'expansion_order', 'visit_counts', 'num_nodes', 'num_tokens'):
    np.testing.assert_array_equal(
        getattr(one, name), getattr(two, name), err_msg=name)
  np.testing.assert_array_equal(one.embeddings.tokens, two.embeddings.tokens)
  np.testing.assert_array_equal(
      one.embeddings.page.length, two.embeddings.page.length)
  for name in ('values', 'rewards', 'log_probs', 'q_values'):
    np.testing.assert_allclose(
        getattr(one, name), getattr(two, name), 0.0, atol, err_msg=name)
