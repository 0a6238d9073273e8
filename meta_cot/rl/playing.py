# SPDX-License-Identifier: Apache-2.0
"""Programs that play trajectories, with the shapes they are called with."""

import jax
import jax.numpy as jnp

from meta_cot import program
from meta_cot import types
from meta_cot.model import config as model_config
from meta_cot.rl import exploration
from meta_cot.rollouts import episodes
from meta_cot.rollouts import player
from meta_cot.training import flops


def rollout(
    name: str, model: model_config.ModelConfig, rules: episodes.Episodes,
    mesh: jax.sharding.Mesh, *, params: types.Params, width: int,
    num_questions: int, num_samples: int, num_slots: int,
) -> program.Program:
  """Makes the program of trajectories of one batch of questions.

  `params` are shapes, `width` is that of prompts; see `player.Player`.
  """
  tokens = num_questions * num_samples * rules.num_tokens
  work = flops.prefill_flops(model, num_questions, width, num_readouts=0)
  work += tokens * model.flops_per_token(width + rules.row_length / 2)
  asked, rng = _given(num_questions, width, mesh)
  hidden = () if rules.feedback is None else (jax.tree.map(
      lambda x: program.rows((num_questions, *x.shape), x.dtype, mesh),
      rules.feedback.shapes()),)
  return program.Program(
      name, player.jit_rollout(
          model, rules=rules, num_samples=num_samples, num_slots=num_slots),
      (params, asked.prompts, asked.lengths, asked.ids, rng, *hidden), {}, work,
      tokens)


def explore(
    name: str, search: exploration.Search, mesh: jax.sharding.Mesh, *,
    params: types.Params, width: int, num_questions: int,
) -> program.Program:
  """Makes the program of searches that explore; no step ends early."""
  strategy, length = search.strategy, search.settings.step_length
  tokens = num_questions * (strategy.num_nodes - 1) * length
  work = flops.prefill_flops(
      search.model, num_questions, width, num_readouts=0)
  work += tokens * search.model.flops_per_token(
      width + strategy.max_depth * length / 2)
  return program.Program(
      name, exploration.jit_explore(search, mesh),
      (params, *_given(num_questions, width, mesh)), {}, work, tokens)


def _given(
    num_questions: int, width: int, mesh: jax.sharding.Mesh
) -> tuple[player.Asked, jax.ShapeDtypeStruct]:
  """The questions and the key."""
  ints = lambda *shape: program.rows(shape, jnp.int32, mesh)
  rng = program.placed(jax.eval_shape(lambda: jax.random.key(0)), mesh)
  return player.Asked(
      ints(num_questions, width), ints(num_questions), ints(num_questions)), rng
