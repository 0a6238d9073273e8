# SPDX-License-Identifier: Apache-2.0
"""Every solver by its name."""

from collections.abc import Callable, Mapping
import functools
import types

from meta_cot.solvers import base
from meta_cot.solvers import prompting
from meta_cot.solvers import revising
from meta_cot.solvers import sampling
from meta_cot.solvers import searching
from meta_cot.solvers import spawning
from meta_cot.solvers import strategies

# Each makes one of (settings of its module, task, mesh).
SOLVERS: Mapping[str, Callable[..., base.Solver]] = types.MappingProxyType({
    'greedy': sampling.Sampler,  # of settings that are `Settings.greedy()`
    'samples': sampling.Sampler,
    'revisions': revising.Reviser,
    spawning.NAME: spawning.Spawner,
} | {
    name: functools.partial(prompting.Prompter, name)
    for name in prompting.STRATEGIES
} | {
    name: functools.partial(searching.Searcher, name)
    for name in strategies.STRATEGIES})
