# SPDX-License-Identifier: Apache-2.0
"""When does a look-ahead pay? The simplest model of a search with a value.

A solution has D steps. A step of the policy keeps a live state alive with a
probability of its own; what is dead stays dead; a solution that is alive is
right. What the value says of a state is a normal variable that is larger for
live states, by as much as its AUC says (binormal). A beam and best-of-N with
the same judge of whole solutions, at equal numbers of steps, differ by no more
than this.

Axes: D steps, P simulated problems, M nodes of a level.
"""

from collections.abc import Sequence
import statistics

import numpy as np


def separation(auc: float) -> float:
  """Computes how far apart the means of unit normals of an AUC are.

  Infinite for 1: an oracle.

  Raises:
    ValueError: an AUC outside [0, 1].
  """
  if not 0 <= auc <= 1:
    raise ValueError(f'{auc=} must be at least 0 and at most 1.')
  if auc in (0, 1):
    return (2 * auc - 1) * float('inf')
  return 2**0.5 * statistics.NormalDist().inv_cdf(auc)


def num_steps(branching: Sequence[int], beam_width: int) -> int:
  """Counts the steps of a beam: the children of the nodes of every level."""
  total, width = 0, 1
  for number in branching:
    total += width * number
    width = min(width * number, beam_width)
  return total


def beam(
    step_success: Sequence[float], auc: Sequence[float],
    branching: Sequence[int], beam_width: int, num_problems: int,
    rng: np.random.Generator,
) -> float:
  """Simulates a beam.

  Args:
    step_success: of every depth, that a step of a live state leaves it alive.
    auc: of every depth, of the values of the states behind these steps; the
      last one is that of the judge of whole solutions.
    branching: of every depth, children of a node.
    beam_width: nodes kept of a level; of the last one the best is the answer.
    num_problems: P.
    rng: consumed.

  Returns:
    The share of problems whose answer is alive.
  """
  is_alive_PxM = np.ones((num_problems, 1), bool)
  last = len(step_success) - 1
  for depth, (success, quality, number) in enumerate(
      zip(step_success, auc, branching, strict=True)):
    is_alive_PxM = np.repeat(is_alive_PxM, number, axis=1)
    is_alive_PxM &= rng.random(is_alive_PxM.shape) < success
    is_alive_PxM = _best(
        is_alive_PxM, quality, 1 if depth == last else beam_width, rng)
  return float(is_alive_PxM[:, 0].mean())


def best_of_n(
    step_success: Sequence[float], judge_auc: float, number: float,
    num_problems: int, rng: np.random.Generator,
) -> float:
  """Simulates the best of `number` whole solutions by a judge of them.

  Where the number is not whole some problems get one solution more.
  """
  success = float(np.prod(step_success))
  number_P = np.full(num_problems, max(int(number), 1))
  number_P += rng.random(num_problems) < max(number, 1.0) - number_P
  is_right_PxM = rng.random((num_problems, number_P.max())) < success
  is_there_PxM = np.arange(number_P.max())[None] < number_P[:, None]
  return float(_best(
      is_right_PxM, judge_auc, 1, rng, is_there_PxM)[:, 0].mean())


def _best(is_alive_PxM, auc: float, number: int, rng, is_there_PxM=None):
  """The nodes with the highest values; equal ones in any order."""
  noise_PxM = rng.standard_normal(is_alive_PxM.shape)
  distance = separation(auc)
  if np.isinf(distance):
    # The noise decides among equals only.
    distance = np.sign(distance) * 1e6
  values_PxM = noise_PxM + distance * is_alive_PxM
  if is_there_PxM is not None:
    values_PxM = np.where(is_there_PxM, values_PxM, -np.inf)
  best_PxK = np.argsort(-values_PxM, axis=1)[:, :number]
  return np.take_along_axis(is_alive_PxM, best_PxK, axis=1)
