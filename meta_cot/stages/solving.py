# SPDX-License-Identifier: Apache-2.0
"""Policies and solvers of a stage that asks questions, and their programs.

The settings of such a stage have the groups `samples`, `search` and `episodes`,
one for each module of solvers, and `exploration`.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import program
from meta_cot import sharding
from meta_cot import traces
from meta_cot.evaluation import bench
from meta_cot.rl import exploration
from meta_cot.rl import playing
from meta_cot.rollouts import episodes
from meta_cot.search import batching
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import revising
from meta_cot.solvers import sampling
from meta_cot.solvers import searching
from meta_cot.solvers import vocabulary
from meta_cot.stages import artifacts
from meta_cot.stages import base
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib

_PLAIN = ('greedy', 'samples')
_EPISODES = 'revisions'
_PARTS = {'': 'advance', '/fresh': 'fresh', '/refill': 'refill',
          '/collect': 'collect'}  # of a search -> in `Slots.programs`
_DELIMITER_ID = 3  # of a placeholder's searches


def check(
    context: base.Context, settings: Any, name: str, reference: str) -> None:
  """Raises a ConfigError where a policy cannot be asked with these settings."""
  there = artifacts.planned(context, reference)
  for solver in settings.solvers:
    if solver in searching.STRATEGIES:
      if settings.search.step == 'solution' and context.task.states is None:
        raise base.wrong(
            name, 'search.step', "got 'solution'; this task has no states, so "
            'its solutions have no steps.')
      try:
        depth = settings.search.depth(context.task, context.first_problems)
        searching.make_strategy(settings.search, solver, depth)
        searching.check_room(
            there.model, settings.search, _width(context, there), depth)
      except config_lib.ConfigError as e:
        raise config_lib.ConfigError(f'config.{name}.{e}') from None
  if _EPISODES in settings.solvers:
    _Asked(context, settings, there).check_episodes(name)


def is_for(name: str, there: policy_lib.Policy) -> bool:
  """Whether a policy is asked in this way: those of RL play their episodes."""
  return name == _EPISODES or 'episodes' not in there.about


def label(there: policy_lib.Policy, reference: str) -> str:
  """Names a policy in rows; runs that differ in their seed have one name."""
  if 'seed' in there.about:
    return reference.rpartition('/')[0]
  return reference


def policy(
    context: base.Context, there: policy_lib.Policy, reference: str, step: int,
    trained_tokens: float | None = None,
) -> solvers_base.Policy:
  """Reads a policy as it was at a step."""
  return solvers_base.Policy(
      label(there, reference), there.model, there.params(context.mesh, step),
      there.tokenizer(), there.style, seed=there.about.get('seed', 0),
      step=step, trained_tokens=trained_tokens)


def procedure(
    context: base.Context, settings: Any, there: policy_lib.Policy, name: str,
    tokens: float | None = None,
) -> bench.Procedure:
  """Makes a solver with the settings of its module, fit for a policy.

  Args:
    context: of the stage.
    settings: of the stage.
    there: the policy.
    name: of the solver.
    tokens: of one of its texts, where that is known.
  """
  task, mesh = context.task, context.mesh
  if name in _PLAIN:
    mine = _samples(settings, there, tokens)
    # How samples are drawn says nothing of greedy texts.
    return bench.make(
        name, mine.greedy() if name == 'greedy' else mine, task, mesh)
  if name != _EPISODES:
    return bench.make(name, settings.search, task, mesh)
  number = min(
      settings.episodes.num_episodes,
      there.about.get('num_episodes', settings.episodes.num_episodes))
  mine = dataclasses.replace(settings.episodes, num_episodes=number)
  if number == 1 or settings.exploration == 'policy':
    return bench.make(name, mine, task, mesh)
  explore = _explore(context, settings, there, number)
  alone = dataclasses.replace(mine, num_episodes=1)
  return bench.Procedure(
      dict(dataclasses.asdict(mine), exploration=settings.exploration,
           search=dataclasses.asdict(settings.search)),
      revising.Reviser(alone, task, mesh, explore=explore))


def _samples(settings, there, tokens) -> sampling.Settings:
  """No longer than twice the longest text it was taught, nor too many."""
  mine, longest = settings.samples, there.about.get('longest')
  if longest is not None:
    mine = dataclasses.replace(
        mine, max_new_tokens=min(mine.max_new_tokens, 2 * longest))
  if tokens and settings.sample_tokens is not None:
    number = int(settings.sample_tokens // tokens)
    mine = dataclasses.replace(
        mine, num_samples=max(1, min(mine.num_samples, number)))
  return mine


def _explore(context, settings, there, number):
  tokenizer = there.tokenizer()
  return exploration.jit_explore(_explorer(
      context, settings, there.model, vocabulary.of(
          tokenizer, there.model.vocab_size, there.style, settings.search.step),
      tokenizer, number), context.mesh)


def _explorer(
    context, settings, model, words, tokenizer, number) -> exploration.Search:
  """The search that writes all of `number` attempts but the last."""
  depth = settings.search.depth(context.task, context.first_problems)
  return exploration.Search(
      context.task, model, settings.search, searching.make_strategy(
          settings.search, settings.exploration, depth), words,
      num_attempts=number - 1,
      reset_ids=tuple(tokenizer.encode(settings.episodes.reset)))


def programs(context: base.Context, settings: Any) -> base.Programs:
  """Lists what solvers compile for the first policy: others are as large."""
  reference = context.parts(settings.policies[0])[0]
  there = artifacts.planned(context, reference)
  asked = _Asked(context, settings, there)
  found = {}
  if set(_PLAIN) & set(settings.solvers):
    found |= {'prefill': asked.prefill, 'generate': asked.generate}
  if _EPISODES in settings.solvers:
    found |= {'explore': asked.explore} if asked.explorer else {}
    found |= {'revisions': asked.revisions}
  if strategies := [s for s in settings.solvers if s in searching.STRATEGIES]:
    found |= {
        'params': asked.params_of_searches,
        'start': functools.partial(
            asked.search, 'start', strategies[0], 'start')}
  for name in strategies:
    for end, part in _PARTS.items():
      found[f'{name}{end}'] = functools.partial(
          asked.search, f'{name}{end}', name, part)
  return found


def _width(context, there: artifacts.Planned) -> int:
  """Slots for the longest prompt."""
  return decode.prompt_width(max(
      len(there.tokenizer.encode(traces.prompt(p, style=there.style)))
      for p in context.first_problems))


@dataclasses.dataclass(frozen=True)
class _Asked:
  """The programs of one policy, before there is one."""

  context: base.Context
  settings: Any
  there: artifacts.Planned

  @functools.cached_property
  def params(self) -> Any:
    return policy_lib.abstract(self.there.model, self.context.mesh)

  @property
  def rng(self):
    return program.placed(
        jax.eval_shape(lambda: jax.random.key(0)), self.context.mesh)

  def _ints(self, *shape: int) -> jax.ShapeDtypeStruct:
    return program.rows(shape, jnp.int32, self.context.mesh)

  def _rows(self) -> tuple[int, int]:
    rows = sharding.up_to_parts(
        self.settings.samples.batch_size, self.context.mesh)
    return rows, _width(self.context, self.there)

  def prefill(self) -> program.Program:
    """The first part of `generate` by itself, to see what it takes."""
    model, (rows, width) = self.there.model, self._rows()
    prefill = jax.jit(functools.partial(decode.prefill, model))
    return program.Program(
        'prefill', prefill,
        (self.params, self._ints(rows, width), self._ints(rows)), {},
        flops.prefill_flops(model, rows, width, num_readouts=rows),
        rows * width)

  def generate(self) -> program.Program:
    model, (rows, width) = self.there.model, self._rows()
    samples, tokenizer = self.settings.samples, self.there.tokenizer
    num_new = min(samples.max_new_tokens, model.max_length - width)
    generate = sampling.jit_generate(
        model, self.context.mesh, max_new_tokens=num_new,
        eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id,
        sampling=decode.Sampling(
            temperature=samples.temperature, top_k=samples.top_k,
            top_p=samples.top_p))
    work = flops.prefill_flops(model, rows, width, num_readouts=rows)
    work += rows * (num_new - 1) * model.flops_per_token(width + num_new / 2)
    return program.Program(
        'generate', generate,
        (self.params, self._ints(rows, width), self._ints(rows), self.rng),
        dict(row_ids_B=self._ints(rows)), work, rows * num_new)

  @functools.cached_property
  def words(self) -> vocabulary.Vocabulary:
    """Those of a search, as many as there will be."""
    tokenizer = self.there.tokenizer
    return vocabulary.Vocabulary(
        pad_id=tokenizer.pad_id, eos_ids=tokenizer.eos_ids,
        delimiter_ids=(_DELIMITER_ID,),
        texts=tuple(str(i) for i in range(self.there.model.vocab_size)))

  @functools.cached_property
  def explorer(self) -> exploration.Search | None:
    """The search that writes the first attempts of `revisions`, if any does."""
    number = self.settings.episodes.num_episodes
    if number == 1 or self.settings.exploration == 'policy':
      return None
    return _explorer(
        self.context, self.settings, self.there.model, self.words,
        self.there.tokenizer, number)

  def _rules(self) -> episodes.Episodes:
    mine = self.settings.episodes
    if self.explorer:
      mine = dataclasses.replace(mine, num_episodes=1)
    return revising.rules(mine, self.there.tokenizer)

  def _width_behind(self) -> int:
    """Slots of a prompt with the attempts of a search."""
    behind = self.explorer.num_behind if self.explorer else 0
    return _width(self.context, self.there) + behind

  def check_episodes(self, name: str) -> None:
    """Raises a ConfigError where no trajectory can be played."""
    settings, model = self.settings, self.there.model
    try:
      if settings.exploration != 'policy':
        exploration.check(settings.search, settings.exploration, model)
      rules = self._rules()
    except config_lib.ConfigError as e:
      raise config_lib.ConfigError(f'config.{name}.{e}') from None
    except ValueError as e:
      raise base.wrong(name, 'episodes', str(e)) from e
    if self._width_behind() + rules.row_length > model.max_length:
      raise base.wrong(
          name, 'episodes.episode_length', f'got {rules.episode_length}; '
          f'{rules.row_length} tokens of a trajectory after prompts of '
          f'{self._width_behind()} must be at most config.model.max_length, '
          f'{model.max_length}.')

  def revisions(self) -> program.Program:
    """The trajectories of one call of `revising.Reviser`."""
    mine, mesh = self.settings.episodes, self.context.mesh
    return playing.rollout(
        'revisions', self.there.model, self._rules(), mesh, params=self.params,
        width=self._width_behind(),
        num_questions=sharding.up_to_parts(mine.num_questions, mesh),
        num_samples=mine.num_samples,
        num_slots=sharding.up_to_parts(mine.num_slots, mesh))

  def explore(self) -> program.Program:
    mesh = self.context.mesh
    return playing.explore(
        'explore', self.explorer, mesh, params=self.params,
        width=_width(self.context, self.there),
        num_questions=sharding.up_to_parts(
            self.settings.episodes.num_questions, mesh))

  def params_of_searches(self) -> program.Program:
    """The weights as searches want them."""
    return program.Program(
        'params', searching.slice_layers, (self.there.model, self.params), {},
        0.0, 0)

  def _sliced(self) -> Any:
    """Shapes of the parameters behind it, where it leaves them."""
    lowered = searching.slice_layers.lower(self.there.model, self.params)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding),
        lowered.out_info, lowered.compile().output_shardings)

  def search(self, name: str, strategy: str, part: str) -> program.Program:
    """A part of a search, see `search.batching.Slots.programs`."""
    context, model, settings = (
        self.context, self.there.model, self.settings.search)
    depth, width = settings.depth(
        context.task, context.first_problems), _width(context, self.there)
    slots = searching.make_slots(
        context.task, model, settings, self.words, context.mesh,
        searching.make_strategy(settings, strategy, depth))
    jitted, arguments = slots.programs(
        self._sliced(), self.rng, self._inputs(slots.num_slots, width),
        context.mesh)[part]
    work, tokens = self._work(slots, part, width)
    return program.Program(name, jitted, arguments, {}, work, tokens)

  def _inputs(self, num_slots: int, width: int) -> dict:
    (judged,) = searching.judge_inputs(
        self.context.task, self.settings.search,
        self.context.first_problems[:1], self.there.style)
    return dict(
        prompt=self._ints(num_slots, width), length=self._ints(num_slots),
        problem={
            name: program.rows((num_slots, *x.shape), x.dtype,
                               self.context.mesh)
            for name, x in judged.items()})

  def _work(
      self, slots: batching.Slots, part: str, width: int) -> tuple[float, int]:
    """FLOPs and tokens of one call: full prompts, no step ends early."""
    model, settings = self.there.model, self.settings.search
    if part == 'start':
      work = flops.prefill_flops(
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
