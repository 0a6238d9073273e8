# SPDX-License-Identifier: Apache-2.0
"""Attempts that a search writes before the policy's own, in the graph.

One search over reasoning steps for every question, with the policy's
parameters of now. The texts up to its first finished steps stand behind the
question as if the policy had tried them: they are read and never trained.

Axes besides those of `search.base`: Q questions, P tokens of a prompt, J
attempts, M tokens of one, X tokens of a prompt with its attempts.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot import reasoning
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import player
from meta_cot.search import engine
from meta_cot.search import tree as tree_lib
from meta_cot.search import values
from meta_cot.settings import config as config_lib
from meta_cot.solvers import searching
from meta_cot.solvers import strategies
from meta_cot.solvers import valuing
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base
from meta_cot.types import Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Search:
  """A search over a model's steps, and what is kept of it."""

  task: base.Task
  model: model_config.ModelConfig
  settings: strategies.Settings
  strategy: engine.Strategy
  vocabulary: vocabulary_lib.Vocabulary
  num_attempts: int  # J, at most
  reset_ids: tuple[int, ...]  # behind every attempt

  @property
  def num_behind(self) -> int:
    """X - P, tokens of all attempts behind a prompt, at most."""
    return self.num_attempts * (
        self.strategy.max_depth * self.settings.step_length
        + len(self.reset_ids))


def check(
    settings: strategies.Settings, exploration: str,
    model: model_config.ModelConfig,
) -> None:
  """Raises a ConfigError where no search `exploration` may or can explore."""
  if settings.outcome != 'value':
    raise config_lib.ConfigError(
        f'search.outcome: got {settings.outcome!r} with exploration '
        f"{exploration!r}; must be 'value', as no verifier guides an answer to "
        'a new question.')
  if settings.tree.reads_steps:
    raise config_lib.ConfigError(
        f'search.tree: got {settings.tree!r} with exploration {exploration!r}; '
        "step_check must be 'none' and merging not 'states', as nothing is "
        'known of a new question.')
  if settings.value not in ('likelihood', 'head'):
    raise config_lib.ConfigError(
        f'search.value: got {settings.value!r} with exploration '
        f"{exploration!r}; must be 'likelihood' or 'head', of the policy "
        'itself.')
  if settings.value == 'head':
    valuing.check_head(settings.value, model)


@functools.cache  # one program for all objectives and evaluations
def jit_explore(
    search: Search, mesh: jax.sharding.Mesh
) -> Callable[[Params, player.Asked, PRNGKey], player.Asked]:
  """Makes (params, asked, rng) -> asked, jitted for one mesh.

  It puts attempts behind the questions: prompts [Q, X] with their lengths, of
  at most J attempts, the first that the search finished, each with what ends it
  and `reset_ids`; and what all steps of the search cost. The draws follow from
  `rng` and the questions' ids: a question's search is the same alone or in any
  batch. With a mesh, questions are split over the batch axes.
  """
  del mesh

  @jax.jit
  def run(params, asked, rng):
    params = transformer.slice_layers(search.model, params)
    step_fn, start = searching.make_steps(
        search.task, search.model, search.settings, search.vocabulary,
        search.strategy.widest)
    rows, root = start(params, dict(
        prompt=asked.prompts, length=asked.lengths, problem=None))
    rows, root = _split(rows), _split(root.replace(problem_id=asked.ids))
    state = _split(engine.start(search.strategy, root))
    state = _split(engine.advance(
        search.strategy, (params, rows), rng, state, step_fn,
        num_steps=search.strategy.max_steps))
    prompts_QxX, lengths_Q = _join(
        search, asked.prompts, asked.lengths, *_attempts(search, state.tree))
    return _split(asked.replace(
        prompts=prompts_QxX, lengths=lengths_Q,
        num_explored=state.tree.num_tokens))

  return run


def _attempts(
    search: Search, tree: tree_lib.SearchTree
) -> tuple[jax.Array, jax.Array]:
  """Tokens [Q, J, M] and lengths [Q, J] of what was finished first; 0: none."""
  first = lambda is_end_N: jnp.nonzero(
      is_end_N, size=search.num_attempts, fill_value=tree_lib.NONE)[0]
  nodes_QxJ = jax.vmap(first)(tree.is_valid & tree.is_terminal)
  node = values.inner(tree.embeddings)
  num_steps = search.strategy.max_depth
  tokens, lengths_QxJ = reasoning.texts(
      tree.replace(embeddings=node), nodes_QxJ.astype(jnp.int32),
      num_path=num_steps + 1, pad_id=search.vocabulary.pad_id)
  return tokens[..., :num_steps * search.settings.step_length], lengths_QxJ


def _join(
    search: Search, prompts_QxP, lengths_Q, attempts_QxJxM, lengths_QxJ
) -> tuple[jax.Array, jax.Array]:
  """Prompts [Q, X] without holes, and their lengths [Q]."""
  num_questions, num_attempts, num_tokens = attempts_QxJxM.shape
  reset = jnp.asarray(search.reset_ids, jnp.int32)
  shape = num_questions, num_attempts, len(reset)

  def row(of_prompt_QxP, of_attempts_QxJxM, of_resets):
    """What is said of all tokens in one row, [Q, X]."""
    behind = jnp.concatenate(
        [of_attempts_QxJxM, jnp.broadcast_to(of_resets, shape)], axis=2)
    return jnp.concatenate(
        [of_prompt_QxP, behind.reshape(num_questions, -1)], axis=1)

  tokens_QxX = row(prompts_QxP, attempts_QxJxM, reset)
  is_text_QxX = row(
      jnp.arange(prompts_QxP.shape[1])[None] < lengths_Q[:, None],
      jnp.arange(num_tokens)[None, None] < lengths_QxJ[..., None],
      lengths_QxJ[..., None] > 0)
  order_QxX = jnp.argsort(~is_text_QxX, axis=1, stable=True)
  tokens_QxX = jnp.take_along_axis(
      jnp.where(is_text_QxX, tokens_QxX, search.vocabulary.pad_id), order_QxX,
      axis=1)
  return tokens_QxX, jnp.sum(is_text_QxX, axis=1, dtype=jnp.int32)


def _split(tree: Any) -> Any:
  """Laid out by questions, keys and values also by their heads."""
  return jax.tree.map(
      lambda x, axes: sharding.constrain(x, *axes), tree, reasoning.axes(tree))
