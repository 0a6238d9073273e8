# SPDX-License-Identifier: Apache-2.0
"""The model of a look-ahead, against closed forms."""

import numpy as np
import pytest

from meta_cot.evaluation import lookahead

NUM = 200_000
NEAR = dict(abs=5 * 0.5 / NUM**0.5)  # five standard errors


def _rng():
  return np.random.default_rng(0)


def test_an_oracle_needs_one_live_child_of_every_level():
  # 4, then 3 of each of at most 2 live ones, one live one being enough.
  p, q = 0.3, 0.4
  live = [0.7**4, 4 * 0.3 * 0.7**3]  # of none, of one
  live.append(1 - sum(live))
  expected = sum(
      share * (1 - (1 - q)**(3 * number)) for number, share in enumerate(live))
  found = lookahead.beam((p, q), (1.0, 1.0), (4, 3), 2, NUM, _rng())
  assert found == pytest.approx(expected, **NEAR)


def test_a_value_that_knows_nothing_is_a_single_sample():
  found = lookahead.beam(
      (0.5, 0.6, 0.7), (0.5,) * 3, (4, 2, 3), 2, NUM, _rng())
  assert found == pytest.approx(0.5 * 0.6 * 0.7, **NEAR)
  found = lookahead.best_of_n((0.5, 0.6), 0.5, 7, NUM, _rng())
  assert found == pytest.approx(0.3, **NEAR)


@pytest.mark.parametrize('number', [1, 2.5, 4])
def test_best_of_n_of_an_exact_judge_is_pass_at_n(number):
  wrong, low = 1 - 0.3, int(number)
  expected = 1 - wrong**low * (1 - (number - low) * (1 - wrong))
  found = lookahead.best_of_n((0.5, 0.6), 1.0, number, NUM, _rng())
  assert found == pytest.approx(expected, **NEAR)


def test_of_two_the_better_one_wins_as_often_as_the_auc_says():
  auc, p = 0.8, 0.4
  found = lookahead.best_of_n((p,), auc, 2, NUM, _rng())
  assert found == pytest.approx(p * p + 2 * p * (1 - p) * auc, **NEAR)
  found = lookahead.beam((p,), (auc,), (2,), 1, NUM, _rng())
  assert found == pytest.approx(p * p + 2 * p * (1 - p) * auc, **NEAR)


def test_steps_are_counted_level_by_level():
  assert lookahead.num_steps((32, 8, 1), 4) == 32 + 4 * 8 + 4
  assert lookahead.num_steps((2, 2, 2), 100) == 2 + 4 + 8


def test_an_auc_out_of_range_is_refused():
  with pytest.raises(ValueError, match='auc=1.1 must be at least 0'):
    lookahead.separation(1.1)
