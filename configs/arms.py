# SPDX-License-Identifier: Apache-2.0
"""Arms: what of a search a policy learns to write, beside what it does not.

  python -m meta_cot.main --config=configs/arms.py:backtracks_tiny \
      --workdir=runs/backtracks

Three-number Countdown; stage `table` compares (docs/traces.md, "Drafts" and
"Openings"). The policy is that of `configs/loops.py`, with three seeds, and
`solved` is the success by how long the teacher's search is; for searches (the
last two variants) the policy is that of `configs/countdown.py:tiny`.

Variants; docs/results/arms.md says which were run:
  attempts_tiny    attempts up to the right one, behind which alone the text
                   ends (Eq. 7); the report has their mean number.
  backtracks_tiny  wrong steps that are taken back, before 1, 10 and 50% of the
                   right ones (Eq. 8); solutions alone are Eq. 9.
  resets_tiny      beginnings of wrong attempts, masked, before half of the
                   solutions (Eq. 10).
  checked_tiny     every attempt is checked before it counts.
  budgets_tiny     searches with their budget in the prompt: the least one that
                   holds them, or any that does.
  strategies_tiny  twelve strategies in one policy, named in the prompt, beside
                   the same without names, and beside one alone: that which
                   solves validation problems in the fewest nodes.
"""

from collections.abc import Sequence
import functools

import ml_collections

from configs import base
from configs import countdown
from configs import kinds
from configs import loops
from configs.paper import puzzles

_BUDGETS = ('48', '96', '160', '256')  # tokens
_LENGTH = 96  # tokens of a row of drafts
_HEURISTICS = ('sum', 'mult')
_ALONE = 'dfs_mult'
_STRATEGIES = (
    *(f'dfs_{h}' for h in _HEURISTICS),
    *(f'bfs_{h}_{n}' for h in _HEURISTICS for n in range(1, 6)))


def get_config(variant: str = 'backtracks_tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def _drafts(
    arm: str, rates: Sequence[float] = (0.0,)) -> ml_collections.ConfigDict:
  """Solutions with what was taken back, beside solutions alone."""
  c = loops.first_policy()
  c.style = 'compact_drafts'
  c.sft.update(dict(seeds=puzzles.SEEDS, num_tokens=1_000_000))
  c.sft.data.sequence_length = _LENGTH
  c.tokenizer.vocabulary.pieces = ('~', '^', '?', 'x', '!')
  policies = ['sft']
  for rate in rates:
    name = f'{arm}{round(100 * rate)}' if len(rates) > 1 else arm
    c[name] = c.sft.copy_and_resolve_references()
    c[name].arms = (arm,)
    c[name].data.mask = 'solution_path'  # not what was taken back
    c[name].data.backtrack_rate = rate
    policies.append(name)
  c = _compared(c, policies)
  c.solved = kinds.figure(
      figure='difficulty', stages=('table',), title='Success by difficulty')
  c.stages += ('solved',)
  return c


def _backtracks() -> ml_collections.ConfigDict:
  c = _drafts('backtracks', rates=(0.01, 0.1, 0.5))
  for name in c.table.policies[1:]:
    c[name].data.mask = 'procedure_cloning'  # wrong steps are trained too
  return c


def _resets() -> ml_collections.ConfigDict:
  c = _drafts('resets')
  c.resets.data.backtrack_rate = 0.5
  return c


def _budgets() -> ml_collections.ConfigDict:
  c = _opened('budget', _BUDGETS)
  c.limited = c.opened.copy_and_resolve_references()
  c.limited.data.opening = 'limit'
  c.table.policies += ('limited',)
  *before, table = c.stages
  c.stages = (*before, 'limited', table)
  return c


def _strategies() -> ml_collections.ConfigDict:
  c = _opened('strategy', _STRATEGIES)
  c.traces.strategies = 'stream_of_search'
  c.tokenizer.vocabulary.pieces = _STRATEGIES
  c.alone_traces = kinds.traces(strategies=_ALONE, num_processes=1)
  c.alone = c.sft.copy_and_resolve_references()
  c.alone.records = 'alone_traces'
  c.table.policies += ('alone',)
  c.table.solvers = ('greedy',)  # every name is asked
  *before, table = c.stages
  c.stages = (*before, 'alone_traces', 'alone', table)
  return c


def _opened(
    opening: str, openings: Sequence[str]) -> ml_collections.ConfigDict:
  """Searches behind what is said of them, beside the same without.

  Of the policy of `countdown.py:tiny`: a smaller one hardly learns to search.
  """
  c = countdown.get_config('tiny')
  c.sft.update(dict(arms=('traces',), num_tokens=2_100_000))
  c.opened = c.sft.copy_and_resolve_references()
  c.opened.data.update(dict(opening=opening, openings=tuple(openings)))
  c.stages = c.stages[:-1]
  c = _compared(c, ['sft', 'opened'], 'sft/traces')
  c.table.samples.max_new_tokens = c.sft.data.sequence_length
  return c


def _compared(
    c: ml_collections.ConfigDict, policies: Sequence[str],
    reference: str | None = None,
) -> ml_collections.ConfigDict:
  """Adds the table over the policies."""
  c.table = kinds.evaluate(
      policies=tuple(policies), reference=reference, num_problems=300,
      num_curve_problems=0, teacher='compact')
  c.table.samples.num_samples = 4
  c.stages += (*policies[1:], 'table')
  return c


VARIANTS = {
    'attempts_tiny': functools.partial(_drafts, 'attempts'),
    'backtracks_tiny': _backtracks,
    'resets_tiny': _resets,
    'checked_tiny': functools.partial(_drafts, 'checked'),
    'budgets_tiny': _budgets,
    'strategies_tiny': _strategies,
}
