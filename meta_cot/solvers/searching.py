# SPDX-License-Identifier: Apache-2.0
"""Searches lists of problems with a language model, in slots.

With several processes all of them pass the same problems and get the same
trees.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import time
import types

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import reasoning
from meta_cot import sharding
from meta_cot import traces
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.problem import Problem
from meta_cot.search import base as search_base
from meta_cot.search import batching
from meta_cot.search import engine
from meta_cot.search import values
from meta_cot.search.beam import Beam
from meta_cot.search.best_first import BestFirst
from meta_cot.search.depth_first import DepthFirst
from meta_cot.search.mcts import Mcts
from meta_cot.settings import config as config_lib
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base
from meta_cot.types import Params, PRNGKey

# Makes the strategy called so, from settings and `branching` and `max_depth`.
STRATEGIES: Mapping[str, Callable[..., engine.Strategy]] = (
    types.MappingProxyType({
        'beam': lambda c, **tree: Beam(beam_width=c.beam_width, **tree),
        'dvts': lambda c, **tree: Beam(
            beam_width=c.beam_width, num_groups=c.beam_width, **tree),
        'breadth_first': lambda c, **tree: Beam(
            beam_width=c.beam_width, stops_at_goal=True, **tree),
        'best_first': lambda c, **tree: BestFirst(
            num_expansions=c.num_expansions, **tree),
        'depth_first': lambda c, **tree: DepthFirst(
            num_expansions=c.num_expansions, **tree),
        'mcts': lambda c, **tree: Mcts(
            num_simulations=c.num_simulations, rule=c.rule,
            exploration=c.exploration, **tree),
    }))


@dataclasses.dataclass(frozen=True)
class SearchConfig:
  """Which searches there are, and what they may cost."""

  arm: str = config_lib.setting(
      choices=('solution_only', 'solution_only_permuted'))
  strategies: tuple[str, ...] = config_lib.setting(
      choices=tuple(STRATEGIES), is_unique=True)
  num_problems: int = config_lib.setting(low=1)
  num_slots: int = config_lib.setting(is_free=True, low=1)
  chunk_steps: int = config_lib.setting(is_free=True, low=1)
  value: str = config_lib.setting(choices=('likelihood', 'head'))
  outcome: str = config_lib.setting(choices=('verifier', 'value'))
  branching: int = config_lib.setting(low=1)
  max_depth: int | None = config_lib.setting(low=1)
  step_length: int = config_lib.setting(low=1)
  max_tokens: int | None = config_lib.setting(low=1)
  beam_width: int = config_lib.setting(low=1)
  num_expansions: int = config_lib.setting(low=1)
  num_simulations: int = config_lib.setting(low=1)
  rule: str = config_lib.setting(
      choices=('uct', 'uct_paper', 'puct', 'gumbel'))
  exploration: float = config_lib.setting(low=0.0)
  temperature: float = config_lib.setting(above=0.0)
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)
  num_samples: int = config_lib.setting(low=1)

  def sampling(self) -> decode.Sampling:
    """How steps are drawn."""
    return decode.Sampling(
        temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

  def depth(self, task: base.Task, problems: Sequence[Problem]) -> int:
    """Levels of a tree: as many as a solution has steps by default.

    Raises:
      ConfigError: it is not set and the task does not say.
    """
    if self.max_depth is not None:
      return self.max_depth
    if task.states is None:
      raise config_lib.ConfigError(
          'config.search.max_depth: got None; this task does not say how many '
          'steps a solution has: set it.')
    return max(map(task.states.max_steps, problems))


@struct.dataclass
class Found:
  """What is kept of a finished search."""

  output: engine.SearchOutput  # without embeddings
  tokens: jax.Array  # [B, N, T] int32, of the nodes' steps
  lengths: jax.Array  # [B, N] int32


@dataclasses.dataclass(frozen=True)
class Run:
  """The searches of one strategy over all problems."""

  finished: tuple[batching.Finished, ...]  # `Found` of a problem, in order
  occupancy: float  # share of slot-steps that worked on a live problem
  seconds: float  # compiling not counted


@functools.partial(jax.jit, static_argnames=('model',))
def slice_layers(model: model_config.ModelConfig, params: Params) -> Params:
  """`transformer.slice_layers`, compiled: the parameters that searches want."""
  return transformer.slice_layers(model, params)


class Searcher:
  """Searches problems; every strategy compiles its programs once."""

  def __init__(
      self, task: base.Task, model: model_config.ModelConfig,
      tokenizer: tokenizers.Tokenizer, mesh: jax.sharding.Mesh,
      settings: SearchConfig,
  ):
    self._task = task
    self._model = model
    self._tokenizer = tokenizer
    self._mesh = mesh
    self._settings = settings
    # Others of the same strategy would be compiled again.
    self._slots = functools.cache(functools.partial(
        make_slots, task, model, settings,
        vocabulary_lib.of(tokenizer, model.vocab_size), mesh))

  def check(self, problems: Sequence[Problem]) -> None:
    """Checks settings and problems; searches nothing.

    Raises:
      ConfigError: settings that allow no search of the problems.
      UserError: two problems whose inputs for the verdict differ in shape.
      ValueError: no problems.
    """
    inputs, depth = self._prepare(problems)
    for name in self._settings.strategies:
      make_strategy(self._settings, name, depth)
    check_room(self._model, self._settings, len(inputs[0]['prompt']), depth)

  def __call__(
      self, name: str, params: Params, problems: Sequence[Problem],
      rng: PRNGKey,
  ) -> Run:
    """Searches all problems with one strategy.

    Args:
      name: a key of `STRATEGIES`.
      params: unboxed.
      problems: problem i draws with its own key, `i` of `rng`.
      rng: of all draws.

    Raises:
      UserError, ValueError: as `check`.
    """
    inputs, depth = self._prepare(problems)
    check_room(self._model, self._settings, len(inputs[0]['prompt']), depth)
    made = self._slots(make_strategy(self._settings, name, depth))
    params = slice_layers(self._model, params)
    queue = [batching.Problem(i, row) for i, row in enumerate(inputs)]
    made.warm_up(params, rng, queue[0])
    usage, start = batching.Usage(), time.perf_counter()
    finished = sorted(
        made.run_all(params, rng, queue, usage=usage),
        key=lambda f: f.problem.id)
    return Run(tuple(finished), usage.occupancy, time.perf_counter() - start)

  def _prepare(self, problems) -> tuple[list[dict], int]:
    """What the search needs of every problem, in equal shapes, and depth."""
    if not problems:
      raise ValueError('problems: got none; must be at least one.')
    judged = judge_inputs(self._task, self._settings, problems)
    encoded = [
        self._tokenizer.encode(traces.prompt(p, style=trees.STYLE))
        for p in problems]
    width = decode.prompt_width(max(map(len, encoded)))
    pad = lambda ids: ids + [self._tokenizer.pad_id] * (width - len(ids))
    inputs = [
        dict(prompt=np.array(pad(ids), np.int32), length=np.int32(len(ids)),
             problem=problem)
        for problem, ids in zip(judged, encoded)]
    return inputs, self._settings.depth(self._task, problems)


def judge_inputs(
    task: base.Task, settings: SearchConfig, problems: Sequence[Problem]
) -> list[dict[str, np.ndarray]]:
  """What the verdict in the graph needs to know of every problem.

  Raises:
    ConfigError: the task has no such verdict, and the settings want it.
    UserError: two problems differ in shape; names them.
  """
  if settings.outcome != 'verifier':
    return [{} for _ in problems]
  if task.in_graph is None:
    raise config_lib.ConfigError(
        "config.search.outcome: got 'verifier'; this task has no verdict in "
        "compiled programs: must be 'value'.")
  inputs = [task.in_graph.inputs(p) for p in problems]
  shapes = [{k: np.shape(v) for k, v in x.items()} for x in inputs]
  for problem, shape in zip(problems, shapes):
    if shape != shapes[0]:
      raise config_lib.UserError(
          f'problems: {problems[0].id} has inputs of shapes {shapes[0]}, '
          f'{problem.id} of {shape}; must be equal.')
  return inputs


def make_strategy(
    settings: SearchConfig, name: str, depth: int) -> engine.Strategy:
  """The strategy `name` of STRATEGIES.

  Raises:
    ConfigError: the settings allow no search.
  """
  try:
    return STRATEGIES[name](
        settings, branching=settings.branching, max_depth=depth,
        max_tokens=settings.max_tokens)
  except ValueError as e:
    raise config_lib.ConfigError(f'config.search: {name}: {e}') from e


def check_room(
    model: model_config.ModelConfig, settings: SearchConfig, num_prompt: int,
    depth: int,
) -> None:
  """Raises a ConfigError where trees are deeper than a model's texts."""
  if num_prompt + depth * settings.step_length > model.max_length:
    raise config_lib.ConfigError(
        f'config.search.step_length: got {settings.step_length}; {depth} '
        f'steps after prompts of {num_prompt} tokens must be at most '
        f'config.model.max_length, {model.max_length}.')


