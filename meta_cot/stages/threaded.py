# SPDX-License-Identifier: Apache-2.0
"""Threads in a stage that asks questions, and their program."""

from collections.abc import Callable
import functools
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot import program
from meta_cot import sharding
from meta_cot.rollouts import player
from meta_cot.settings import config as config_lib
from meta_cot.solvers import spawning
from meta_cot.stages import base
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib


def check(settings: Any, there: base.Planned, width: int) -> None:
  """Raises a ConfigError where a policy cannot open threads.

  `width` is that of prompts.
  """
  if spawning.NAME not in settings.solvers:
    return
  rules = spawning.rules(settings.episodes, there.tokenizer, there.style)
  if width + rules.row_length > there.model.max_length:
    raise config_lib.ConfigError(
        f'episodes.threads.window: got {rules.row_length}, or thread_window; '
        f'with prompts of {width} tokens it must be at most '
        f'{there.model.max_length}, the max_length of the policy.')


def builders(
    context: base.Context, settings: Any, there: base.Planned, width: int
) -> dict[str, Callable[[str], program.Program]]:
  """Lists what is compiled; a builder is told the name again."""
  if spawning.NAME not in settings.solvers:
    return {}
  return {spawning.NAME: functools.partial(
      _program, context=context, settings=settings.episodes, there=there,
      width=width)}


def _program(
    name: str, *, context: base.Context, settings: spawning.Settings,
    there: base.Planned, width: int,
) -> program.Program:
  """The trajectories of one call of `spawning.Spawner`; no text ends early."""
  mesh, model = context.mesh, there.model
  up = lambda number: sharding.up_to_parts(number, mesh)
  rules = spawning.rules(settings, there.tokenizer, there.style)
  number, copies = up(settings.num_questions), settings.num_samples
  tokens = number * copies * rules.num_rows * rules.row_length
  ints = lambda *shape: program.rows(shape, jnp.int32, mesh)
  rng = program.placed(jax.eval_shape(lambda: jax.random.key(0)), mesh)
  return program.Program(
      name, player.jit_threads(
          model, rules=rules, num_samples=copies,
          num_slots=min(
              up(settings.num_slots), number * copies * rules.num_rows)),
      (policy_lib.abstract(model, mesh), ints(number, width), ints(number),
       ints(number), rng), {},
      flops.prefill_flops(model, number, width, num_readouts=0)
      + tokens * model.flops_per_token(width + rules.row_length / 2), tokens)
