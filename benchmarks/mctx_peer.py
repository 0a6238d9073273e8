# SPDX-License-Identifier: Apache-2.0
"""The searches of benchmarks/search.py with mctx, in this process.

mctx makes one child per simulation and keeps what a node needs in the tree: a
language model's whole cache, prompt and path. It is copied out of the tree and
into it once per simulation. What a model computes is the same code as in ours:
the T tokens of a step read the cache as a shared one, beside T slots of their
own that are put into it when the step has ended.
"""

from collections.abc import Callable
import functools

from flax import struct
import jax
import jax.numpy as jnp
import mctx
import numpy as np

from benchmarks import search_workloads as workloads
from meta_cot import decode
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.types import Params

POLICIES = {
    'muzero': mctx.muzero_policy,
    'gumbel': mctx.gumbel_muzero_policy,
}


@struct.dataclass
class Text:
  """An embedding: the whole cache of a text of up to M tokens."""

  keys: tuple[jax.Array, ...]  # per layer [B, K, M, Dh]
  values: tuple[jax.Array, ...]  # per layer [B, K, M, Dh]
  tokens: jax.Array  # [B, T] int32, of the last step
  hidden: jax.Array  # [B, model width], at the last token
  length: jax.Array  # [B] int32
  key: jax.Array  # [B, 2] uint32, of the draws of its children


def start(
    model: model_config.ModelConfig, size: workloads.Searching,
    params: Params, prompts_BxP: jax.Array,
) -> mctx.RootFnOutput:
  """Reads the prompts."""
  shape = prompts_BxP.shape
  hidden_BxPxD, cache = transformer.decode_hidden(
      model, params, prompts_BxP, cache_lib.create(model, *shape),
      positions_BxL=jnp.broadcast_to(jnp.arange(shape[1])[None], shape),
      is_prefill=True)
  cache = cache_lib.grow(cache, size.prompt + size.text)
  ids_B = jnp.arange(shape[0])
  keys_B = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), ids_B)
  text = Text(
      keys=cache.keys, values=cache.values,
      tokens=jnp.zeros((shape[0], size.step_length), jnp.int32),
      hidden=hidden_BxPxD[:, -1],
      length=jnp.full(shape[0], shape[1], jnp.int32),
      key=jax.random.key_data(keys_B))
  return mctx.RootFnOutput(
      prior_logits=jnp.zeros((shape[0], size.branching)),
      value=_values(model, params, text), embedding=text)


def step(
    model: model_config.ModelConfig, size: workloads.Searching,
    params: Params, rng: jax.Array, action_B: jax.Array, text: Text,
) -> tuple[mctx.RecurrentFnOutput, Text]:
  """One more step: action a is the a-th that is sampled below a text."""
  del rng  # a child is the same whenever it is asked for
  fold = jax.vmap(jax.random.fold_in)
  keys_B = fold(jax.random.wrap_key_data(text.key), action_B)
  batch_size, num_slots = action_B.shape[0], text.keys[0].shape[2]
  slots_BxM = jnp.broadcast_to(
      jnp.arange(num_slots, dtype=jnp.int32)[None], (batch_size, num_slots))
  before = cache_lib.Cache(
      keys=text.keys, values=text.values, positions=slots_BxM,
      is_valid=slots_BxM < text.length[:, None],
      length=jnp.asarray(num_slots, jnp.int32))

  def write(i, carry):
    tokens_BxT, hidden_BxD, own = carry
    logits_BxV = transformer.read_out(
        model, params, hidden_BxD[:, None]).logits[:, 0]
    tokens_B, _ = decode.sample(
        logits_BxV, jax.vmap(jax.random.fold_in, (0, None))(keys_B, i),
        workloads.SAMPLING)
    hidden_Bx1xD, own = transformer.decode_hidden(
        model, params, tokens_B[:, None], own,
        positions_BxL=(text.length + i)[:, None], shared=(before,))
    return tokens_BxT.at[:, i].set(tokens_B), hidden_Bx1xD[:, 0], own

  tokens_BxT, hidden_BxD, own = jax.lax.fori_loop(
      0, size.step_length, write, (
          text.tokens, text.hidden,
          cache_lib.create(model, batch_size, size.step_length)))
  put = jax.vmap(lambda x, new, at: jax.lax.dynamic_update_slice(
      x, new, (0, at, 0)))
  append = lambda x, new: put(x, new, text.length)
  text = Text(
      keys=jax.tree.map(append, text.keys, own.keys),
      values=jax.tree.map(append, text.values, own.values),
      tokens=tokens_BxT, hidden=hidden_BxD,
      length=text.length + size.step_length,
      key=jax.random.key_data(keys_B))
  return mctx.RecurrentFnOutput(
      reward=jnp.zeros(batch_size), discount=jnp.ones(batch_size),
      prior_logits=jnp.zeros((batch_size, size.branching)),
      value=_values(model, params, text)), text


