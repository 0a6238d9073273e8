# SPDX-License-Identifier: Apache-2.0
"""What models say of whole texts, in fixed-size device batches.

A text is a question and what was written behind it. One forward pass reads the
value, or the probability of the token, at every token of it, and so at all of
its states: that of a state stands at its last token, where training has it too.
With several processes all of them pass the same texts.

Axes: B texts, L tokens of a text.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import program
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import player
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib
from meta_cot.types import Params

LIKELIHOOD = 'likelihood'  # the name of a policy's own probabilities as values

# From values at the ends of steps, at least one, to that of the whole text.
READINGS: Mapping[str, Callable[[np.ndarray], float]] = types.MappingProxyType({
    'last': lambda values: float(values[-1]),
    'min': lambda values: float(np.min(values)),
    'product': lambda values: math.prod(values.tolist()),
})


@dataclasses.dataclass(frozen=True, eq=False)
class Judge(base.Policy):
  """A policy that judges, with its value head or in words."""

  words: Mapping[str, Any] | None = None  # of `verdicts.Reader`


def values(
    model: model_config.ModelConfig, params: Params, tokens_BxL: jax.Array
) -> jax.Array:
  """Reads the value head behind every token: [B, L] float32 in (0, 1)."""
  return transformer.forward(model, params, tokens_BxL).values


def log_probs(
    model: model_config.ModelConfig, params: Params, tokens_BxL: jax.Array
) -> jax.Array:
  """Reads what every token is given those before it, at temperature 1.

  Returns:
    [B, L] float32 log-probabilities; 0 at the first token.
  """
  logits_BxLxV = transformer.forward(model, params, tokens_BxL).logits
  given_BxL = jnp.take_along_axis(
      jax.nn.log_softmax(logits_BxLxV[:, :-1], axis=-1),
      tokens_BxL[:, 1:, None], axis=-1)[..., 0]
  return jnp.pad(given_BxL, ((0, 0), (1, 0)))


@functools.cache
def jit_read(
    of: Callable[..., jax.Array], model: model_config.ModelConfig,
    mesh: jax.sharding.Mesh,
) -> Callable[[Params, jax.Array], jax.Array]:
  """Jits `values` or `log_probs` for a mesh; every device gets all of it."""
  return jax.jit(
      functools.partial(of, model), out_shardings=sharding.replicated(mesh))


def read(
    of: Callable[..., jax.Array], policy: base.Policy,
    texts: Sequence[Sequence[int]], mesh: jax.sharding.Mesh, *, width: int,
    batch_size: int,
) -> list[np.ndarray]:
  """Reads any number of texts with one program.

  Args:
    of: `values` or `log_probs`.
    policy: whose model reads.
    texts: tokens of each, at least one and at most `width`.
    mesh: devices, over which a batch is split.
    width: L, the same for all calls that are to share the program.
    batch_size: B, rounded up to what the devices can share.

  Returns:
    float32 of every text's own tokens.

  Raises:
    UserError: the model reads no texts as long as `width`.
  """
  if width > policy.model.max_length:
    raise config_lib.UserError(
        f'{policy.label}: texts of {width} tokens are to be read; its '
        f'model.max_length is {policy.model.max_length}.')
  function = jit_read(of, policy.model, mesh)
  size, found = sharding.up_to_parts(batch_size, mesh), []
  for start in range(0, len(texts), size):
    rows = texts[start:start + size]
    tokens_BxL, _ = player.padded(
        [*rows, *rows[:1] * (size - len(rows))], width,
        policy.tokenizer.pad_id)
    read_BxL = jax.device_get(function(
        policy.params, sharding.split_batch(tokens_BxL, mesh)))
    found += [x_L[:len(row)] for x_L, row in zip(read_BxL, rows)]
  return found


def program_of(
    name: str, of: Callable[..., jax.Array], model: model_config.ModelConfig,
    mesh: jax.sharding.Mesh, *, width: int, batch_size: int,
) -> program.Program:
  """Describes what `read` compiles."""
  rows = sharding.up_to_parts(batch_size, mesh)
  num_readouts = rows * width if of is log_probs else 0
  return program.Program(
      name, jit_read(of, model, mesh), (
          policy_lib.abstract(model, mesh),
          program.rows((rows, width), jnp.int32, mesh)), {},
      flops.prefill_flops(model, rows, width, num_readouts=num_readouts),
      rows * width)


def check(
    there: Any, style: str, width: int, *, in_words: bool = False) -> None:
  """Raises a ConfigError where a model cannot judge texts of a style.

  Args:
    there: a policy that has `model` and `style`, trained or not.
    style: of the texts.
    width: tokens of the longest, with what is written behind them.
    in_words: it writes what it thinks, and needs no value head.
  """
  judge = there.model
  if judge.value_head == 'none' and not in_words:
    raise config_lib.ConfigError(
        'its model has no value head: config.model.value_head must be '
        "'shared' where it is trained.")
  if there.style != style:
    raise config_lib.ConfigError(
        f'its texts have style {there.style!r}; must have {style!r}, as those '
        'that it judges.')
  if width > judge.max_length:
    raise config_lib.ConfigError(
        f'texts of {width} tokens are to be judged; must be at most its '
        f'model.max_length, {judge.max_length}.')


def reader(
    label: str, there: policy_lib.Policy, mesh: jax.sharding.Mesh,
    fingerprint: str,
) -> Judge:
  """Reads a policy folder whose model is to read texts of another one.

  Raises:
    UserError: it reads other tokens than those of this fingerprint, or nothing
      is saved in it.
  """
  if there.fingerprint != fingerprint:
    raise config_lib.UserError(
        f'{label}: its tokenizer is {there.fingerprint[:12]}; it cannot read '
        f'texts in the tokens of {fingerprint[:12]}.')
  return Judge(
      label, there.model, there.params(mesh), there.tokenizer(), there.style,
      step=there.steps()[-1], words=there.about.get('verdict'))
