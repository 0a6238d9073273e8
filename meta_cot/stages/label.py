# SPDX-License-Identifier: Apache-2.0
"""Stage `label`: the states of answers and searches, with targets of a value.

Leaves a records folder with the splits train and validation, in which the
`value` of a node is its target, and summary.json. The pieces of the work are in
`pieces/`; those that are there are not computed again.
"""

from collections.abc import Sequence
import dataclasses
import functools
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import store
from meta_cot import program
from meta_cot import sharding
from meta_cot import traces
from meta_cot import types
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import statistics
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import labels
from meta_cot.rollouts import player
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.runtime import interruption
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import states as states_lib
from meta_cot.solvers import targets as targets_lib
from meta_cot.solvers import vocabulary
from meta_cot.stages import base
from meta_cot.stages import data
from meta_cot.tasks import base as tasks
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib
from meta_cot.training import flops
from meta_cot.training import policy as policy_lib

_PIECE = 256  # records whose labels are written together


@dataclasses.dataclass(frozen=True)
class Settings(solvers_base.Drawing):
  """Whose states, and what is said of them."""

  policy: str = config_lib.setting()
  records: str = config_lib.setting()
  source: str = config_lib.setting(choices=tuple(targets_lib.SOURCES))
  num_train: int | None = config_lib.setting(low=1)
  num_validation: int | None = config_lib.setting(low=1)
  num_rollouts: int = config_lib.setting(low=1)
  num_validation_rollouts: int = config_lib.setting(low=1)
  td_lambda: float = config_lib.setting(low=0.0, high=1.0)
  num_states: int = config_lib.setting(low=1, is_free=True)
  num_slots: int | None = config_lib.setting(low=1, is_free=True)
  max_new_tokens: int = config_lib.setting(low=1)
  temperature: float = config_lib.setting(above=0.0)
  top_k: int | None = config_lib.setting(low=1)
  top_p: float | None = config_lib.setting(above=0.0, high=1.0)

  @property
  def is_drawn(self) -> bool:
    """Whether completions are drawn."""
    return self.source in targets_lib.DRAWN

  def of(self, split: str) -> tuple[int | None, int]:
    """Records of a split, None for all, and completions of their states."""
    if split == tasks.TRAIN:
      return self.num_train, self.num_rollouts
    return self.num_validation, self.num_validation_rollouts


def _check(context, settings, name) -> None:
  if settings.source == 'oracle' and context.task.oracle is None:
    raise base.wrong(
        name, 'source', f"got 'oracle'; task {context.shared.task_kind} does "
        'not say which states lead to a solution.')
  planned = _planned(context, settings)
  model, width = planned.there.model, planned.width
  room = width + 2 * settings.max_new_tokens
  if settings.is_drawn and room > model.max_length:
    raise base.wrong(
        name, 'max_new_tokens', f'got {settings.max_new_tokens}; as many '
        f'tokens of steps and of a completion, after prompts of {width}, must '
        f'be at most config.model.max_length, {model.max_length}.')


