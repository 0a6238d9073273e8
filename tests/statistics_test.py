# SPDX-License-Identifier: Apache-2.0
"""Estimates against enumeration, textbook values and simulated coverage."""

import fractions
import itertools
import math
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import evaluation
from meta_cot.evaluation import statistics


def test_wilson_solves_its_quadratic():
  # The limits are where the rate is z standard errors of the limit away.
  z = 1.959963984540054
  low, high = evaluation.wilson(81, 263)
  for limit in (low, high):
    error = math.sqrt(limit * (1 - limit) / 263)
    assert abs(81 / 263 - limit) == pytest.approx(z * error, rel=1e-12)
  # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
  assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize('successes, total, low, high', [
    (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718), (15, 148, 0.0624, 0.1605),
    (0, 0, 0.0, 1.0)])
def test_wilson_of_published_cases(successes, total, low, high):
  got = evaluation.wilson(successes, total)
  assert got == pytest.approx((low, high), abs=5e-5)


@hypothesis.given(st.integers(1, 2000), st.data())
def test_wilson_laws(total, data):
  successes = data.draw(st.integers(0, total))
  low, high = evaluation.wilson(successes, total)
  assert 0 <= low <= successes / total <= high <= 1
  mirrored = evaluation.wilson(total - successes, total)
  assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)
  wide_low, wide_high = evaluation.wilson(successes, total, confidence=0.99)
  assert wide_low <= low
  assert high <= wide_high


def test_wilson_covers_about_as_often_as_it_says():
  rate, total = 0.3, 60
  covered = 0.0
  for k in range(total + 1):
    low, high = evaluation.wilson(k, total)
    weight = math.comb(total, k) * rate**k * (1 - rate)**(total - k)
    covered += weight * (low <= rate <= high)
  assert 0.93 < covered < 0.97


@pytest.mark.parametrize('arguments, words', [
    ((-1, 5), 'successes=-1'), ((6, 5), 'total=5'),
    ((1, 5, 1.0), 'confidence=1.0'), ((0, 0, 0.0), 'confidence=0.0')])
def test_wilson_refuses(arguments, words):
  with pytest.raises(ValueError, match=words):
    evaluation.wilson(*arguments)


def test_pass_at_k_is_the_share_of_subsets():
  for n in range(1, 8):
    for c, k in itertools.product(range(n + 1), range(1, n + 1)):
      subsets = list(itertools.combinations(range(n), k))
      hits = sum(min(subset) < c for subset in subsets)
      got = evaluation.pass_at_k(num_samples=n, num_correct=c, k=k)
      assert got == float(fractions.Fraction(hits, len(subsets)))


def test_pass_at_k_of_many_samples():
  got = evaluation.pass_at_k(num_samples=10_000, num_correct=3, k=2000)
  assert got == pytest.approx(1 - 0.8**3, abs=1e-4)
  one = evaluation.pass_at_k(num_samples=16, num_correct=3, k=1)
  assert one == 3 / 16


@hypothesis.given(st.integers(1, 30), st.floats(0.01, 0.99), st.data())
def test_pass_at_k_is_unbiased(n, rate, data):
  k = data.draw(st.integers(1, n))
  mean = sum(
      math.comb(n, c) * rate**c * (1 - rate)**(n - c)
      * evaluation.pass_at_k(num_samples=n, num_correct=c, k=k)
      for c in range(n + 1))
  assert mean == pytest.approx(1 - (1 - rate)**k, abs=1e-9)


@pytest.mark.parametrize('n, c, k, words', [
    (4, 5, 1, 'num_correct=5'), (4, -1, 1, 'num_correct=-1'),
    (4, 2, 0, 'k=0'), (4, 2, 5, 'k=5'), (0, 0, 1, 'k=1')])
def test_pass_at_k_refuses(n, c, k, words):
  with pytest.raises(ValueError, match=words):
    evaluation.pass_at_k(num_samples=n, num_correct=c, k=k)


def test_mcnemar_is_the_binomial_tail():
  for a, b in itertools.product(range(7), repeat=2):
    n = a + b
    outcomes = list(itertools.product((0, 1), repeat=n))
    extreme = sum(abs(2 * sum(o) - n) >= abs(a - b) for o in outcomes)
    assert statistics.mcnemar(a, b) == pytest.approx(extreme / len(outcomes))
  assert statistics.mcnemar(0, 0) == 1.0


def test_difference_counts_pairs_and_changes_sign():
  a = [True] * 30 + [True] * 5 + [False] * 15 + [False] * 50
  b = [True] * 30 + [False] * 5 + [True] * 15 + [False] * 50
  forward = evaluation.difference_interval(a, b)
  backward = evaluation.difference_interval(b, a)
  assert forward.estimate == pytest.approx(0.1)
  assert forward.p_value == statistics.mcnemar(5, 15)
  assert backward.estimate == -forward.estimate
  assert (backward.low, backward.high) == pytest.approx(
      (-forward.high, -forward.low))
  assert forward.low < 0.1 < forward.high


def test_difference_of_extremes():
  none, every = [False] * 40, [True] * 40
  assert evaluation.difference_interval(none, every)[:1] == (1.0,)
  assert evaluation.difference_interval(none, every).high == 1.0
  same = evaluation.difference_interval(every, every)
  assert same.estimate == 0.0
  assert same.low < 0 < same.high


def test_pairing_narrows_the_interval():
  rng = random.Random(0)
  a = [rng.random() < 0.5 for _ in range(400)]
  b = [x or rng.random() < 0.1 for x in a]
  shuffled = b[:]
  rng.shuffle(shuffled)
  paired = evaluation.difference_interval(a, b)
  loose = evaluation.difference_interval(a, shuffled)
  assert paired.high - paired.low < 0.6 * (loose.high - loose.low)


def test_difference_interval_covers_about_as_often_as_it_says():
  rng = random.Random(1)
  truth, covered, trials = 0.1, 0, 600
  for _ in range(trials):
    draws = [rng.random() for _ in range(80)]
    a = [x < 0.45 for x in draws]  # both 0.40, only a 0.05, only b 0.15
    b = [x < 0.40 or 0.45 <= x < 0.60 for x in draws]
    got = evaluation.difference_interval(a, b)
    covered += got.low <= truth <= got.high
  assert 0.93 < covered / trials < 0.985


@pytest.mark.parametrize('a, b', [([], []), ([True], [True, False])])
def test_difference_refuses(a, b):
  with pytest.raises(ValueError, match='pair the outcomes'):
    evaluation.difference_interval(a, b)
