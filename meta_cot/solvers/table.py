# SPDX-License-Identifier: Apache-2.0
"""Every solver by its name."""

from collections.abc import Callable, Mapping
import functools
import types
from typing import Any, NamedTuple

import jax

from meta_cot.solvers import base
from meta_cot.solvers import revising
from meta_cot.solvers import sampling
from meta_cot.solvers import searching
from meta_cot.tasks import base as base_task


class Kind(NamedTuple):
  """A way to answer questions."""

  settings: type
  make: Callable[[Any, base_task.Task, jax.sharding.Mesh], base.Solver]


def _greedy(settings, task, mesh) -> base.Solver:
  return sampling.Sampler(settings.greedy(), task, mesh)


SOLVERS: Mapping[str, Kind] = types.MappingProxyType({
    'greedy': Kind(sampling.Settings, _greedy),
    'samples': Kind(sampling.Settings, sampling.Sampler),
    'revisions': Kind(revising.Settings, revising.Reviser),
} | {
    name: Kind(
        searching.Settings, functools.partial(searching.Searcher, name))
    for name in searching.STRATEGIES})