@dataclasses.dataclass(frozen=True)
class _Planned:
  """What is compiled, whether the policy is there or not."""

  context: base.Context
  settings: Settings
  there: base.Planned

  @functools.cached_property
  def width(self) -> int:
    """Slots for the longest question."""
    return player.prompt_width(
        self.there.tokenizer, self.context.first_problems, self.there.style)

  @property
  def is_in_graph(self) -> bool:
    return vocabulary.is_in_graph(
        self.context.task, self.there.style, self.there.model.vocab_size)

  @property
  def num_states(self) -> int:
    return sharding.up_to_parts(self.settings.num_states, self.context.mesh)

  def jit_complete(self, num_rollouts: int):
    """Jits `labels.jit_complete` with the settings."""
    settings, there, mesh = self.settings, self.there, self.context.mesh
    num_slots = settings.num_slots or self.num_states * num_rollouts
    tokenizer = there.tokenizer
    return labels.jit_complete(
        there.model, mesh, rules=labels.rules(
            settings.sampling(), settings.max_new_tokens, tokenizer.eos_ids),
        num_rollouts=num_rollouts,
        num_slots=sharding.up_to_parts(num_slots, mesh),
        outcome=vocabulary.of_last_text(
            self.context.task.in_graph.outcome(there.words('solution').texts),
            tokenizer.eos_ids) if self.is_in_graph else None,
        pad_id=tokenizer.pad_id)

  def inputs(self, problems) -> list[dict]:
    """What the verdict in the graph needs to know."""
    if not self.is_in_graph:
      return [{} for _ in problems]
    return vocabulary.graph_inputs(self.context.task, problems)

  def complete(self, num_rollouts: int, name: str) -> program.Program:
    """One call of it; no completion ends early."""
    settings, mesh, model = self.settings, self.context.mesh, self.there.model
    ints = lambda *shape: program.rows(shape, jnp.int32, mesh)
    number, longest = self.num_states, settings.max_new_tokens
    (inputs,) = self.inputs(self.context.first_problems[:1])
    states = labels.States(
        ints(number, self.width), ints(number), ints(number, longest),
        ints(number), ints(number), {
            k: program.rows((number, *x.shape), x.dtype, mesh)
            for k, x in inputs.items()})
    tokens = number * num_rollouts * longest
    width = self.width + longest
    work = flops.prefill_flops(model, number, width, num_readouts=0)
    work += tokens * model.flops_per_token(width + longest / 2)
    rng = program.placed(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    return program.Program(
        name, self.jit_complete(num_rollouts),
        (policy_lib.abstract(model, mesh), states, rng), {}, work, tokens)


def _planned(context, settings) -> _Planned:
  return _Planned(context, settings, context.planned(settings.policy))


def _programs(context, settings) -> base.Programs:
  """Lists what is compiled: for every number of completions."""
  if not settings.is_drawn:
    return {}
  planned, found = _planned(context, settings), {}
  for split in data.LEARNED:
    _, number = settings.of(split)
    found.setdefault(number, f'complete_{number}')
  return {
      name: functools.partial(planned.complete, number, name)
      for number, name in found.items()}


class _Labels:
  """The labels of one split."""

  def __init__(self, context, settings, directory, split):
    self._context, self._settings, self.split = context, settings, split
    number, self._num_rollouts = settings.of(split)
    self._source = store.read(context.folder(settings.records), split)
    self.num_records = min(number or len(self._source), len(self._source))
    self._directory = directory / 'pieces' / split
    policy = context.policy(settings.policy)
    self._policy, self._tokenizer = policy, policy.tokenizer()
    self._reader = states_lib.Reader(
        self._tokenizer, policy.style, vocabulary.of(
            self._tokenizer, policy.model.vocab_size, policy.style))

  def make(self) -> None:
    """Labels the pieces that are not there yet."""
    for start in range(0, self.num_records, _PIECE):
      stop = min(start + _PIECE, self.num_records)
      path = self._directory / f'{start:07d}-{stop:07d}.jsonl'
      if rows_lib.has_records(path):
        continue
      interruption.check()
      found = self._label([
          self._reader.merged(self._source[i]) for i in range(start, stop)])
      if distributed.is_primary():
        rows_lib.write_records(path, found)

  def read(self) -> list[traces.TraceRecord]:
    """Reads all pieces."""
    return list(rows_lib.records(self._directory))

  def _label(
      self, merged: Sequence[traces.TraceRecord]
  ) -> list[traces.TraceRecord]:
    """Gives every node its target."""
    settings = self._settings
    num_right = [[None] * len(record.nodes) for record in merged]
    if settings.is_drawn:
      num_right = self._count(merged)
    arguments = dict(
        source=settings.source, num_rollouts=self._num_rollouts,
        td_lambda=settings.td_lambda, tokenizer=self._tokenizer.fingerprint)
    return [
        dataclasses.replace(
            record, strategy=settings.source, arguments=arguments,
            seed=self._context.seed, model=settings.policy, nodes=tuple(
                dataclasses.replace(node, value=value) for node, value in zip(
                    record.nodes, targets_lib.SOURCES[settings.source](
                        targets_lib.Known(
                            self._context.task, record, settings.td_lambda,
                            self._num_rollouts, right)), strict=True)))
        for record, right in zip(merged, num_right, strict=True)]

  def _count(
      self, merged: Sequence[traces.TraceRecord]
  ) -> list[list[int | None]]:
    """Right completions of every node; equal states are labelled once."""
    longest, states, keys = self._settings.max_new_tokens, {}, []
    for record in merged:
      question = self._reader.question(record)
      keys.append([
          None if node.is_terminal or len(steps) > longest else
          (question, steps) for node, steps in zip(
              record.nodes, states_lib.written(record), strict=True)])
      states |= {
          key: labels.State(record.problem, *key) for key in keys[-1] if key}
    start = time.perf_counter()
    num_right, num_tokens = self._labeler(
        self._params, list(states.values()), jax.random.key(
            self._context.seed))
    seconds = time.perf_counter() - start
    logging.info(
        'labels of %d states, %d completions each: %.1f%% right, %d tokens, '
        '%.1f s', len(states), self._num_rollouts,
        100 * num_right.mean() / self._num_rollouts, num_tokens, seconds)
    known = dict(zip(states, num_right.tolist(), strict=True))
    return [[known.get(key) for key in mine] for mine in keys]

  @functools.cached_property
  def _params(self) -> types.Params:
    return self._policy.params(self._context.mesh)

  @functools.cached_property
  def _labeler(self) -> labels.Labeler:
    planned = _Planned(
        self._context, self._settings, base.Planned.of(self._policy))
    problems = [self._source[i].problem for i in range(self.num_records)]
    return labels.Labeler(
        planned.jit_complete(self._num_rollouts), self._context.mesh,
        num_states=planned.num_states, width=player.prompt_width(
            self._tokenizer, problems, self._policy.style),
        step_width=self._settings.max_new_tokens,
        pad_id=self._tokenizer.pad_id, inputs=planned.inputs,
        judge=judge_lib.OfLast(
            self._context.task, self._tokenizer, self._policy.style))


def _run(context, settings, directory) -> None:
  """Labels what has no labels yet, and writes the records."""
  made = {
      split: _Labels(context, settings, directory, split)
      for split in data.LEARNED}
  for mine in made.values():
    mine.make()
  distributed.wait(f'{directory.name}: pieces')
  if distributed.is_primary():
    found = {split: mine.read() for split, mine in made.items()}
    rate = _base_rate(directory, found[tasks.TRAIN])
    for split, records in found.items():
      _store(context, settings, directory, split, [
          dataclasses.replace(r, arguments=dict(r.arguments, base_rate=rate))
          for r in records])
    files.write_json(directory / 'summary.json', dict(
        base_rate=rate, splits={
            split: _counts(records) | dict(behind=_behind(records))
            for split, records in found.items()}))
  distributed.wait(f'{directory.name}: records')


def _base_rate(directory, records: Sequence[traces.TraceRecord]) -> float:
  """The mean target of a state of an attempt, all records counting equally.

  Raises:
    UserError: all states are alike.
  """
  weights, targets = map(np.array, zip(*(
      (node.visits / record.nodes[0].visits, node.value)
      for record in records for node in record.nodes
      if node.value is not None)))
  rate = float(np.sum(weights * targets) / np.sum(weights))
  if not 0 < rate < 1:
    raise config_lib.UserError(
        f'{directory}: the targets of all states are {rate:.0f}: there is '
        'nothing to learn from; use other problems, another policy or more '
        'completions.')
  return rate


def _counts(records: Sequence[traces.TraceRecord]) -> dict[str, int]:
  """What summary.json says of a split."""
  nodes = [node for record in records for node in record.nodes]
  known = [node.value for node in nodes if node.value is not None]
  return dict(
      num_records=len(records), num_states=len(nodes),
      num_attempts=sum(record.nodes[0].visits for record in records),
      num_without_target=len(nodes) - len(known),
      num_above_half=sum(value > 0.5 for value in known))


def _behind(records: Sequence[traces.TraceRecord]) -> list[dict]:
  """The mean target of what goes on behind so many steps, over records.

  States of a record count as often as attempts came through them.
  """
  found = {}  # number of steps -> a mean of every record that has such states
  for record in records:
    mine = {}
    for i, node in enumerate(record.nodes):
      if node.value is not None and not node.is_terminal and node.visits:
        depth = len(from_tree.path(record.nodes, i)) - 1
        mine.setdefault(depth, []).append((node.value, node.visits))
    for depth, some in mine.items():
      values, visits = zip(*some)
      found.setdefault(depth, []).append(
          float(np.average(values, weights=visits)))
  return [
      dict(num_steps=depth, num_records=len(means), mean=float(np.mean(means)),
           ci95=statistics.normal_interval(means))
      for depth, means in sorted(found.items())]


def _store(context, settings, directory, split, records) -> None:
  store.generate(
      directory, lambda start, stop: records[start:stop],
      kind=record_lib.KIND, split=split, num_records=len(records),
      num_shards=1, num_processes=1,
      arguments=base.arguments(context, settings))


STAGE = base.Stage(
    Settings=Settings, run=_run,
    reads=lambda settings: (settings.policy, settings.records),
    check=_check,
    is_whole=lambda context, settings, directory: (
        (directory / 'summary.json').exists() and all(
            store.is_whole(directory, split) for split in data.LEARNED)),
    programs=_programs)
