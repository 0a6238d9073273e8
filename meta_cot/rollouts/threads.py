# SPDX-License-Identifier: Apache-2.0
"""What threads are, and the table of the texts of a rollout with threads.

A trajectory is a parent's text and those of its threads. A parent that writes
`spawn_id` waits: a thread begins with that mark and each of the messages that
it has written since the last time, and when all of them have ended the parent
goes on behind the lines that they return. Every text is a row of its own behind
the question: the parent has a new one for each time it goes on, which begins
with all that it had before. What a row begins with is forced: read, not drawn.

Axes besides those of `episodes`: J joins of a parent, W threads of a join, K
rows of a trajectory, R = N * K rows. Row 0 of a trajectory is the parent's;
behind each but the last row of the parent follow the W rows of its threads,
then the parent's next one. All functions here are of one part of the mesh.
"""

import dataclasses
import functools
from typing import ClassVar

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import decode

NONE, READY, RUNNING, DONE = range(4)  # of a row


@dataclasses.dataclass(frozen=True)
class Rules:
  """The rules of a trajectory; marks are one token each.

  Raises:
    ValueError: no trajectory can follow these rules.
  """

  feedback: ClassVar[None] = None  # nothing is said between texts
  num_joins: int  # J, at most
  num_threads: int  # W, at most; messages behind them are not heard
  window: int  # tokens of a parent's text behind the question, at most
  thread_window: int  # the same of a thread's, its mark and message included
  sampling: decode.Sampling
  stop_ids: tuple[int, ...]  # each ends a text
  spawn_id: int
  message_end_id: int
  opening_id: int  # stands before the solution of a thread
  found_id: int  # begins the line of a thread that has ended with a solution
  nothing_id: int  # is the line of any other one
  line_end_id: int

  def __post_init__(self):
    for name, low in dict(
        num_joins=0, num_threads=1, window=1, thread_window=2).items():
      if getattr(self, name) < low:
        raise ValueError(
            f'{name}: got {getattr(self, name)}; must be at least {low}.')

  @property
  def num_rows(self) -> int:
    """K."""
    return self.num_joins * (self.num_threads + 1) + 1

  @property
  def row_length(self) -> int:
    """C."""
    return max(self.window, self.thread_window) if self.num_joins else (
        self.window)

  def max_steps(self, num_rows: int, num_slots: int) -> int:
    """Counts steps after which so many rows have ended in so many slots.

    A slot waits only while there is no row for it: then those that run are on
    the way of some trajectory.
    """
    longest = (self.num_joins + 1) * self.window + (
        self.num_joins * self.thread_window)
    return -(-num_rows // num_slots) * self.row_length + longest


@struct.dataclass
class Table:
  """All rows; those that were never begun have length 0."""

  tokens: jax.Array  # [R, C] int32
  log_probs: jax.Array  # [R, C] float32, 0 where nothing was drawn
  starts: jax.Array  # [R] int32, tokens that are forced
  lengths: jax.Array  # [R] int32, tokens so far
  status: jax.Array  # [R] int32


@struct.dataclass
class Rollouts:
  """Trajectories of Q questions; the R axis may be split over devices."""

  tokens: jax.Array  # [R, C] int32, behind the question
  log_probs: jax.Array  # [R, C] float32, natural; 0 where nothing was drawn
  starts: jax.Array  # [R] int32, forced tokens
  lengths: jax.Array  # [R] int32, forced ones included; 0: no such row
  num_steps: jax.Array  # [] int32, of the loop
  num_live: jax.Array  # [] int32, slots that added a token, over all steps


@dataclasses.dataclass(frozen=True)
class Trajectory:
  """What a parent and its threads wrote, tokens."""

  parent: list[int]  # all that it has, lines that were joined included
  threads: list[list[int]]  # each with its message, without its end
  is_finished: bool  # the parent has ended by one of `stop_ids`
  num_tokens: int  # drawn, all texts together
  # Drawn one after another: of the parent, and at every join of the thread
  # that drew most.
  num_sequential: int
  longest: int  # tokens of the longest text
  num_joins: int  # behind which the parent went on


def read(
    rules: Rules, tokens_KxC: np.ndarray, starts_K: np.ndarray,
    lengths_K: np.ndarray,
) -> Trajectory:
  """Reads the rows of one trajectory, NumPy."""
  width, drawn_K = rules.num_threads, lengths_K - starts_K
  parents = [
      k for k in range(0, rules.num_rows, width + 1) if lengths_K[k]]
  texts = {
      k: tokens_KxC[k, :lengths_K[k]].tolist()
      for k in np.flatnonzero(lengths_K).tolist()}
  is_finished = texts[parents[-1]][-1] in rules.stop_ids
  without_end = lambda text: text[:-1] if text[-1] in rules.stop_ids else text
  return Trajectory(
      parent=without_end(texts[parents[-1]]),
      threads=[
          without_end(text) for k, text in texts.items() if k not in parents],
      is_finished=is_finished, num_tokens=int(drawn_K.sum()),
      num_sequential=int(sum(
          drawn_K[k] + max(drawn_K[k + 1:k + width + 1], default=0)
          for k in parents)),
      longest=int(lengths_K.max()), num_joins=len(parents) - 1)


def empty(rules: Rules, num_rows: int) -> Table:
  """Makes the table in which every parent is ready."""
  column_R = jnp.arange(num_rows, dtype=jnp.int32)
  shape = num_rows, rules.row_length
  return Table(
      tokens=jnp.zeros(shape, jnp.int32),
      log_probs=jnp.zeros(shape, jnp.float32),
      starts=jnp.zeros(num_rows, jnp.int32),
      lengths=jnp.zeros(num_rows, jnp.int32),
      status=jnp.where(column_R % rules.num_rows == 0, READY, NONE))


def is_parent(rules: Rules, row: jax.Array) -> jax.Array:
  """Tells whether rows, of any shape, are parents'."""
  return row % rules.num_rows % (rules.num_threads + 1) == 0


def limit(rules: Rules, row: jax.Array) -> jax.Array:
  """Finds how long rows, of any shape, may be."""
  return jnp.where(is_parent(rules, row), rules.window, rules.thread_window)


def spawn(
    rules: Rules, table: Table, row_S: jax.Array, is_spawning_S: jax.Array
) -> Table:
  """Begins the threads of parents that have just asked for them.

  A message ends with `message_end_id`; one that fills the window is cut. A
  parent without messages goes on at once.
  """
  width, (num_rows, num_new) = rules.num_threads, table.tokens.shape
  text_SxC, starts_S, lengths_S = _rows(table, row_S)
  messages_SxWxC, sizes_SxW, number_S = jax.vmap(
      functools.partial(_messages, rules))(text_SxC, starts_S, lengths_S)
  place_SxW = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None], sizes_SxW.shape)
  is_there_SxW = is_spawning_S[:, None] & (place_SxW < number_S[:, None])
  rows_SxW = row_S[:, None] + 1 + place_SxW
  table = _begin(
      table, jnp.where(is_there_SxW, rows_SxW, num_rows).reshape(-1),
      messages_SxWxC.reshape(-1, num_new), sizes_SxW.reshape(-1))
  is_alone_S = is_spawning_S & (number_S == 0)
  return _begin(
      table, jnp.where(is_alone_S, row_S + width + 1, num_rows), text_SxC,
      lengths_S)


