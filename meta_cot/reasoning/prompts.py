# SPDX-License-Identifier: Apache-2.0
"""Where searches start: the prompts, read once and shared by all nodes."""

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
    step_length: T, as in `make_step_fn`.
    problems: pytree [B, ...], rows of which the functions of texts are given.
    problem_ids_B: int32, see `Root.problem_id`.
    value: as in `make_step_fn`; here of an empty text.

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
      tokens=tokens_BxT, hidden=hidden_BxD,
      page=pages.empty(config, step_length, prompt_lengths_B))
  root = base.Root(
      embedding=node, value=value_B.astype(jnp.float32),
      is_terminal=jnp.zeros(batch_size, bool), problem_id=problem_ids_B)
  prompts = Prompts(cache=cache_lib.turn(cache), problems=problems)
  return (params, prompts), root


def select_rows(is_new_B: jax.Array, new: Prompts, old: Prompts) -> Prompts:
  """Rows of `new` where `is_new_B` [B] bool, else of `old`; of equal shapes."""

  def pick(new, old, axis=0):
    shape = [1] * new.ndim
    shape[axis] = -1
    return jnp.where(is_new_B.reshape(shape), new, old)

  rows = lambda new, old: jax.tree.map(
      lambda x, y: pick(x, y, x.ndim - 4), new, old)
  cache = old.cache.replace(
      keys=rows(new.cache.keys, old.cache.keys),
      values=rows(new.cache.values, old.cache.values),
      positions=pick(new.cache.positions, old.cache.positions),
      is_valid=pick(new.cache.is_valid, old.cache.is_valid))
  return Prompts(
      cache=cache, problems=jax.tree.map(pick, new.problems, old.problems))


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
