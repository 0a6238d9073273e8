# SPDX-License-Identifier: Apache-2.0
"""The compiled programs of searches over a policy's steps, and their shapes."""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot import program
from meta_cot.model import config as model_config
from meta_cot.rollouts import judge as judge_lib
from meta_cot.search import batching
from meta_cot.solvers import host
from meta_cot.solvers import searching
from meta_cot.solvers import strategies
from meta_cot.solvers import valuing
from meta_cot.stages import base
from meta_cot.stages import judging
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib

_PARTS = {'': 'advance', '/fresh': 'fresh', '/refill': 'refill',
          '/collect': 'collect'}  # of a search -> in `Slots.programs`


@dataclasses.dataclass(frozen=True)
class Programs:
  """Searches of one policy, there or not yet."""

  context: base.Context
  settings: strategies.Settings
  there: base.Planned  # the policy
  judge: base.Planned | None  # that `settings.judge` names
  width: int  # slots of a prompt
  depth: int  # levels of a tree

  def builders(
      self, strategies: Sequence[str]
  ) -> dict[str, Callable[[str], program.Program]]:
    """What is compiled by name; a builder is told the name again."""
    found = dict(params=functools.partial(self._slice_layers, self.there.model))
    if self.judge:
      found['judge_params'] = functools.partial(
          self._slice_layers, self.judge.model)
    found['start'] = functools.partial(self._search, strategies[0], 'start')
    return found | {
        f'{name}{end}': functools.partial(self._search, name, part)
        for name in strategies for end, part in _PARTS.items()}

  @property
  def _judging(self) -> valuing.Judge | None:
    return self.judge and valuing.judge_of(
        self.judge, judging.words(self.context, self.settings.judge))

  def _slice_layers(
      self, model: model_config.ModelConfig, name: str) -> program.Program:
    """The weights as searches want them."""
    params = policy_lib.abstract(model, self.context.mesh)
    return program.Program(
        name, searching.slice_layers, (model, params), {}, 0.0, 0)

  def _sliced(self, model: model_config.ModelConfig) -> Any:
    """Shapes of the parameters behind it, where it leaves them."""
    lowered = self._slice_layers(model, '').lower()
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding),
        lowered.out_info, lowered.compile().output_shardings)

  def _search(self, strategy: str, part: str, name: str) -> program.Program:
    """A part of a search, see `search.batching.Slots.programs`."""
    context, settings, there = self.context, self.settings, self.there
    words = there.words(settings.step)
    slots = searching.make_slots(
        context.task, there.model, settings, words, context.mesh,
        strategies.make(settings, strategy, self.depth),
        host=host.Host(judge_lib.Judge(
            context.task, there.tokenizer, there.style), words),
        judge=self._judging)
    params = self._sliced(there.model)
    if self.judge:
      params = params, self._sliced(self.judge.model)
    rng = program.placed(
        jax.eval_shape(lambda: jax.random.key(0)), context.mesh)
    jitted, arguments = slots.programs(
        params, rng, self._inputs(slots.num_slots), context.mesh)[part]
    work, tokens = self._work(slots, part)
    return program.Program(name, jitted, arguments, {}, work, tokens)

  def _inputs(self, num_slots: int) -> dict:
    (judged,) = searching.judge_inputs(
        self.context.task, self.settings, self.context.first_problems[:1],
        self.there.style, self.there.model.vocab_size)
    rows = lambda *shape, dtype=jnp.int32: program.rows(
        (num_slots, *shape), dtype, self.context.mesh)
    return dict(
        prompt=rows(self.width), length=rows(), problem={
            name: rows(*x.shape, dtype=x.dtype) for name, x in judged.items()})

  def _work(self, slots: batching.Slots, part: str) -> tuple[float, int]:
    """FLOPs and tokens of one call: full prompts, no step ends early."""
    settings, width, writer = self.settings, self.width, self.there.model
    models = [writer, *([self.judge.model] if self.judge else [])]
    if part == 'start':
      work = sum(
          flops.prefill_flops(model, slots.num_slots, width, num_readouts=0)
          for model in models)
      return work, slots.num_slots * width
    if part != 'advance':
      return 0.0, 0
    strategy = slots.strategy
    children = slots.num_slots * strategy.num_leaves * strategy.widest * min(
        slots.chunk_steps, strategy.max_steps)
    tokens = children * settings.step_length
    length = width + strategy.max_depth * settings.step_length / 2
    work = tokens * sum(model.flops_per_token(length) for model in models)
    more = children * settings.valuing.num_rollouts * (
        settings.valuing.rollout_length)
    for source, model in (('rollouts', writer), ('verdicts', models[-1])):
      if source in settings.sources:
        work += more * model.flops_per_token(length)
        tokens += more
    return work, tokens