def _messages(rules, text_C, start, length):
  """Of one parent: marked messages [W, C], their tokens, how many there are.
  """
  column_C = jnp.arange(len(text_C), dtype=jnp.int32)
  is_end_C = (text_C == rules.message_end_id) & (column_C >= start) & (
      column_C < length)
  count_C = jnp.cumsum(is_end_C, dtype=jnp.int32)
  number_W = jnp.arange(1, rules.num_threads + 1, dtype=jnp.int32)
  ends_W = 1 + jnp.argmax(
      count_C[None] == number_W[:, None], axis=1).astype(jnp.int32)
  begins_W = jnp.concatenate([start[None], ends_W[:-1]])
  at_WxC = jnp.clip(
      begins_W[:, None] + column_C[None] - 1, 0, len(text_C) - 1)
  return text_C[at_WxC].at[:, 0].set(rules.spawn_id), jnp.minimum(
      1 + ends_W - begins_W, rules.thread_window - 1), count_C[-1]


def join(
    rules: Rules, table: Table, row_S: jax.Array, is_ended_S: jax.Array
) -> Table:
  """Lets parents go on whose last threads have just ended.

  Several of them may be of one parent. A parent whose window has no room for a
  token behind the lines does not go on.
  """
  width, num_rows = rules.num_threads, len(table.status)
  parent_S = row_S - row_S % rules.num_rows % (width + 1)
  threads_SxW = parent_S[:, None] + 1 + (
      jnp.arange(width, dtype=jnp.int32)[None])
  status_SxW = table.status.at[threads_SxW].get(mode='fill', fill_value=NONE)
  text_SxC, _, lengths_S = _rows(table, parent_S)
  text_SxC, total_S = jax.vmap(functools.partial(_joined, rules))(
      text_SxC, lengths_S, *_rows(table, threads_SxW), status_SxW == DONE)
  goes_on_S = is_ended_S & (total_S < rules.window) & jnp.all(
      (status_SxW == NONE) | (status_SxW == DONE), axis=1)
  return _begin(
      table, jnp.where(goes_on_S, parent_S + width + 1, num_rows), text_SxC,
      total_S)


