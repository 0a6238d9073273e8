# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits into a chip, by bisection over compiled programs.

A stage has one or two settings that memory grows with, each with programs of
its own (BATCHES). All else stays as it is configured; what would make more
room, rematerialisation and the pieces that a batch is cut into, is named beside
the answer.
"""

from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import math
import operator
from typing import Any

import jax

from meta_cot import program as program_lib
from meta_cot import sharding
from meta_cot.compile import programs as programs_lib
from meta_cot.compile import report as report_lib
from meta_cot.compile import topology as topology_lib
from meta_cot.settings import config as config_lib
from meta_cot.stages import base as base_lib
from meta_cot.stages import experiment as experiment_lib
from meta_cot.stages import kinds

_MOST = 2 ** 20  # units; a batch that is larger is not looked for


@dataclasses.dataclass(frozen=True)
class Batch:
  """A setting of a stage, and the ends of the programs that grow with it."""

  field: str
  programs: tuple[str, ...]  # the one that takes most first
  pieces: tuple[str, ...] = ()  # settings that cut it
  divisors: tuple[str, ...] = ()  # other settings that divide it
  rows: tuple[str, ...] = ()  # settings that it is multiplied by
  most: tuple[str, ...] = ()  # settings whose product it need not exceed


_SEARCHES = ('beam', 'dvts', 'breadth_first', 'best_first', 'depth_first',
             'mcts', 'particles', 'start')
_SAMPLES = Batch('samples.batch_size', ('generate',))
BATCHES = {  # kind of stage -> what may grow
    'train': (Batch(
        'batch_size', ('train_step', 'eval_loss'), ('num_accumulation',),
        divisors=('data.num_streams',)),),
    'rl': (
        Batch('questions.num_questions', ('update', 'prepare', 'explore'), (
            'updates.num_minibatches', 'updates.num_accumulation'),
              rows=('questions.num_samples',)),
        Batch('questions.num_slots', (
            'rollout', 'evaluate', 'branch', 'values', 'continue'),
              most=('questions.num_questions', 'questions.num_samples'))),
    'search': (Batch('search.num_slots', _SEARCHES), _SAMPLES),
    'evaluate': (Batch('search.num_slots', _SEARCHES), _SAMPLES),
}


@dataclasses.dataclass(frozen=True)
class Answer:
  """The largest value of a setting."""

  field: str  # of the config
  remat: str
  pieces: dict[str, int]  # the settings that cut it
  unit: int  # the value is a multiple of it
  per_device: int  # rows of the value that a device holds at once
  largest: int  # 0: not even `unit` fits
  is_most: bool  # no larger one was looked for
  results: tuple[report_lib.Result, ...]  # of the largest, else of the unit
  beside: dict[str, int]  # bytes that the stage holds beside each of them
  tried: dict[int, bool]  # value -> whether all that was compiled fits

  @property
  def worst(self) -> report_lib.Result:
    """The program that takes most, with what is beside it."""
    return max(
        self.results, key=lambda r: r.memory.peak + self.beside[r.name])

  def as_dict(self) -> dict[str, Any]:
    """Counts and bytes as plain numbers, programs as in the usual report."""
    return dataclasses.asdict(self) | dict(
        results=[r.as_dict() for r in self.results],
        tried=[dict(value=k, fits=v) for k, v in self.tried.items()])


def largest(peak: Callable[[int], int], capacity: int, most: int) -> int:
  """Finds the largest n of 1..most with peak(n) <= capacity; 0: none.

  `peak` must not fall as n grows. It is followed along the line through the
  last two that fit, then between what fits and what does not; where that does
  not halve the room between them, the middle is next.
  """
  points = [(1, peak(1))]  # that fit, in order
  if points[0][1] > capacity:
    return 0
  high, is_middle = None, False
  while points[-1][0] < most and not (
      high and high[0] == points[-1][0] + 1):
    low = points[-1]
    if is_middle:
      n = (low[0] + high[0]) // 2
    else:
      n = _guess(points, high, capacity, most)
    here, room = (n, peak(n)), high and high[0] - low[0]
    if here[1] <= capacity:
      points.append(here)
    else:
      high = here
    is_middle = bool(room) and (
        high[0] - points[-1][0] > max(1, room // 2))
  return points[-1][0]


def _guess(points, high, capacity: int, most: int) -> int:
  """Where the line meets the capacity; at most 16 times as far as before."""
  low = points[-1]
  other = high or (points[-2] if len(points) > 1 else None)
  top = high[0] - 1 if high else min(most, 16 * low[0])
  if other is None or other[1] == low[1]:
    return min(top, 2 * low[0])
  slope = (other[1] - low[1]) / (other[0] - low[0])
  return min(top, max(low[0] + 1, low[0] + int((capacity - low[1]) / slope)))


Make = Callable[[Mapping[str, Any]], experiment_lib.Experiment]


def answers(
    make: Make, topology: topology_lib.Topology, stage: str,
    remat: str | None = None, say: Callable[[str], None] = lambda _: None,
) -> Iterator[Answer]:
  """Finds the largest batches of a stage, each with those found before.

  Args:
    make: the experiment with some settings changed, {'sft.batch_size': 64}.
    topology: where it is to fit.
    stage: name of one of kind `train`, `rl`, `search` or `evaluate`.
    remat: of `model.execution.remat`; None: as it is configured.
    say: is told of every program before it is compiled.

  Raises:
    ConfigError: no such stage, or one of another kind.
  """
  changed = {} if remat is None else {'model.execution.remat': remat}
  for batch in BATCHES[_kind(make(changed), stage)]:
    search = Search(make, topology, stage, batch, changed, say)
    if search.names:
      answer = search.answer()
      yield answer
      if not answer.largest:
        return
      changed = changed | {answer.field: answer.largest}


def _kind(experiment: experiment_lib.Experiment, stage: str) -> str:
  names = {
      name: kind for name in experiment.stages for kind in BATCHES
      if experiment.groups[name].stage is kinds.KINDS[kind]}
  if stage not in names:
    raise config_lib.ConfigError(
        f'--fit: got {stage!r}; {config_lib.nearest(stage, tuple(names))}, '
        'the stages that have a batch.')
  return names[stage]


class Search:
  """One setting, changed until what it is a batch of no longer fits.

  `unit` is its smallest value, `names` are the programs that grow with it.
  """

  def __init__(
      self, make: Make, topology: topology_lib.Topology, stage: str,
      batch: Batch, changed: Mapping[str, Any], say: Callable[[str], None]):
    """Builds nothing yet; see `answers`."""
    self._make, self._topology, self._say = make, topology, say
    self._stage, self._batch, self._changed = stage, batch, changed
    self._results, self._tried = {}, {}
    experiment = make(changed)
    self._mesh = programs_lib.mesh_of(experiment, topology)
    self._parts = sharding.data_parallelism(self._mesh)
    self._group = experiment.groups[stage]
    self._pieces = {f: self._number(f) for f in batch.pieces}
    self._rows = math.prod(map(self._number, batch.rows))
    pieces = self._parts * math.prod(self._pieces.values())
    self.unit = math.lcm(
        self._parts, pieces // math.gcd(pieces, self._rows),
        *map(self._number, batch.divisors))
    # The smallest: what is configured need not divide over the devices.
    self._experiment = self._with(self.unit)
    group = self._group = self._experiment.groups[stage]
    context = base_lib.Context(
        self._experiment.shared, self._experiment.groups, self._mesh)
    group.stage.check_devices(context, group.settings, stage)
    self._known = group.stage.programs(context, group.settings)

  def _with(self, value: int) -> experiment_lib.Experiment:
    return self._make(
        self._changed | {f'{self._stage}.{self._batch.field}': value})

  @functools.cached_property
  def names(self) -> tuple[str, ...]:
    """The programs that grow, the one that takes most first."""
    return tuple(dict.fromkeys(
        name for end in self._batch.programs for name in self._known
        if end in (name.partition('/')[0], name.rpartition('/')[2])))

  def answer(self) -> Answer:
    """Bisects the first program, then asks whether the others fit too."""
    unit, most = self.unit, _MOST
    if self._batch.most:
      most = max(1, math.prod(map(self._number, self._batch.most)) // unit)
    found = most
    for name in self.names:
      found = found and largest(
          functools.partial(self._peak, name),
          self._topology.chip.hbm_bytes, found)
    value = (found or 1) * unit
    at_once = value * self._rows // math.prod(self._pieces.values())
    return Answer(
        field=f'{self._stage}.{self._batch.field}',
        remat=self._experiment.shared.model.execution.remat,
        pieces=self._pieces, unit=unit, per_device=at_once // self._parts,
        largest=found * unit, is_most=found == most, results=tuple(
            self._results[name, value] for name in self.names
            if (name, value) in self._results),
        beside={f'{self._stage}/{n}': self.beside[n] for n in self.names},
        tried=dict(sorted(self._tried.items())))

  def _peak(self, name: str, number: int) -> int:
    """Bytes while a program runs with `number` units; too many: refused."""
    value, full = number * self.unit, f'{self._stage}/{name}'
    self._say(f'{full} with {self._batch.field}={value}')
    result = self._results[name, value] = programs_lib.compile_program(
        self._with(value), self._topology, full)
    peak = result.memory.peak + self.beside[name]
    if result.is_refused:
      peak = max(peak, result.capacity + 1)
    self._tried[value] = self._tried.get(value, True) and (
        peak <= result.capacity)
    return peak

  @functools.cached_property
  def beside(self) -> dict[str, int]:
    """Bytes of weights and moments that are not a program's arguments."""
    with sharding.use_mesh(self._mesh):
      return {name: bytes_beside(self._known, name) for name in self.names}

  def _number(self, field: str) -> int:
    return operator.attrgetter(field)(self._group.settings)


def bytes_beside(
    programs: Mapping[str, Callable[[], program_lib.Program]], name: str
) -> int:
  """Bytes that a stage holds on a device while a program runs without them.

  The moments of what is trained, the weights that reinforcement learning
  starts from, and those that searches have cast.
  """
  first, _, end = name.rpartition('/')
  if 'train_step' in programs:
    state = programs['train_step']().arguments[0]
    return 0 if end == 'train_step' else _moments(state)
  if (update := f'{first}/update') in programs:
    state, *_, base = programs[update]().arguments
    start = _bytes(programs[f'{first}/prepare']().arguments[1])
    if end == 'update':
      return 0 if jax.tree.leaves(base) else start
    return _moments(state) + (0 if end == 'prepare' else start)
  if 'params' in programs and end != 'generate':
    return _bytes(programs['params']().arguments[1])
  return 0


def _moments(state: Any) -> int:
  return _bytes(state) - _bytes(state.params)


def _bytes(tree: Any) -> int:
  """Of arrays on one device."""
  return sum(
      math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
      for x in jax.tree.leaves(tree))
