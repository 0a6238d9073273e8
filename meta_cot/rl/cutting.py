# SPDX-License-Identifier: Apache-2.0
"""The part of an iteration's batch from which something is learned.

Rows of questions without a gradient are left out, and rows end behind the
longest that is left. What is left has one of a few shapes, so that an update is
compiled for each of them once.

Axes: Q questions, R rows, R / Q of each question in turn, X positions of a row,
P tokens of a prompt.
"""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import numpy as np

from meta_cot import sharding
from meta_cot.rl import objective as objective_lib

_SHARES = (1 / 4, 1 / 2, 3 / 4)  # of the questions
_LENGTHS = (1 / 2,)  # of the positions behind a prompt


@dataclasses.dataclass(frozen=True)
class Shapes:
  """What a batch may be cut to; the last of each is all of it."""

  questions: tuple[int, ...]  # rising
  widths: tuple[int, ...]  # rising

  @property
  def number(self) -> int:
    """How many shapes there are, at most so many updates are compiled."""
    return len(self.questions) * len(self.widths)


class Cut(NamedTuple):
  """What of a batch is learned."""

  order_Q: np.ndarray  # questions, those that are kept first
  num_questions: int  # that are kept
  width: int  # positions that are kept

  def __call__(self, batch: objective_lib.Batch) -> objective_lib.Batch:
    """Cuts it; see `cut`."""
    return cut(batch, self.order_Q, num_questions=self.num_questions,
               width=self.width)


def shapes(
    num_rows: int, length: int, *, num_questions: int, width: int, pieces: int,
    num_minibatches: int, num_parts: int, num_chunks: int, may_skip: bool,
) -> Shapes:
  """Finds the shapes of a batch.

  Args:
    num_rows: R of the whole batch.
    length: X of the whole batch.
    num_questions: Q.
    width: P.
    pieces: micro-batches of an iteration and devices, which must divide rows.
    num_minibatches: of them; a row stays in its own.
    num_parts: data-parallel devices, which must divide questions.
    num_chunks: must divide the positions.
    may_skip: whether rows without an advantage have no gradient.
  """
  per_question = num_rows // num_questions
  questions = [num_questions]
  if may_skip and per_question % num_minibatches == 0:
    questions += (math.ceil(num_questions * share) for share in _SHARES)
  up = lambda x: -(-math.ceil(x) // num_chunks) * num_chunks
  widths = (up(width + (length - width) * share) for share in _LENGTHS)
  return Shapes(
      tuple(sorted({
          q for q in questions if q == num_questions or not (
              q % num_parts or q * per_question % pieces)})),
      tuple(sorted({length, *(w for w in widths if width < w < length)})))


def choose(
    found: Shapes, is_flat_N: np.ndarray, ends_R: Sequence[int]
) -> tuple[np.ndarray, int, int]:
  """Chooses what is kept.

  Args:
    found: the shapes.
    is_flat_N: trajectories without an advantage.
    ends_R: positions of a row up to its last token, with the widest prompt:
      rows that share prompts have as many behind each.

  Returns:
    The questions [Q] int32, those with a gradient first, each kind in its
    order; how many of them are kept; and how many positions.
  """
  num = found.questions[-1]
  is_flat_Q = np.asarray(is_flat_N).reshape(num, -1).all(axis=1)
  order_Q = np.argsort(is_flat_Q, kind='stable').astype(np.int32)
  first = lambda sizes, least: next(x for x in sizes if x >= least)
  kept = first(found.questions, num - int(is_flat_Q.sum()))
  if kept == num:
    order_Q = np.arange(num, dtype=np.int32)
  longest = np.reshape(ends_R, (num, -1))[order_Q[:kept]].max()
  return order_Q, kept, first(found.widths, min(longest, found.widths[-1]))


@functools.partial(jax.jit, static_argnames=('num_questions', 'width'))
def cut(
    batch: objective_lib.Batch, order_Q: jax.Array, *, num_questions: int,
    width: int,
) -> objective_lib.Batch:
  """Keeps the first questions of an order, and the first positions of rows.

  Weights of tokens stay what they were: so does the gradient, where what is
  left out has none.
  """
  total = len(order_Q)
  order_K = order_Q[:num_questions]

  def rows(x_Rx):
    of_questions = x_Rx.reshape(total, -1, *x_Rx.shape[1:])
    x_Rx = of_questions[order_K].reshape(-1, *x_Rx.shape[1:])
    return x_Rx[:, :width] if x_Rx.ndim > 1 else x_Rx

  kept = jax.tree.map(rows, batch.replace(prompts=None))
  if batch.prompts is not None:
    kept = kept.replace(prompts=jax.tree.map(
        lambda x_Qx: x_Qx[order_K], batch.prompts))
  return jax.tree.map(
      lambda x: sharding.constrain(x, 'act_batch', *[None] * (x.ndim - 1)),
      kept)
