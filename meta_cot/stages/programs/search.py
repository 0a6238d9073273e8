# SPDX-License-Identifier: Apache-2.0
"""The programs of the stage `search`, as its `Searcher` runs them.

  search_params              the weights as searches want them
  search_start               reads the prompts of all slots
  search_STRATEGY            one chunk of the search
  search_STRATEGY_fresh      trees that have not begun
  search_STRATEGY_refill     new problems in the slots of finished ones
  search_STRATEGY_collect    what is kept of finished ones

No tokenizer exists yet: its ids and texts are constants of the programs, for
which others of the same shape stand in.
"""

from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import program as program_lib
from meta_cot import tasks
from meta_cot import traces
from meta_cot.program import Program
from meta_cot.search import batching
from meta_cot.solvers import searching
from meta_cot.solvers import vocabulary
from meta_cot.stages import evaluate
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages.programs import shared
from meta_cot.stages.programs import stand_in
from meta_cot.training import flops as flops_lib

NEEDS = (
    "'search' in config.stages and the strategy in config.search.strategies, "
    'see configs/search.py')
_PREFIX = 'search_'
_SHARED = ('params', 'start')  # by all strategies
_PARTS = {'': 'advance', '_fresh': 'fresh', '_refill': 'refill',
          '_collect': 'collect'}
_PAD_ID, _EOS_ID, _DELIMITER_ID = 0, 2, 3


def names(experiment: experiment_lib.Experiment) -> tuple[str, ...]:
  """All of the experiment; none where it has no stage `search`.

  Raises:
    ConfigError: the stage cannot run with these settings.
  """
  if 'search' not in experiment.stages:
    return ()
  evaluate.check_search(experiment)
  return _names(experiment.search.strategies)


def is_known(name: str) -> bool:
  """Whether some experiment has a search program of this name."""
  return name in _names(tuple(searching.STRATEGIES))


def _names(strategies: tuple[str, ...]) -> tuple[str, ...]:
  return (
      *(_PREFIX + name for name in _SHARED),
      *(_PREFIX + strategy + part for strategy in strategies
        for part in _PARTS))


def build(
    experiment: experiment_lib.Experiment, mesh: jax.sharding.Mesh, name: str
) -> Program:
  """The program `name` of `names`; call it and `lower` under `use_mesh`.

  Raises:
    ConfigError: the settings allow no search.
  """
  sliced = searching.slice_layers
  params = shared.params(experiment, mesh)
  if name == 'search_params':
    return Program(
        name, sliced, (experiment.model, params), {}, 0.0, 0)
  strategy, part = _find(experiment.search.strategies, name)
  task = tasks.make(experiment.task.kind)
  depth = experiment.search.depth(task, experiment_lib.first_problems(
      experiment.task, experiment.seed))
  width = _prompt_width(experiment)
  searching.check_room(experiment.model, experiment.search, width, depth)
  slots = searching.make_slots(
      task, experiment.model, experiment.search, _vocabulary(experiment), mesh,
      searching.make_strategy(experiment.search, strategy, depth))
  rng = program_lib.placed(
      jax.eval_shape(lambda: jax.random.key(0)), mesh)
  made = slots.programs(
      _sliced(experiment, params), rng,
      _inputs(experiment, task, mesh, slots.num_slots, width), mesh)[part]
  model_flops, tokens = _work(experiment, slots, part, width)
  return Program(
      name, made.jitted, made.arguments, {}, model_flops, tokens)


def _find(strategies, name: str) -> tuple[str, str]:
  """A strategy that has the program, and its name in `Slots.programs`."""
  name = name.removeprefix(_PREFIX)
  if name in _SHARED:
    return strategies[0], name
  return next(
      (strategy, part) for strategy in strategies
      for end, part in _PARTS.items() if name == strategy + end)


def _sliced(experiment, params) -> Any:
  """Shapes of the parameters behind `search_params`, where it leaves them."""
  lowered = searching.slice_layers.lower(experiment.model, params)
  return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(
          x.shape, x.dtype, sharding=sharding),
      lowered.out_info, lowered.compile().output_shardings)


def _inputs(experiment, task, mesh, num_slots: int, width: int) -> dict:
  ints = lambda *shape: program_lib.rows(
      (num_slots, *shape), jnp.int32, mesh)
  (judged,) = searching.judge_inputs(
      task, experiment.search, [stand_in.problem(experiment)],
      experiment.data.style)
  return dict(
      prompt=ints(width), length=ints(), problem={
          name: program_lib.rows((num_slots, *x.shape), x.dtype, mesh)
          for name, x in judged.items()})


def _prompt_width(experiment) -> int:
  """Slots for the longest prompt."""
  tokenizer = tokenizers.placeholder(experiment.tokenizer)
  prompt = traces.prompt(
      stand_in.problem(experiment), style=experiment.data.style)
  return decode.prompt_width(len(tokenizer.encode(prompt)))


def _vocabulary(experiment) -> vocabulary.Vocabulary:
  return vocabulary.Vocabulary(
      pad_id=_PAD_ID, eos_ids=(_EOS_ID,), delimiter_ids=(_DELIMITER_ID,),
      texts=tuple(str(i) for i in range(experiment.model.vocab_size)))


def _work(
    experiment, slots: batching.Slots, part: str, width: int
) -> tuple[float, int]:
  """FLOPs and tokens of one call at most: full prompts, no step ends early."""
  model, settings = experiment.model, experiment.search
  if part == 'start':
    work = flops_lib.prefill_flops(
        model, slots.num_slots, width, num_readouts=0)
    return work, slots.num_slots * width
  if part != 'advance':
    return 0.0, 0
  strategy = slots.strategy
  children = slots.num_slots * strategy.num_leaves * strategy.branching
  tokens = children * settings.step_length * min(
      slots.chunk_steps, strategy.max_steps)
  length = width + strategy.max_depth * settings.step_length / 2
  return tokens * model.flops_per_token(length), tokens
