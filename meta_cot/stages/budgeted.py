# SPDX-License-Identifier: Apache-2.0
"""Sizes of solvers that draw as many tokens as a budget says.

They are found on validation problems, whose answers stay in `sizes/N` of the
stage's folder, N being the size: rows as all others, each computed once.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from meta_cot.evaluation import bench
from meta_cot.evaluation import rows as rows_lib
from meta_cot.evaluation import spending
from meta_cot.evaluation import statistics
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base as solvers_base
from meta_cot.solvers import sizing
from meta_cot.stages import base
from meta_cot.stages import solving
from meta_cot.tasks import base as tasks


class Bought(NamedTuple):
  """The sizes of a solver that a budget buys."""

  plan: spending.Plan
  procedures: dict[int, bench.Procedure]  # by size
  sizes: tuple[dict[str, Any], ...]  # the settings of the two sizes

  def procedure(self, where: epath.Path) -> bench.Procedure:
    """Makes the solver whose rows are in a folder."""
    made = {size: one.solver for size, one in self.procedures.items()}
    return bench.Procedure(
        dict(plan=dataclasses.asdict(self.plan), settings=[
            dataclasses.asdict(s) if dataclasses.is_dataclass(s) else s
            for s, _ in self.procedures.values()]),
        sizing.Mixed(made, self.plan, lambda: _drawn(rows_lib.read(where))))


_ATTEMPTS = ('samples', 'revisions')  # several of a problem

# (policy, seed, solver) -> what is bought
Purchases = Mapping[tuple[str, int, str], Bought]


def check(settings: Any, name: str) -> None:
  """Raises a ConfigError where a budget of `evaluate` cannot be spent."""
  budget = settings.budget
  if budget.tokens is None:
    return
  got = f'got {budget.tokens}'
  if not set(settings.solvers) & set(sizing.NAMES):
    raise base.wrong(
        name, 'budget.tokens', f'{got}; no solver spends one: add one of '
        f'{", ".join(sizing.NAMES)} to solvers, or set it to None.')
  if 'samples' in settings.curve_solvers:
    raise base.wrong(
        name, 'budget.tokens', f"{got} with 'samples' in curve_solvers, whose "
        'checkpoints have no sizes of their own; must be None, or leave '
        'samples out there.')
  if settings.num_rounds > 1:
    raise base.wrong(
        name, 'num_rounds', f'got {settings.num_rounds}; must be 1 with a '
        'budget, which says how many samples there are.')


def smallest(settings: Any) -> Any:
  """Those of `evaluate` with the smallest searches, if a budget sizes them."""
  if settings.budget.tokens is None:
    return settings
  return dataclasses.replace(settings, search=dataclasses.replace(
      settings.search, beam_width=1, num_expansions=1, num_simulations=1))


def buy(
    asked: solving.Asked, name: str, policy: solvers_base.Policy,
    directory: epath.Path,
) -> Bought:
  """Finds the sizes of a solver of `sizing.NAMES`; rows that are there serve.

  Args:
    asked: the policy, with the settings of a stage `evaluate`.
    name: of the solver.
    policy: the one that is asked.
    directory: of the stage.

  Raises:
    ConfigError: the budget is too small for the solver, or it draws less
      whatever its sizes.
  """
  context, settings = asked.context, asked.settings
  budget = settings.budget
  problems = context.problems(
      settings.problems, tasks.VALIDATION, budget.num_problems)

  @functools.cache
  def procedure(size: int) -> bench.Procedure:
    return _sized(asked, name, size).procedure(name)

  def measure(size: int) -> float:
    rows = bench.run(
        [policy], {name: procedure(size)}, {tasks.VALIDATION: problems},
        directory / 'sizes' / str(size), rng=jax.random.key(context.seed))
    return float(np.mean([*_drawn(rows).values()]))

  try:
    plan = spending.find(measure, budget.tokens, budget.block)
  except config_lib.ConfigError as e:
    raise base.wrong(
        directory.name, 'budget.tokens',
        f'got {budget.tokens}; {name} of {policy.label} {e}.') from None
  each = plan.low, plan.high
  return Bought(
      plan, {size: procedure(size) for size in each},
      tuple(_sizes(asked, name, size)[1] for size in each))


def _sizes(asked, name: str, size: int) -> tuple[str, dict[str, Any]]:
  """The group of settings that follow from a size, and these."""
  context, search, depth = asked.context, asked.settings.search, 1
  if name not in _ATTEMPTS:
    depth = search.depth(context.task, context.first_problems)
  return sizing.sizes(name, search, size, depth)


def _sized(asked: solving.Asked, name: str, size: int) -> solving.Asked:
  """Asked with these sizes; a search that may end early goes on by default."""
  settings = asked.settings
  group, changes = _sizes(asked, name, size)
  if group == 'search' and settings.search.tree.early_stop is None:
    changes |= dict(tree=dataclasses.replace(
        settings.search.tree, early_stop='never'))
  groups = dict(
      budget=dataclasses.replace(settings.budget, sample_tokens=None))
  groups[group] = dataclasses.replace(getattr(settings, group), **changes)
  return dataclasses.replace(
      asked, settings=dataclasses.replace(settings, **groups))


def _drawn(rows: Sequence[rows_lib.Row]) -> dict[int, float]:
  """Tokens of every problem, by its place."""
  return {
      place: sum(row['num_tokens'] for row in mine)
      for (place,), mine in rows_lib.group(rows, 'place').items()}


def even(
    rows: Sequence[rows_lib.Row], bought: Purchases
) -> list[rows_lib.Row]:
  """Leaves out the attempts that some problems have more than others."""
  most = {
      key: one.plan.low for key, one in bought.items()
      if key[2] in _ATTEMPTS}
  return [
      row for row in rows if row['attempt'] < most.get(
          (row['policy'], row['seed'], row['solver']), row['attempt'] + 1)]


def entries(
    rows: Sequence[rows_lib.Row], bought: Purchases, tokens: int,
) -> list[dict[str, Any]]:
  """Says what a budget of `tokens` drew of every problem; JSON values.

  Args:
    rows: of all solvers, with the attempts that `even` leaves out.
    bought: what was asked.
    tokens: the budget.
  """
  made = []
  for (policy, seed, solver, split), mine in rows_lib.group(
      rows, 'policy', 'seed', 'solver', 'split').items():
    one = bought.get((policy, seed, solver))
    if one is None:
      continue
    problems = rows_lib.group(mine, 'place').values()
    drawn = [*_drawn(mine).values()]
    right = [any(row['is_correct'] for row in some) for some in problems]
    mean = float(np.mean(drawn))
    made.append(dict(
        policy=policy, seed=seed, solver=solver, split=split,
        num_problems=len(drawn), asked=tokens, drawn=mean,
        drawn_ci95=list(statistics.normal_interval(
            np.array(drawn), low=-np.inf, high=np.inf)),
        error=mean / tokens - 1, sizes=list(one.sizes), share=float(np.mean([
            some[0]['details']['size'] == one.plan.high for some in problems])),
        success=float(np.mean(right)),
        ci95=list(statistics.wilson(sum(right), len(right)))))
  return made
