# SPDX-License-Identifier: Apache-2.0
"""What is logged of an iteration, and what a user is warned of."""

import logging
import math
from typing import Any

import numpy as np

from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib

_FLAT = 0.9  # share of groups without gradient that is worth a warning
_LOW_ENTROPY = 0.1  # of the first iteration's
_SHORT, _LONG = 0.25, 4.0  # of the tokens of the first iteration
_REPEATED = 0.9  # share of attempts that repeat an earlier one
_TRUNCATED = 0.5  # share of episodes that were cut off

# Columns of the first iteration that `warn` compares with.
COMPARED = ('entropy', 'tokens_per_trajectory')


def collected(
    judged: judge_lib.Judged, rollouts: episodes.Rollouts,
    is_flat_N: np.ndarray, *, num_samples: int, num_slots: int,
) -> dict[str, float]:
  """Makes columns on what was collected.

  Args:
    judged: verdicts.
    rollouts: NumPy, in `num_slots`.
    is_flat_N: trajectories that have no advantage anywhere.
    num_samples: G.
    num_slots: trajectories at a time.
  """
  taken, final_N = judged.is_taken, judged.rewards[:, -1]
  groups = lambda x_N: x_N.reshape(-1, num_samples)
  per_episode = {
      f'episode_{e + 1}/{name}': _mean(x[:, e], taken[:, e])
      for e in range(taken.shape[1])
      for name, x in (
          ('success', judged.rewards), ('tokens', judged.num_tokens))}
  tokens_N = judged.num_tokens.sum(axis=1)
  is_solved_N = judged.rewards.any(axis=1)
  first_N = np.argmax(judged.rewards, axis=1)
  until = judged.tokens_before + judged.num_tokens
  return per_episode | dict(
      success=float(final_N.mean()),
      solved_in_any=float(is_solved_N.mean()),
      groups_all_right=float((groups(final_N) == 1).all(axis=1).mean()),
      groups_all_wrong=float((groups(final_N) == 0).all(axis=1).mean()),
      groups_without_gradient=float(groups(is_flat_N).all(axis=1).mean()),
      ended_by_stop=_mean(judged.is_finished, taken),
      gave_up=_mean(judged.has_given_up, taken),
      truncated=_mean(~judged.is_finished & ~judged.has_given_up, taken),
      episodes_missing=float((~taken).mean()),
      undecided=float(judged.is_undecided.sum()),
      repeated=_mean(judged.is_repeated[:, 1:], taken[:, 1:]),
      tokens_per_trajectory=float(tokens_N.mean()),
      tokens_to_solution=_mean(
          np.take_along_axis(until, first_N[:, None], 1)[:, 0], is_solved_N),
      tokens=float(tokens_N.sum() + groups(judged.num_explored)[:, 0].sum()),
      explored_tokens=float(judged.num_explored.mean()),
      occupancy=float(rollouts.num_live) / max(
          1, int(rollouts.num_steps) * num_slots))


def updated(rows: list[dict[str, Any]], name: str, step: int) -> dict:
  """Makes columns on the updates: means over them.

  Args:
    rows: metrics of the updates, as numbers; `gap_*` are those of the first, as
      later ones compare with an older policy.
    name: of the run, for errors.
    step: of the last update.

  Raises:
    FloatingPointError: a loss or gradient is not finite; names the step.
  """
  for number, row in enumerate(rows, step - len(rows) + 1):
    for key in ('loss', 'grad_norm'):
      if not math.isfinite(row[key]):
        raise FloatingPointError(
            f'{name}: {key} is {row[key]} at update {number}; no checkpoint of '
            'it was written. Lower config.rl.optimizer.learning_rate or '
            'config.rl.loss.kl_coefficient.')
  first = {k: v for k, v in rows[0].items() if k.startswith('gap_')}
  return {k: sum(r[k] for r in rows) / len(rows) for k in rows[0]} | first | {
      'learning_rate': rows[-1]['learning_rate'],
      'grad_norm_max': max(r['grad_norm'] for r in rows)}


def warn(
    row: dict[str, float], first: dict[str, float], name: str) -> list[str]:
  """Logs what looks wrong in an iteration of the run `name`, and returns it.

  `first` has `COMPARED` of the run's first iteration.
  """
  tokens, before = (x['tokens_per_trajectory'] for x in (row, first))
  found = [text for is_wrong, text in (
      (row['groups_without_gradient'] > _FLAT,
       f'{row["groups_without_gradient"]:.0%} of the groups carry no gradient '
       f'({row["groups_all_right"]:.0%} all right, '
       f'{row["groups_all_wrong"]:.0%} all wrong): ask harder or easier '
       'questions, or raise config.rl.questions.num_samples'),
      (row['entropy'] < _LOW_ENTROPY * first['entropy'],
       f'the entropy fell from {first["entropy"]:.3f} to {row["entropy"]:.3f} '
       'nats: raise config.rl.loss.entropy_bonus or the KL coefficient'),
      (not _SHORT * before <= tokens <= _LONG * before,
       f'trajectories went from {before:.0f} to {tokens:.0f} tokens: raise the '
       'KL coefficient, or set config.rl.loss.token_weights to another kind'),
      (row['repeated'] > _REPEATED,
       f'{row["repeated"]:.0%} of the attempts repeat an earlier one of their '
       'trajectory'),
      (row['truncated'] > _TRUNCATED,
       f'{row["truncated"]:.0%} of the episodes were cut off: raise '
       'config.rl.episodes.episode_length'),
      (row['undecided'] > 0,
       f'the verifier could not decide {row["undecided"]:.0f} episodes'),
  ) if is_wrong]
  for text in found:
    logging.warning('%s: %s', name, text)
  return found


def _mean(values: np.ndarray, mask: np.ndarray) -> float:
  """Mean where `mask`; 0 where that is nowhere."""
  return float(values[mask].mean()) if mask.any() else 0.0
