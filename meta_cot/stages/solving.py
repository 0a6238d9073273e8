# SPDX-License-Identifier: Apache-2.0
"""Policies and solvers of a stage that asks questions, and their programs.

The settings of such a stage have the groups `samples`, `search`, `episodes` and
`prompting`, one for each module of solvers, and `exploration`; those without
which its solvers do may be missing. `keeps_tokens` says whether rows of samples
have their tokens.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot import program
from meta_cot import sharding
from meta_cot.evaluation import bench
from meta_cot.rl import exploration
from meta_cot.rl import playing
from meta_cot.rollouts import episodes
from meta_cot.rollouts import feedback
from meta_cot.rollouts import player
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import growing
from meta_cot.solvers import prompting
from meta_cot.solvers import revising
from meta_cot.solvers import sampling
from meta_cot.solvers import scoring
from meta_cot.solvers import searching
from meta_cot.solvers import spawning
from meta_cot.solvers import strategies
from meta_cot.solvers import valuing
from meta_cot.stages import base
from meta_cot.stages import judging
from meta_cot.stages import prompted
from meta_cot.stages import threaded
from meta_cot.stages import trees
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib

_PLAIN = ('greedy', 'samples')
_EPISODES = 'revisions'


@dataclasses.dataclass(frozen=True)
class Asked:
  """A policy that is there, and how a stage asks it."""

  context: base.Context
  settings: Any  # of the stage
  reference: str

  @functools.cached_property
  def folder(self) -> policy_lib.Policy:
    return self.context.policy(self.reference)

  @property
  def label(self) -> str:
    """Its name in rows; runs that differ in their seed have one name."""
    if 'seed' in self.folder.about:
      return self.reference.rpartition('/')[0]
    return self.reference

  def is_asked(self, name: str) -> bool:
    """Whether it is: policies of RL play episodes; one is a text, too."""
    about = self.folder.about
    return name == _EPISODES or 'episodes' not in about or (
        name in _PLAIN and about['num_episodes'] == 1)

  def at(
      self, step: int, trained_tokens: float | None = None
  ) -> solvers_base.Policy:
    """Reads the policy as it was at a step."""
    there = self.folder
    return solvers_base.Policy(
        self.label, there.model, there.params(self.context.mesh, step),
        there.tokenizer(), there.style, seed=there.about.get('seed', 0),
        step=step, trained_tokens=trained_tokens)

  def procedure(
      self, name: str, tokens: float | None = None) -> bench.Procedure:
    """Makes a solver with the settings of its module, fit for the policy.

    Args:
      name: of the solver.
      tokens: of one of its texts, where that is known.
    """
    make = lambda settings: bench.make(
        name, settings, self.context.task, self.context.mesh)
    if name in _PLAIN:
      samples = self._samples(tokens)
      if name == 'greedy':  # how samples are drawn says nothing of it
        samples = samples.greedy()
      return judging.procedure(
          self.context, samples, self.folder, self.settings.keeps_tokens)
    if name in prompting.STRATEGIES:
      return make(self.settings.prompting)
    if name == spawning.NAME:
      return make(self.settings.episodes)
    if name != _EPISODES:
      return self._search(name) if self.judge else make(self.settings.search)
    mine, about = self.settings.episodes, self.folder.about
    mine = dataclasses.replace(mine, num_episodes=min(
        mine.num_episodes, about.get('num_episodes', mine.num_episodes)))
    explorer = _Planned(
        self.context, dataclasses.replace(self.settings, episodes=mine),
        base.Planned.of(self.folder)).explorer
    if explorer is None:
      return make(mine)
    alone = dataclasses.replace(mine, num_episodes=1)
    return bench.Procedure(
        dict(dataclasses.asdict(mine), exploration=self.settings.exploration,
             search=dataclasses.asdict(self.settings.search)),
        revising.Reviser(
            alone, self.context.task, self.context.mesh,
            explore=exploration.jit_explore(explorer, self.context.mesh)))

  @functools.cached_property
  def judge(self) -> scoring.Judge | None:
    """The policy that judges in searches; None: none does.

    Raises:
      ConfigError: it has other tokens.
    """
    settings = self.settings.search
    if settings.judge is None:
      return None
    there = self.context.policy(settings.judge)
    valuing.check_tokens(
        settings.valuing, self.folder.fingerprint, there.fingerprint)
    return scoring.reader(
        settings.judge, there, self.context.mesh, there.fingerprint)

  def _search(self, name: str) -> bench.Procedure:
    """A search in which another policy judges."""
    settings, judge = self.settings.search, self.judge
    return bench.Procedure(
        dict(dataclasses.asdict(settings), judge=bench.identity(judge)),
        searching.Searcher(
            name, settings, self.context.task, self.context.mesh, judge))

  def _samples(self, tokens: float | None) -> sampling.Settings:
    """No longer than twice the longest text it was taught, nor too many."""
    mine, longest = self.settings.samples, self.folder.about.get('longest')
    if longest is not None:
      mine = dataclasses.replace(
          mine, max_new_tokens=min(mine.max_new_tokens, 2 * longest))
    most = self.settings.budget.sample_tokens
    if tokens and most is not None:
      number = int(most // tokens)
      mine = dataclasses.replace(
          mine, num_samples=max(1, min(mine.num_samples, number)))
    return mine


def judges(settings: Any) -> tuple[str, ...]:
  """Lists the references to policies that judge what a stage asks for."""
  is_searching = set(settings.solvers) & set(strategies.STRATEGIES)
  judge = settings.search.judge
  of_search = (judge,) if is_searching and judge is not None else ()
  return *settings.samples.judges, *of_search


def check(context: base.Context, settings: Any, name: str) -> None:
  """Raises a ConfigError where a policy cannot be asked with these settings."""
  for reference in context.parts(settings.policies):
    try:
      there = context.planned(reference)
    except config_lib.ConfigError as e:
      field = 'policy' if hasattr(settings, 'policy') else 'policies'
      raise base.wrong(name, field, f'got {reference!r}; {e}') from None
    try:
      _Planned(context, settings, there).check()
    except config_lib.ConfigError as e:
      raise config_lib.ConfigError(f'config.{name}.{e}') from None


def programs(context: base.Context, settings: Any) -> base.Programs:
  """Lists what solvers compile: once for all policies that are as large.

  Names are those of the first policy; others begin with the policy's.
  """
  found, models = {}, []
  for reference in context.parts(settings.policies):
    there = context.planned(reference)
    if there.model not in models:
      start = f'{reference.strip("/")}/' if models else ''
      models.append(there.model)
      found |= {
          f'{start}{name}': functools.partial(build, f'{start}{name}')
          for name, build in _Planned(
              context, settings, there).builders().items()}
  return found


@dataclasses.dataclass(frozen=True)
class _Planned:
  """A policy before there is one: what may be asked, and what that compiles."""

  context: base.Context
  settings: Any
  there: base.Planned

  def check(self) -> None:
    """Raises a ConfigError for what cannot be asked."""
    task, settings, there = (
        self.context.task, self.settings.search, self.there)
    for solver in self.settings.solvers:
      if solver in strategies.STRATEGIES:
        if settings.step == 'solution' and task.states is None:
          raise config_lib.ConfigError(
              "search.step: got 'solution'; this task has no states, so its "
              'solutions have no steps.')
        growing.check(
            settings.tree, settings.step, task, there.style,
            there.model.vocab_size)
        valuing.check(
            settings.valuing, settings.value, settings.step, task, there.model)
        strategies.make(settings, solver, self.depth)
        strategies.check_room(there.model, settings, self.width, self.depth)
        if self.judge:
          valuing.check_judge(
              settings.valuing, settings.value, there.style, valuing.judge_of(
                  self.judge, judging.words(self.context, settings.judge)),
              self.judge.style)
          strategies.check_room(
              self.judge.model, settings, self.width, self.depth)
    if _EPISODES in self.settings.solvers:
      self._check_episodes()
    prompted.check(self.context, self.settings, there)
    threaded.check(self.settings, there, self.width)
    judging.check(
        self.context, self.settings, there.style, self.judged_width)

  def _check_episodes(self) -> None:
    settings, model = self.settings, self.there.model
    if settings.exploration != 'policy':
      exploration.check(settings.search, settings.exploration, model)
      if settings.episodes.feedback != feedback.NONE:
        raise config_lib.ConfigError(
            f'episodes.feedback: got {settings.episodes.feedback!r} with '
            f'exploration {settings.exploration!r}, whose attempts nobody '
            "answers; must be 'none'.")
    width, rules = self.width_behind, self.rules
    if width + rules.row_length > model.max_length:
      raise config_lib.ConfigError(
          f'episodes.episode_length: got {rules.episode_length}; '
          f'{rules.row_length} tokens of a trajectory after prompts of {width} '
          f'must be at most config.model.max_length, {model.max_length}.')

  def builders(self) -> dict[str, Callable[[str], program.Program]]:
    """What is compiled by name; a builder is told the name again."""
    solvers, found = self.settings.solvers, {}
    if set(_PLAIN) & set(solvers):
      plain = self._plain
      found |= dict(prefill=self.prefill, generate=functools.partial(
          self.generate, width=self.width, samples=plain,
          num_samples=plain.num_samples))
    found |= prompted.builders(
        self.context, self.settings, self.there, self.generate)
    found |= judging.builders(self.context, self.settings, self.judged_width)
    found |= threaded.builders(
        self.context, self.settings, self.there, self.width)
    if _EPISODES in solvers:
      found |= dict(explore=self.explore) if self.explorer else {}
      found |= dict(revisions=self.revisions)
    if searches := [s for s in solvers if s in strategies.STRATEGIES]:
      found |= trees.Programs(
          self.context, self.settings.search, self.there, self.judge,
          self.width, self.depth).builders(searches)
    return found

  @functools.cached_property
  def width(self) -> int:
    """Slots for the longest prompt."""
    return player.prompt_width(
        self.there.tokenizer, self.context.first_problems, self.there.style)

  @functools.cached_property
  def depth(self) -> int:
    """Levels of a search's trees."""
    return self.settings.search.depth(
        self.context.task, self.context.first_problems)

  @functools.cached_property
  def params(self) -> Any:
    return policy_lib.abstract(self.there.model, self.context.mesh)

  @functools.cached_property
  def judge(self) -> base.Planned | None:
    """The policy that judges in searches; None: none does."""
    reference = self.settings.search.judge
    return None if reference is None else self.context.planned(reference)

  @property
  def rng(self):
    return program.placed(
        jax.eval_shape(lambda: jax.random.key(0)), self.context.mesh)

  def _ints(self, *shape: int) -> jax.ShapeDtypeStruct:
    return program.rows(shape, jnp.int32, self.context.mesh)

  def _up(self, number: int) -> int:
    return sharding.up_to_parts(number, self.context.mesh)

  def prefill(self, name: str) -> program.Program:
    """The first part of `generate` by itself, to see what it takes."""
    model, width = self.there.model, self.width
    plain = self._plain
    rows = sampling.Layout.of(
        plain.batch_size, plain.num_samples, self.context.mesh).num_prompts
    return program.Program(
        name, jax.jit(functools.partial(decode.prefill, model)),
        (self.params, self._ints(rows, width), self._ints(rows)), {},
        flops.prefill_flops(model, rows, width, num_readouts=rows),
        rows * width)

  @property
  def _plain(self) -> sampling.Settings:
    """How `samples` writes; or `greedy`, where it is alone."""
    samples = self.settings.samples
    if 'samples' not in self.settings.solvers:
      samples = samples.greedy()
    return samples

  def generate(
      self, name: str, width: int,
      samples: sampling.Settings | prompting.Settings, num_samples: int = 1,
  ) -> program.Program:
    """Texts behind prompts of `width` tokens, so many of each."""
    model, tokenizer = self.there.model, self.there.tokenizer
    layout = sampling.Layout.of(
        samples.batch_size, num_samples, self.context.mesh)
    num_prompts, rows = layout.num_prompts, layout.num_rows
    num_new = min(samples.max_new_tokens, model.max_length - width)
    generate = sampling.jit_generate(
        model, self.context.mesh, max_new_tokens=num_new,
        eos_ids=tokenizer.eos_ids, pad_id=tokenizer.pad_id,
        sampling=samples.sampling())
    work = flops.prefill_flops(
        model, num_prompts, width, num_readouts=num_prompts)
    work += rows * (num_new - 1) * model.flops_per_token(width + num_new / 2)
    return program.Program(
        name, generate,
        (self.params, self._ints(num_prompts, width), self._ints(num_prompts),
         self.rng), dict(row_ids_B=self._ints(rows)), work, rows * num_new)

  @functools.cached_property
  def explorer(self) -> exploration.Search | None:
    """The search that writes all attempts of `revisions` but the last."""
    settings, number = self.settings, self.settings.episodes.num_episodes
    if number == 1 or settings.exploration == 'policy':
      return None
    return exploration.Search(
        self.context.task, self.there.model, settings.search,
        strategies.make(
            settings.search, settings.exploration, self.depth),
        self.there.words(settings.search.step), num_attempts=number - 1,
        reset_ids=tuple(tokenizers.of_setting(
            self.there.tokenizer, settings.episodes.reset)))

  @functools.cached_property
  def rules(self) -> episodes.Episodes:
    mine = self.settings.episodes
    if self.explorer:
      mine = dataclasses.replace(mine, num_episodes=1)
    return revising.rules(
        mine, self.there.tokenizer, self.context.task, self.there.style)

  @property
  def judged_width(self) -> int:
    """Slots for a question and a sample."""
    longest = self.settings.samples.max_new_tokens
    return min(self.width + longest, self.there.model.max_length)

  @property
  def width_behind(self) -> int:
    """Slots of a prompt with the attempts of a search."""
    return self.width + (self.explorer.num_behind if self.explorer else 0)

  def revisions(self, name: str) -> program.Program:
    """The trajectories of one call of `revising.Reviser`."""
    mine = self.settings.episodes
    return playing.rollout(
        name, self.there.model, self.rules, self.context.mesh,
        params=self.params, width=self.width_behind,
        num_questions=self._up(mine.num_questions),
        num_samples=mine.num_samples, num_slots=self._up(mine.num_slots))

  def explore(self, name: str) -> program.Program:
    return playing.explore(
        name, self.explorer, self.context.mesh, params=self.params,
        width=self.width,
        num_questions=self._up(self.settings.episodes.num_questions))
