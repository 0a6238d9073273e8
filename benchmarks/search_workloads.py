# SPDX-License-Identifier: Apache-2.0
"""What benchmarks/search.py runs: searches of this project, and plain sampling.

No token ends a text here, so that every step has all its tokens and a search
the size that its settings say.
"""

from collections.abc import Callable
import dataclasses
import functools

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models
from meta_cot import decode
from meta_cot import reasoning
from meta_cot.model import config as model_config
from meta_cot.search import base
from meta_cot.search import batching
from meta_cot.search import engine
from meta_cot.search import tree as tree_lib
from meta_cot.search.beam import Beam
from meta_cot.search.frontier import BestFirst
from meta_cot.search.mcts import Mcts
from meta_cot.types import Params

SAMPLING = decode.Sampling(temperature=1.0)
STRATEGIES = ('beam', 'best_first', 'puct', 'uct', 'gumbel')


@dataclasses.dataclass(frozen=True)
class Searching:
  """Size of one call: B searches."""

  problems: int = 32  # B
  prompt: int = 32
  branching: int = 4  # A
  step_length: int = 16  # T
  max_depth: int = 8
  beam_width: int = 4  # W; W * A texts per level
  expansions: int = 32  # of best-first; the simulations of MCTS

  @property
  def text(self) -> int:
    """New tokens of the longest text."""
    return self.max_depth * self.step_length


@struct.dataclass
class Found:
  """What is kept of the searches."""

  output: engine.SearchOutput  # without embeddings
  tokens: jax.Array  # [B, N, T] int32, of the nodes' steps


def strategy(name: str, size: Searching) -> engine.Strategy:
  """The search of this name, of `STRATEGIES`."""
  tree = dict(branching=size.branching, max_depth=size.max_depth)
  if name == 'beam':
    return Beam(beam_width=size.beam_width, **tree)
  if name == 'best_first':
    return BestFirst(num_expansions=size.expansions, **tree)
  return Mcts(num_simulations=size.expansions, rule=name, **tree)


def params(model: model_config.ModelConfig) -> Params:
  """Random weights; those of the value head too, so that values differ."""
  random = models.init(model, 0)
  kernel = jax.random.normal(jax.random.key(1), (model.embed_dim, 1))
  head = dict(random['value_head'], kernel=kernel * model.embed_dim ** -0.5)
  return dict(random, value_head=head)


def prompts(model: model_config.ModelConfig, size: Searching) -> np.ndarray:
  """[B, P] int32 on the host."""
  return models.prompts(model, models.Decoding(size.problems, size.prompt))


def step_fn(
    model: model_config.ModelConfig, size: Searching,
    sampling: decode.Sampling = SAMPLING,
) -> reasoning.LanguageStep:
  """The language model; nothing ends a step before its last token."""
  return reasoning.LanguageStep(
      model, branching=size.branching, step_length=size.step_length,
      delimiter_ids=(), eos_ids=(), pad_id=0, sampling=sampling)


@functools.partial(jax.jit, static_argnames=('step', 'rule'))
def search(
    step: reasoning.LanguageStep, rule: engine.Strategy, params: Params,
    prompts_BxP: jax.Array, lengths_B: jax.Array, rng: jax.Array,
) -> Found:
  """Whole searches, prompts included."""
  given, root = reasoning.start(
      step.config, params, prompts_BxP, lengths_B,
      step_length=step.step_length)
  state = engine.advance(
      rule, given, rng, engine.start(rule, root), step,
      num_steps=rule.max_steps)
  return Found(
      batching.without_embeddings(state), state.tree.embeddings.tokens)


def searching(
    model: model_config.ModelConfig, size: Searching, name: str
) -> Callable[[], Found]:
  """A call searches B problems and returns what it found, on the host."""
  arguments = search_arguments(model, size, name)
  return lambda: jax.device_get(search(*arguments))


