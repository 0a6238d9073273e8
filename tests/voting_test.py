# SPDX-License-Identifier: Apache-2.0
"""Votes against plain Python, on small numbers with many ties."""

import hypothesis
from hypothesis import strategies as st
import jax
import numpy as np

from meta_cot.search import voting

BATCH, SAMPLES = 3, 6
_best_of_n = jax.jit(voting.best_of_n)
_majority = jax.jit(voting.majority)
_weighted = jax.jit(voting.weighted)

# Quarters add up exactly, so that sums tie as often as they should.
_answers = st.lists(
    st.lists(st.integers(-1, 3), min_size=SAMPLES, max_size=SAMPLES),
    min_size=BATCH, max_size=BATCH)
_scores = st.lists(
    st.lists(st.integers(-4, 4).map(lambda n: n / 4),
             min_size=SAMPLES, max_size=SAMPLES),
    min_size=BATCH, max_size=BATCH)


def _arrays(answers, scores):
  return np.array(answers, np.int32), np.array(scores, np.float32)


@hypothesis.given(_answers, _scores)
def test_best_of_n(answers, scores):
  chosen = _best_of_n(*_arrays(answers, scores)).tolist()
  for row_answers, row_scores, index in zip(answers, scores, chosen):
    candidates = [
        (-score, i) for i, score in enumerate(row_scores)
        if row_answers[i] != -1]
    assert index == (min(candidates)[1] if candidates else -1)


def _winner(answers, weights):
  """The first candidate of the answer with most weight; -1 without any."""
  totals = {}  # in the order in which answers were first given
  for answer, weight in zip(answers, weights):
    if answer != -1:
      totals[answer] = totals.get(answer, 0.0) + weight
  if not totals:
    return -1
  most = max(totals.values())
  first = next(a for a, total in totals.items() if total == most)
  return answers.index(first)


@hypothesis.given(_answers, _scores)
def test_weighted_vote(answers, scores):
  chosen = _weighted(*_arrays(answers, scores)).tolist()
  assert chosen == [_winner(a, s) for a, s in zip(answers, scores)]


@hypothesis.given(_answers)
def test_majority(answers):
  chosen = _majority(np.array(answers, np.int32)).tolist()
  assert chosen == [_winner(a, [1] * SAMPLES) for a in answers]


def test_known_votes():
  answers = np.array([[4, 7, 7, -1], [-1, 5, 6, 6], [-1, -1, -1, -1]])
  scores = np.array([[1.0, 0.5, 0.25, 9.0], [0.0, 2.0, 1.0, 1.0], [1.0] * 4])
  assert _best_of_n(answers, scores).tolist() == [0, 1, -1]
  assert _majority(answers).tolist() == [1, 2, -1]
  assert _weighted(answers, scores).tolist() == [0, 1, -1]


@hypothesis.given(_answers, _scores, st.permutations(range(BATCH)))
def test_problems_do_not_touch_each_other(answers, scores, order):
  answers, scores = _arrays(answers, scores)
  order = np.array(order)
  chosen = np.asarray(_weighted(answers, scores))
  np.testing.assert_array_equal(
      _weighted(answers[order], scores[order]), chosen[order])
