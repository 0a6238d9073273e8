# SPDX-License-Identifier: Apache-2.0
"""How policies reason, by how difficult problems are: tokens, success, and what
`traces.behaviours` counts, as JSON values and as a part of a report."""

from collections.abc import Mapping

from etils import epath
import numpy as np

from meta_cot.evaluation import budgets
from meta_cot.evaluation import plots
from meta_cot.evaluation import tables
from meta_cot.solvers import base
from meta_cot.traces import behaviours

_PLOT = 'behaviours.png'
_SHOWN = ('regret', 'backtracking', 'verification', 'repeated_ngrams')


def summarise(
    found: Mapping[tuple[str, str, str], base.Outcomes]) -> list[dict]:
  """Computes means over attempts, of all problems and by difficulty.

  Args:
    found: by policy, solver and split; those whose texts were not counted are
      left out.

  Returns:
    Of each the whole (`difficulty` is None), and the problems of every
    difficulty where there are several: `num_problems`, `success` with its
    `ci95`, `tokens` of an attempt, and the mean of each of `behaviours.NAMES`.
  """
  entries = []
  for (policy, solver, split), outcomes in found.items():
    counts = outcomes.details.get('behaviours')
    if counts is None or None in counts:
      continue
    name = dict(policy=policy, solver=solver, split=split)
    entries += [
        name | dict(difficulty=difficulty) | _means(outcomes, is_in_B)
        for difficulty, is_in_B in parts(outcomes)]
  return entries


def parts(outcomes: base.Outcomes) -> list[tuple[float | None, np.ndarray]]:
  """Says which problems belong to a part by difficulty, [B] bool.

  The whole (None) comes first, alone where no two difficulties are known.
  """
  found = [(None, np.ones(len(outcomes.is_correct), bool))]
  if 'difficulty' in outcomes.details:
    said_B = outcomes.details['difficulty'][:, 0]
    known = sorted({value for value in said_B if value is not None})
    if len(known) > 1:
      found += [(value, said_B == value) for value in known]
  return found


def _means(outcomes: base.Outcomes, is_in_B: np.ndarray) -> dict:
  counts = outcomes.details['behaviours'][is_in_B].reshape(-1)
  return dict(
      num_problems=int(is_in_B.sum()),
      **budgets.first_rate(outcomes.is_correct[is_in_B]),
      tokens=float(outcomes.num_tokens[is_in_B].mean()), **{
          name: float(np.mean([said[name] for said in counts]))
          for name in behaviours.NAMES})


def write(directory: epath.Path, entries: list[dict]) -> str:
  """Writes the plot of what `summarise` returns; returns the text with it."""
  if not entries:
    return ''
  by_difficulty = [e for e in entries if e['difficulty'] is not None]
  if by_difficulty:
    plots.panels(directory / _PLOT, _panels(by_difficulty), 'difficulty')
  return (
      '## How it reasons\n\nOf an attempt, on average, counted by expressions '
      'in its text (`meta_cot/traces/behaviours.py`): regret ("I made a '
      'mistake"), backtracking ("Wait,"), verification ("let me check"), '
      'equations written again; the share of lines, and of four words in a '
      'row, that stood there before. Difficulty is what the task says: the '
      'level of a problem, or the steps of its solution.\n\n'
      + tables.table(
          'policy | solver | split | difficulty | problems | solved % | tokens '
          '| regret | backtracking | verification | recomputed | repeated '
          'lines % | repeated words %', [
              [e['policy'], e['solver'], e['split'],
               'all' if e['difficulty'] is None else f'{e["difficulty"]:g}',
               e['num_problems'], e, e['tokens'],
               *(f'{e[name]:.3g}' for name in behaviours.NAMES[:4]),
               *(100 * e[name] for name in behaviours.NAMES[4:])]
              for e in entries])
      + f'\n![behaviours]({_PLOT})\n' * bool(by_difficulty))


def _panels(entries: list[dict]) -> dict[str, dict[str, list]]:
  """Panel -> line -> points (difficulty, value) of the first split."""
  split = entries[0]['split']
  shown = [e for e in entries if e['split'] == split]
  return {
      name.replace('_', ' '): {
          line: [(e['difficulty'], e[name]) for e in shown
                 if f'{e["policy"]}, {e["solver"]}' == line]
          for line in dict.fromkeys(
              f'{e["policy"]}, {e["solver"]}' for e in shown)}
      for name in ('success', 'tokens', *_SHOWN)}