def search_arguments(
    model: model_config.ModelConfig, size: Searching, name: str
) -> tuple:
  """What `search` takes."""
  return (
      step_fn(model, size), strategy(name, size), params(model),
      jnp.asarray(prompts(model, size)),
      jnp.full(size.problems, size.prompt, jnp.int32), jax.random.key(1))


def sampling(
    model: model_config.ModelConfig, size: models.Decoding, calls: int = 1
) -> Callable[[], None]:
  """`decode.generate`, `calls` times one after the other."""
  generate = jax.jit(functools.partial(
      decode.generate, model, max_new_tokens=size.new_tokens,
      sampling=SAMPLING, eos_ids=()))
  weights = params(model)
  prompts_BxP = jnp.asarray(models.prompts(model, size))
  lengths_B = jnp.full(size.rows, size.prompt, jnp.int32)

  def call():
    for i in range(calls):
      jax.device_get(
          generate(weights, prompts_BxP, lengths_B, jax.random.key(i)))

  return call


@dataclasses.dataclass(frozen=True)
class Mlp:
  """A step function of two small layers: what is left is the tree."""

  width: int = 64
  branching: int = 4

  def params(self) -> dict[str, jax.Array]:
    """Random weights."""
    shapes = dict(
        first=(self.width, self.width), actions=(self.branching, self.width),
        second=(self.width, self.width), policy=(self.width, self.branching),
        value=(self.width,))
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: jax.random.normal(key, shape) * self.width ** -0.5
        for key, (name, shape) in zip(keys, shapes.items())}

  def child(
      self, params: dict[str, jax.Array], state: jax.Array, action: jax.Array
  ) -> jax.Array:
    """The states after some actions; leading axes are the caller's."""
    hidden = jnp.tanh(state @ params['first'] + params['actions'][action])
    return jnp.tanh(hidden @ params['second'])

  def value(self, params: dict[str, jax.Array], state: jax.Array) -> jax.Array:
    """Of states."""
    return jax.nn.sigmoid(state @ params['value'])

  def __call__(
      self, params: dict[str, jax.Array], rng: jax.Array, path: base.Path
  ) -> base.Expansion:
    """See `search.base.StepFn`."""
    del rng
    leaf_RxH = jax.vmap(lambda x, i: x[i])(
        path.embeddings, jnp.maximum(path.length - 1, 0))
    shape = len(leaf_RxH), self.branching
    actions_RxA = jnp.broadcast_to(jnp.arange(self.branching)[None], shape)
    leaf_RxAxH = jnp.broadcast_to(leaf_RxH[:, None], (*shape, self.width))
    child_RxAxH = self.child(params, leaf_RxAxH, actions_RxA)
    value_RxA = self.value(params, child_RxAxH)
    return base.Expansion(
        embedding=child_RxAxH,
        log_prob=jax.nn.log_softmax(leaf_RxH @ params['policy']),
        value=value_RxA, reward=value_RxA,
        is_terminal=jnp.zeros(shape, bool), is_valid=jnp.ones(shape, bool))


def mlp_searching(
    mlp: Mlp, rule: engine.Strategy, problems: int
) -> Callable[[], engine.SearchOutput]:
  """A call searches B problems; what it found stays on the device."""
  weights = mlp.params()
  state_BxH = mlp_roots(mlp, problems)
  root = base.Root(
      embedding=state_BxH, value=mlp.value(weights, state_BxH),
      is_terminal=jnp.zeros(problems, bool))
  return lambda: jax.block_until_ready(
      engine.run(rule, weights, jax.random.key(1), root, mlp))


def mlp_roots(mlp: Mlp, problems: int) -> jax.Array:
  """States to begin with, [B, H]."""
  return jax.random.normal(jax.random.key(2), (problems, mlp.width))


def num_children(tree: tree_lib.SearchTree) -> int:
  """Nodes of all trees but the roots, those merged away included."""
  return int(np.sum(tree.num_nodes)) - tree.shape[0]