def _values(model, params, text: Text) -> jax.Array:
  return transformer.read_out(
      model, params, text.hidden[:, None]).values[:, 0]


@functools.partial(jax.jit, static_argnames=('model', 'size', 'policy'))
def search(
    model: model_config.ModelConfig, size: workloads.Searching, policy: str,
    params: Params, prompts_BxP: jax.Array, rng: jax.Array,
) -> mctx.Tree:
  """Whole searches, prompts included; the trees without their embeddings."""
  params = transformer.slice_layers(model, params)
  output = POLICIES[policy](
      params, rng, start(model, size, params, prompts_BxP),
      functools.partial(step, model, size), size.expansions,
      max_depth=size.max_depth)
  return output.search_tree.replace(embeddings=None)


def searching(
    model: model_config.ModelConfig, size: workloads.Searching, policy: str
) -> Callable[[], mctx.Tree]:
  """A call searches B problems and returns the trees, on the host."""
  arguments = search_arguments(model, size, policy)
  return lambda: jax.device_get(search(*arguments))


def search_arguments(
    model: model_config.ModelConfig, size: workloads.Searching, policy: str
) -> tuple:
  """What `search` takes. `model.execution.layer_loop` must be 'unroll'."""
  return (
      model, size, policy, workloads.params(model),
      jnp.asarray(workloads.prompts(model, size)), jax.random.key(1))


def num_children(tree: mctx.Tree) -> int:
  """Nodes of all trees but the roots.

  Fewer than simulations where one ends at a node that is there already, at the
  greatest depth: mctx then makes it anew in the same place.
  """
  return int(np.sum(np.asarray(tree.node_visits) > 0)) - len(tree.node_visits)


def mlp_searching(
    mlp: workloads.Mlp, policy: str, *, simulations: int, max_depth: int,
    problems: int,
) -> Callable[[], mctx.Tree]:
  """A call searches B problems; what it found stays on the device."""
  weights = mlp.params()

  def outputs(params, state_BxH):
    return dict(
        prior_logits=state_BxH @ params['policy'],
        value=mlp.value(params, state_BxH))

  def recurrent(params, rng, action_B, state_BxH):
    del rng
    child_BxH = mlp.child(params, state_BxH, action_B)
    return mctx.RecurrentFnOutput(
        reward=jnp.zeros(problems), discount=jnp.ones(problems),
        **outputs(params, child_BxH)), child_BxH

  @jax.jit
  def run(params, state_BxH, rng):
    root = mctx.RootFnOutput(
        embedding=state_BxH, **outputs(params, state_BxH))
    return POLICIES[policy](
        params, rng, root, recurrent, simulations,
        max_depth=max_depth).search_tree

  state_BxH = workloads.mlp_roots(mlp, problems)
  return lambda: jax.block_until_ready(
      run(weights, state_BxH, jax.random.key(1)))