def _joined(
    rules, text_C, length, tokens_WxC, starts_W, lengths_W, is_there_W):
  """Of one parent: its text with all lines behind it, and its tokens."""
  lines_WxC, sizes_W = jax.vmap(functools.partial(_line, rules))(
      tokens_WxC, starts_W, lengths_W)
  sizes_W = jnp.where(is_there_W, sizes_W, 0)
  ends_W = length + jnp.cumsum(sizes_W, dtype=jnp.int32)
  column_WxC = jnp.broadcast_to(
      jnp.arange(len(text_C), dtype=jnp.int32)[None], lines_WxC.shape)
  at_WxC = jnp.where(
      column_WxC < sizes_W[:, None], (ends_W - sizes_W)[:, None] + column_WxC,
      len(text_C))
  return text_C.at[at_WxC].set(lines_WxC, mode='drop'), ends_W[-1]


def _line(rules, tokens_C, start, length):
  """Of one thread that has ended: the line [C], and its tokens."""
  column_C = jnp.arange(len(tokens_C), dtype=jnp.int32)
  opening = jnp.max(jnp.where(
      (tokens_C == rules.opening_id) & (column_C >= start)
      & (column_C < length), column_C, -1))
  is_found = (opening >= 0) & (length > start) & decode.is_one_of(
      tokens_C[jnp.maximum(length - 1, 0)], rules.stop_ids)
  # From the opening up to the end; both are replaced.
  size = jnp.where(is_found, length - opening, 1)
  line_C = jnp.where(
      column_C == size - 1, rules.line_end_id, jnp.roll(tokens_C, -opening))
  return line_C.at[0].set(
      jnp.where(is_found, rules.found_id, rules.nothing_id)), size


def _rows(table, rows) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Texts, starts and lengths of some rows; zeros behind the last."""
  return tuple(
      x.at[rows].get(mode='fill', fill_value=0)
      for x in (table.tokens, table.starts, table.lengths))


def _begin(table, rows_X, texts_XxC, starts_X) -> Table:
  """Makes rows ready to begin with texts; rows behind the last are none."""
  put = lambda x, new: x.at[rows_X].set(new, mode='drop')
  return table.replace(
      tokens=put(table.tokens, texts_XxC), starts=put(table.starts, starts_X),
      status=put(table.status, READY))


def deal(table: Table, row_S: jax.Array) -> tuple[Table, jax.Array]:
  """Gives slots whose row has ended, or that have none, the next ready rows.

  Returns:
    The table, and the rows [S] of all slots; behind the last: none.
  """
  num_rows, num_slots = len(table.status), len(row_S)
  status_S = table.status.at[row_S].get(mode='fill', fill_value=DONE)
  is_free_S = status_S != RUNNING
  ready_S = jnp.nonzero(
      table.status == READY, size=num_slots, fill_value=num_rows)[0]
  place_S = jnp.cumsum(is_free_S, dtype=jnp.int32) - 1
  row_S = jnp.where(
      is_free_S, ready_S[place_S].astype(jnp.int32), row_S)
  return table.replace(
      status=table.status.at[row_S].set(RUNNING, mode='drop')), row_S
