# SPDX-License-Identifier: Apache-2.0
"""What is logged of an iteration, and what is warned of."""

import math
import re
import statistics

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from meta_cot.rl import monitor
from meta_cot.rollouts import judge as judge_lib

_Q, _G, _E = 3, 4, 3
_N = _Q * _G
_GOOD = dict(
    groups_without_gradient=0.9, groups_all_right=0.5, groups_all_wrong=0.4,
    entropy=0.11, tokens_per_trajectory=10.0, repeated=0.9, truncated=0.5,
    undecided=0.0)
_FIRST = dict(entropy=1.0, tokens_per_trajectory=40.0)


class _Played:
  """Of rollouts, what occupancy needs."""

  num_live, num_steps = 30, 10


def _judged(seed) -> judge_lib.Judged:
  rng = np.random.default_rng(seed)
  taken = np.arange(_E) < rng.integers(1, _E + 1, (_N, 1))
  coin = lambda: (rng.uniform(size=(_N, _E)) < 0.4) & taken
  finished = coin()
  return judge_lib.Judged(
      rewards=(coin() & finished).astype(np.float32), is_taken=taken,
      is_finished=finished, has_given_up=coin() & ~finished,
      is_undecided=coin(), is_repeated=coin() & (np.arange(_E) > 0),
      num_tokens=(rng.integers(1, 9, (_N, _E)) * taken).astype(np.int32),
      answers=np.zeros((_N, _E), np.int32),
      num_searched=np.zeros((_N, _E), np.int32),
      num_explored=np.repeat(rng.integers(0, 9, _Q), _G).astype(np.int32))


def _mean(values):
  values = [float(v) for v in values]
  return statistics.fmean(values) if values else 0.0


@hypothesis.given(st.integers(0, 10_000))
def test_what_was_collected(seed):
  judged = _judged(seed)
  flat = np.random.default_rng(seed).uniform(size=_N) < 0.8
  row = monitor.collected(
      judged, _Played(), flat, num_samples=_G, num_slots=5)
  played = [(n, e) for n in range(_N) for e in range(_E)
            if judged.is_taken[n, e]]
  groups = [range(q * _G, q * _G + _G) for q in range(_Q)]
  last = judged.rewards[:, -1]
  drawn = lambda n, e: int(judged.num_tokens[n, :e + 1].sum())
  explored = [int(judged.num_explored[q * _G]) for q in range(_Q)]
  want = dict(
      success=_mean(last),
      solved_in_any=_mean(any(judged.rewards[n]) for n in range(_N)),
      groups_all_right=_mean(all(last[n] for n in g) for g in groups),
      groups_all_wrong=_mean(not any(last[n] for n in g) for g in groups),
      groups_without_gradient=_mean(all(flat[n] for n in g) for g in groups),
      ended_by_stop=_mean(judged.is_finished[i] for i in played),
      gave_up=_mean(judged.has_given_up[i] for i in played),
      truncated=_mean(
          not (judged.is_finished[i] or judged.has_given_up[i])
          for i in played),
      episodes_missing=1 - len(played) / (_N * _E),
      undecided=sum(bool(judged.is_undecided[i]) for i in played),
      repeated=_mean(judged.is_repeated[n, e] for n, e in played if e),
      tokens_per_trajectory=_mean(drawn(n, _E) for n in range(_N)),
      tokens=sum(drawn(n, _E) for n in range(_N)) + sum(explored),
      explored_tokens=_mean(explored),
      tokens_to_solution=_mean(
          explored[n // _G] + drawn(n, list(judged.rewards[n]).index(1.0))
          for n in range(_N) if any(judged.rewards[n])),
      occupancy=30 / 50)
  for e in range(_E):
    here = [n for n in range(_N) if judged.is_taken[n, e]]
    want[f'episode_{e + 1}/success'] = _mean(judged.rewards[n, e] for n in here)
    want[f'episode_{e + 1}/tokens'] = _mean(
        judged.num_tokens[n, e] for n in here)
  assert row.keys() == want.keys()
  for key, value in want.items():
    assert math.isclose(row[key], value, rel_tol=1e-5, abs_tol=1e-6), key
    assert type(row[key]) is float


def test_updates_are_averaged():
  rows = [dict(loss=1.0, grad_norm=2.0, gap_max=0.1, learning_rate=0.5),
          dict(loss=3.0, grad_norm=6.0, gap_max=0.9, learning_rate=0.4)]
  assert monitor.updated(rows, 'x', 8) == dict(
      loss=2.0, grad_norm=4.0, grad_norm_max=6.0, learning_rate=0.4,
      gap_max=0.1)  # later updates compare with an older policy


@pytest.mark.parametrize('key', ['loss', 'grad_norm'])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_what_is_not_finite_is_named(key, value):
  rows = [dict(loss=1.0, grad_norm=1.0, learning_rate=1.0) for _ in range(3)]
  rows[1][key] = value
  with pytest.raises(
      FloatingPointError,
      match=f'erl2, seed 0: {key} is {value} at update 8; no checkpoint'):
    monitor.updated(rows, 'erl2, seed 0', 9)


@pytest.mark.parametrize('changes, words', [
    (dict(groups_without_gradient=0.91),
     r'91% of the groups carry no gradient \(50% all right, 40% all wrong\)'),
    (dict(entropy=0.09), 'the entropy fell from 1.000 to 0.090 nats'),
    (dict(tokens_per_trajectory=9.0), 'trajectories went from 40 to 9 tokens'),
    (dict(tokens_per_trajectory=161.0), 'trajectories went from 40 to 161'),
    (dict(repeated=0.95), '95% of the attempts repeat'),
    (dict(truncated=0.51), '51% of the episodes were cut off'),
    (dict(undecided=2.0), 'the verifier could not decide 2 episodes')])
def test_warnings(caplog, changes, words):
  assert not monitor.warn(_GOOD, _FIRST, 'x')
  assert not caplog.records
  (word,) = monitor.warn(_GOOD | changes, _FIRST, 'erl2, seed 3')
  (record,) = caplog.records
  assert record.levelname == 'WARNING'
  assert record.getMessage() == f'erl2, seed 3: {word}'
  assert record.getMessage().count('\n') == 0
  assert re.match(words, word)


def test_all_warnings_at_once():
  bad = dict(
      groups_without_gradient=1.0, entropy=0.0, tokens_per_trajectory=1.0,
      repeated=1.0, truncated=1.0, undecided=1.0)
  assert len(monitor.warn(_GOOD | bad, _FIRST, 'x')) == 6
