# SPDX-License-Identifier: Apache-2.0
"""Where searches start: the prompts, read once and shared by all nodes."""

import functools
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import pages
from meta_cot.model import transformer
from meta_cot.reasoning import node as node_lib
from meta_cot.search import base
from meta_cot.search import batching
from meta_cot.search import tree as tree_lib
from meta_cot.types import Params


@struct.dataclass
class Prompts:
  """What the nodes of a problem share."""

  cache: cache_lib.Cache  # B rows
  problems: Any  # pytree [B, ...] for the functions of texts, or None


def start(
    config: model_config.ModelConfig,
    params: Params,
    prompts_BxP: jax.Array,
    prompt_lengths_B: jax.Array,
    *,
    step_length: int,
    problems: Any = None,
    problem_ids_B: jax.Array | None = None,
    value: node_lib.OfText | None = None,
) -> tuple[tuple[Params, Prompts], base.Root]:
  """Reads the prompts.

  Pure; jit it with `config`, `step_length` and `value` static.

  Args:
    config: of the model.
    params: unboxed, or as `transformer.slice_layers` returns them.
    prompts_BxP: int32, padded on the right with anything.
    prompt_lengths_B: int32, at least 1.
    step_length: T, as in `LanguageStep`.
    problems: pytree [B, ...], rows of which the functions of texts are given.
    problem_ids_B: int32, see `Root.problem_id`.
    value: as in `LanguageStep`; here of an empty text.

  Returns:
    What the search is to give the step function as its `params`, and the roots.
    The parameters in it are those of `transformer.slice_layers`.

  Raises:
    ValueError: there is no room for a step behind P tokens, or nothing to take
      values from.
  """
  check_value(config, value)
  batch_size, num_prompt = prompts_BxP.shape
  check_room(config, num_prompt, step_length, f'step_length = {step_length}')
  params = transformer.slice_layers(config, params)
  prompt_lengths_B = prompt_lengths_B.astype(jnp.int32)
  hidden_BxD, cache = decode.read_prompts(
      config, params, prompts_BxP, prompt_lengths_B)
  tokens_BxT = jnp.zeros((batch_size, step_length), jnp.int32)
  if value is None:
    value_B = transformer.read_out(
        config, params, hidden_BxD[:, None]).values[:, 0]
  else:
    value_B = jax.vmap(value)(
        problems, tokens_BxT, jnp.zeros(batch_size, jnp.int32))
  node = node_lib.Node(
      tokens=tokens_BxT, hidden=hidden_BxD, score=jnp.zeros(batch_size),
      page=pages.empty(config, step_length, prompt_lengths_B))
  root = base.Root(
      embedding=node, value=value_B.astype(jnp.float32),
      is_terminal=jnp.zeros(batch_size, bool), problem_id=problem_ids_B)
  prompts = Prompts(cache=cache_lib.turn(cache), problems=problems)
  return (params, prompts), root


def select_rows(is_new_B: jax.Array, new: Any, old: Any) -> Any:
  """Rows of `new` where `is_new_B` [B] bool, else of `old`; of equal shapes.

  Both are `Prompts`, or trees with some in them.
  """
  rows = functools.partial(tree_lib.select_rows, is_new_B)
  is_new_Bx1x1x1 = is_new_B[:, None, None, None]  # layers may stand before B
  heads = lambda new, old: jax.tree.map(
      lambda x, y: jnp.where(is_new_Bx1x1x1, x, y), new, old)

  def select(new, old):
    if not isinstance(new, Prompts):
      return rows(new, old)
    cache = old.cache.replace(
        keys=heads(new.cache.keys, old.cache.keys),
        values=heads(new.cache.values, old.cache.values),
        positions=rows(new.cache.positions, old.cache.positions),
        is_valid=rows(new.cache.is_valid, old.cache.is_valid))
    return Prompts(cache=cache, problems=rows(new.problems, old.problems))

  return jax.tree.map(
      select, new, old, is_leaf=lambda x: isinstance(x, Prompts))


def axes(tree: Any) -> Any:
  """As `batching.problem_axes`, of `Prompts` or what has `Node`s in it.

  Keys and values are split by their heads too, as the model makes them.
  """
  return jax.tree.map(
      _axes, tree,
      is_leaf=lambda x: isinstance(x, (cache_lib.Cache, pages.Page)))


def _axes(x):
  if isinstance(x, cache_lib.Cache):  # [(layers,) B, K, M, Dh]
    of_heads = lambda x: (*[None] * (x.ndim - 4), *cache_lib.AXES)
  elif isinstance(x, pages.Page):  # [B, ..., (layers,) K, T * Dh]
    of_heads = lambda x: (
        'act_batch', *[None] * (x.ndim - 3), 'act_kv_heads', None)
  else:
    return batching.problem_axes(x)
  rest = batching.problem_axes(x.replace(keys=None, values=None))
  return rest.replace(
      keys=jax.tree.map(of_heads, x.keys),
      values=jax.tree.map(of_heads, x.values))


def check_value(
    config: model_config.ModelConfig, value: node_lib.OfText | None
) -> None:
  """Raises a ValueError where there is nothing to take values from."""
  if value is None and config.value_head == 'none':
    raise ValueError(
        'value: got None; the model has no value head: set '
        "config.model.value_head to 'shared', or give a function.")


def check_room(
    config: model_config.ModelConfig, num_prompt: int, num_new: int, words: str
) -> None:
  """Raises a ValueError where a model has too few positions."""
  if num_prompt + num_new > config.max_length:
    raise ValueError(
        f'{words} tokens after prompts of {num_prompt}: together they must be '
        f'at most config.model.max_length, {config.max_length}.')