def make_slots(
    task: base.Task, model: model_config.ModelConfig, settings: SearchConfig,
    vocabulary: vocabulary_lib.Vocabulary, mesh: jax.sharding.Mesh,
    strategy: engine.Strategy,
) -> batching.Slots:
  """One strategy over problems.

  A problem's inputs are the NumPy arrays prompt [P] and length [], int32, and
  problem, a dict as of `judge_inputs`.
  """
  step_fn, start = make_steps(task, model, settings, vocabulary)
  return batching.Slots(
      strategy, step_fn, start,
      num_slots=sharding.up_to_parts(settings.num_slots, mesh),
      chunk_steps=settings.chunk_steps, collect=_found,
      select=reasoning.select_rows, axes=reasoning.axes,
      put=lambda inputs: sharding.split_batch(inputs, mesh))


def make_steps(
    task: base.Task, model: model_config.ModelConfig, settings: SearchConfig,
    vocabulary: vocabulary_lib.Vocabulary,
) -> tuple[
    search_base.StepFn,
    Callable[..., tuple[reasoning.Prompts, search_base.Root]]]:
  """A model's steps, valued as the settings say, and where they begin.

  Returns:
    The step function, and (params, inputs) -> (rows, roots), as `slots.Slots`
    has them; a `problem` of None will do where no verifier looks at it.
  """
  is_likelihood = settings.value == 'likelihood'
  is_judged = settings.outcome == 'verifier'
  # The likelihood needs no head; without it there is one less to compute.
  value = _nothing if is_likelihood else None
  step_fn = reasoning.make_step_fn(
      model, branching=settings.branching, step_length=settings.step_length,
      delimiter_ids=vocabulary.delimiter_ids, eos_ids=vocabulary.eos_ids,
      pad_id=vocabulary.pad_id, sampling=settings.sampling(), value=value,
      outcome=task.in_graph.outcome(vocabulary.texts) if is_judged else None)
  if is_likelihood:
    step_fn = values.likelihood(step_fn, is_reward=not is_judged)
  if is_judged:
    step_fn = values.settled(step_fn)

  def start(params, inputs):
    (_, rows), root = reasoning.start(
        model, params, inputs['prompt'], inputs['length'],
        step_length=settings.step_length, problems=inputs['problem'],
        value=value)
    return rows, values.count_root(root) if is_likelihood else root

  return step_fn, start


def _nothing(problem, tokens_M, length) -> jax.Array:
  del problem, tokens_M, length
  return jnp.zeros((), jnp.float32)


def _found(state: engine.State) -> Found:
  node = state.tree.embeddings
  node = node.embedding if isinstance(node, values.Counted) else node
  return Found(
      batching.without_embeddings(state), node.tokens, node.page.length)
