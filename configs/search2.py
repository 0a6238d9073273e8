# SPDX-License-Identifier: Apache-2.0
"""Search over whole attempts of a model that itself searches: Search^2.

  python -m meta_cot.main --config=configs/search2.py:tiny \
      --workdir=runs/search2

A policy learns to attempt a question again behind wrong attempts (arm
`revisions`). A step of the outer search is a whole attempt, and a state is the
question with all attempts so far. Stage `attempts` leaves trees of them, and
`labels` says how often the next attempt behind each succeeds; `meta_value`
learns that number, v(Z, S, q): S is the last attempt and Z those before it
(section 8.3.4). Stage `plain` labels and learns the same of first attempts
alone. Stages `by_likelihood`, `by_plain_value` and `by_meta_value` search
best-first with each, up to a right attempt, and `table` has all three beside
samples at equal tokens (figure.json, and a picture).

Variants:
  tiny  three-number Countdown, numbers up to 60, 0.2M parameters.
"""

from typing import Any

import ml_collections

from configs import base
from configs import kinds
from configs import loops

_POLICY = 'sft/revisions'
_LENGTH = 24  # tokens of an attempt, at most
_DEPTH = 4  # attempts one behind the other

# What guides a search, by its report.
GUIDES = {
    'by_likelihood': 'likelihood', 'by_plain_value': 'plain value',
    'by_meta_value': 'meta-value'}


def get_config(variant: str = 'tiny') -> ml_collections.ConfigDict:
  """Makes the experiment of one variant.

  Raises:
    ValueError: no such variant; lists them.
  """
  return base.choose(VARIANTS, variant)()


def _tiny() -> ml_collections.ConfigDict:
  c = loops.first_policy()
  c.sft.arms = (_POLICY.rpartition('/')[2],)
  c.sft.data.sequence_length = _LENGTH * _DEPTH
  _learn_value(c, 'meta', depth=_DEPTH - 1)
  _learn_value(c, 'plain', depth=1)
  _report(c, 'by_likelihood', value='likelihood')
  for kind in ('plain', 'meta'):
    _report(c, f'by_{kind}_value', value='model', valuing=dict(
        model=f'{kind}_value/solution_only'))
  c.table = kinds.figure(
      figure='guides', stages=tuple(GUIDES), labels=tuple(GUIDES.values()),
      title='Searches over attempts by what guides them')
  c.stages += ('table',)
  return c


def _learn_value(c: ml_collections.ConfigDict, kind: str, depth: int) -> None:
  """Adds the stages of the value of states with so many attempts."""
  c[f'{kind}_attempts'] = kinds.search(
      policy=_POLICY, solver='breadth_first', num_train=1_500,
      num_validation=150)
  c[f'{kind}_attempts'].search.update(_attempts(
      depth, branching=4 if depth == 1 else (4, 2), value='likelihood'))
  c[f'{kind}_labels'] = kinds.label(
      policy=_POLICY, records=f'{kind}_attempts', source='monte_carlo',
      num_rollouts=8, num_validation_rollouts=32,
      max_new_tokens=_LENGTH * _DEPTH)
  c[f'{kind}_value'] = kinds.train(
      objective='value', start=_POLICY, records=f'{kind}_labels',
      arms=('solution_only',), num_tokens=300_000, eval_every_steps=100,
      save_every_steps=400)
  c[f'{kind}_value'].data.sequence_length = _LENGTH * _DEPTH
  c[f'{kind}_value'].optimizer.learning_rate = 1e-3
  c.stages += (f'{kind}_attempts', f'{kind}_labels', f'{kind}_value')


def _report(c: ml_collections.ConfigDict, name: str, **search: Any) -> None:
  """Adds a report of best-first search, beside samples."""
  c[name] = kinds.evaluate(
      policies=(_POLICY,), solvers=('samples', 'best_first'), num_problems=300,
      num_curve_problems=0)
  c[name].samples.update(dict(num_samples=16, max_new_tokens=_LENGTH))
  c[name].search.update(_attempts(
      _DEPTH, branching=2, num_expansions=8, **search))
  c.stages += (name,)


def _attempts(depth: int, **changes: Any) -> dict[str, Any]:
  """Settings of a search whose steps are attempts."""
  return dict(
      step='episode', max_depth=depth, step_length=_LENGTH, **changes)


VARIANTS = {'tiny': _tiny}
