# SPDX-License-Identifier: Apache-2.0
"""The slots of a rollout: which trajectory is where, and what comes next.

Slots, questions and trajectories are cut into parts, one per part of a batch
on the mesh. Part m has the same share of each; all indexing happens inside a
part, so nothing crosses devices. Axes as in `rollout`; M parts.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import reasoning
from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.rollouts import episodes
from meta_cot.types import PRNGKey


@struct.dataclass
class Beginning:
  """Where the trajectories of a question begin; zeros: with the question.

  A prompt may hold episodes, and the first tokens of the one that goes on.
  """

  episode: jax.Array  # [Q] int32, its number
  drawn: jax.Array  # [Q] int32, tokens that it has already


@struct.dataclass
class Slots:
  """Trajectories on their way; all arrays [S] or [S, ...]."""

  trajectory: jax.Array  # [S] int32, inside its part; behind the last: idle
  is_live: jax.Array  # [S] bool
  episode: jax.Array  # [S] int32
  length: jax.Array  # [S] int32, tokens of the row
  num_drawn: jax.Array  # [S] int32, in the trajectory
  in_episode: jax.Array  # [S] int32, drawn in the episode
  forced: jax.Array  # [S, F] int32, what the environment says first
  num_forced: jax.Array  # [S] int32
  at_forced: jax.Array  # [S] int32, how many of them the row has
  attempt: jax.Array  # [S, T] int32, drawn in the episode; [S, 0] if not needed
  seen: jax.Array  # [S, W, T + F'] int32, earlier attempts in the window
  seen_lengths: jax.Array  # [S, W] int32
  next: jax.Array  # [M] int32, the queue's head


@struct.dataclass
class Added:
  """One token per slot."""

  tokens: jax.Array  # [S] int32
  log_probs: jax.Array  # [S] float32
  is_drawn: jax.Array  # [S] bool
  is_end: jax.Array  # [S] bool, of an episode
  is_over: jax.Array  # [S] bool, the trajectory is


def add(
    rules: episodes.Episodes, slots: Slots, drawn_S: jax.Array,
    log_probs_S: jax.Array,
) -> Added:
  """Chooses the token that every slot gets, given those drawn for them."""
  is_forced_S = slots.at_forced < slots.num_forced
  tokens_S = drawn_S
  if slots.forced.shape[1]:
    at_Sx1 = jnp.minimum(slots.at_forced, slots.forced.shape[1] - 1)[:, None]
    tokens_S = jnp.where(
        is_forced_S, jnp.take_along_axis(slots.forced, at_Sx1, 1)[:, 0],
        drawn_S)
  is_drawn_S = slots.is_live & ~is_forced_S
  ends = rules.stop_ids
  if rules.give_up_id is not None:
    ends += (rules.give_up_id,)
  is_ending_S = decode.is_one_of(tokens_S, ends)
  is_spent_S = jnp.zeros_like(is_drawn_S)
  if rules.max_tokens is not None:
    is_spent_S = is_drawn_S & (slots.num_drawn + 1 >= rules.max_tokens)
  is_end_S = is_spent_S | is_drawn_S & (
      is_ending_S | (slots.in_episode + 1 >= rules.episode_length))
  return Added(
      tokens=tokens_S, log_probs=jnp.where(is_drawn_S, log_probs_S, 0.0),
      is_drawn=is_drawn_S, is_end=is_end_S,
      is_over=is_end_S & (
          is_spent_S | (slots.episode + 1 >= rules.num_episodes)))


@dataclasses.dataclass(frozen=True)
class Parts:
  """How slots and questions are cut. All numbers divide."""

  num_questions: int
  num_samples: int
  num_slots: int
  num_parts: int

  def check(
      self, what: str, max_length: int, num_prompt: int, row_length: int
  ) -> None:
    """Raises a ValueError where rows of `what` do not fit, or the parts."""
    if num_prompt + row_length > max_length:
      raise ValueError(
          f'{what}: {row_length} tokens after prompts of {num_prompt}; '
          'together they must be at most config.model.max_length, '
          f'{max_length}.')
    for name in ('num_questions', 'num_slots'):
      if getattr(self, name) % self.num_parts:
        raise ValueError(
            f'{name}: got {getattr(self, name)}; must be a multiple of '
            f'{self.num_parts}, the parts that the mesh splits a batch into.')

  def take(self, x_Qx: jax.Array, questions_S: jax.Array) -> jax.Array:
    """Takes rows of the slots' questions, [S, ...]."""
    return split(self.each(lambda x, q: x[q], x_Qx, questions_S))

  def take_cache(
      self, cache: cache_lib.Cache, questions_S: jax.Array
  ) -> cache_lib.Cache:
    """Takes the prompts of the slots, S rows."""
    return _of_rows(
        lambda x: self.each(lambda x, q: x[q], x, questions_S), cache)

  def refill(
      self, old: cache_lib.Cache, prompts: cache_lib.Cache,
      questions_S: jax.Array, is_new_S: jax.Array,
  ) -> cache_lib.Cache:
    """Replaces the slots' prompts where `is_new_S`."""

    def put(old, prompts):
      # As many as come in most steps at once; more come in turns.
      width = max(1, self.num_slots // self.num_parts // 8)
      return jax.lax.while_loop(
          lambda carry: jnp.any(carry[1]),
          functools.partial(self._refill, width, prompts, questions_S),
          (old, is_new_S))[0]

    return jax.lax.cond(
        jnp.any(is_new_S), put, lambda old, _: old, old, prompts)

  def _refill(self, width, prompts, questions_S, carry):
    """Some of the new prompts; (cache, those still to come)."""
    cache, is_new_S = carry
    slots_W = self.each(
        lambda x: jnp.nonzero(x, size=width, fill_value=len(x))[0], is_new_S)
    questions_W = self.each(
        lambda x, s: x.at[s].get(mode='fill', fill_value=0), questions_S,
        slots_W)
    move = lambda old, new, s, q: old.at[s].set(new[q], mode='drop')
    cache = _of_rows(
        lambda old, new: self.each(move, old, new, slots_W, questions_W),
        cache, prompts)
    is_new_S = self.each(
        lambda x, s: x.at[s].set(False, mode='drop'), is_new_S, slots_W)
    return cache, split(is_new_S)

  def each(self, function: Callable[..., Any], *arrays) -> Any:
    """Maps `function` over the shares that every part has of arrays.

    Returns its result, an array or a tree of them, put together again.
    """
    new = jax.vmap(function)(*jax.tree.map(
        lambda x: x.reshape(self.num_parts, -1, *x.shape[1:]), arrays))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), new)


@dataclasses.dataclass(frozen=True)
class Queue(Parts):
  """Trajectories to do, and where their results go."""

  rules: episodes.Episodes

  @property
  def is_shared(self) -> bool:
    """Whether slot s has trajectory s and no other."""
    return self.num_slots == self.num_questions * self.num_samples

  @property
  def max_steps(self) -> int:
    """Steps after which all trajectories have ended, however long they are."""
    share = self.num_slots // self.num_parts
    return -(-self._per_part // share) * self.rules.num_tokens

  @property
  def _per_part(self) -> int:
    return self.num_questions * self.num_samples // self.num_parts

  def start(self, beginning: Beginning) -> Slots:
    """Puts the first trajectories in all slots."""
    rules, slots = self.rules, self.num_slots
    window = rules.window if rules.is_windowed else 0
    seen = window, rules.episode_length + rules.num_between
    width = math.prod(seen) if rules.is_windowed else rules.num_between
    keeps = rules.is_windowed or rules.feedback is not None
    zeros = lambda *shape: split(jnp.zeros((slots, *shape), jnp.int32))
    share = slots // self.num_parts
    trajectory_S = split(jnp.tile(
        jnp.arange(share, dtype=jnp.int32), self.num_parts))
    made = Slots(
        trajectory=trajectory_S, is_live=split(jnp.ones(slots, bool)),
        episode=zeros(), length=zeros(), num_drawn=zeros(), in_episode=zeros(),
        forced=zeros(width), num_forced=zeros(), at_forced=zeros(),
        attempt=zeros(rules.episode_length if keeps else 0),
        seen=zeros(*seen), seen_lengths=zeros(window),
        next=jnp.full(self.num_parts, share, jnp.int32))
    questions_S = self.questions(made)
    return made.replace(
        episode=self.take(beginning.episode, questions_S),
        in_episode=self.take(beginning.drawn, questions_S))

  def empty(self) -> episodes.Transcript:
    """Makes results of no trajectory."""
    lines = self.num_questions * self.num_samples * (
        self.rules.rows_per_trajectory * episodes.NUM_LINES)
    zero = jnp.zeros((), jnp.int32)
    return episodes.Transcript(
        split(jnp.zeros((lines, self.rules.row_length), jnp.int32)),
        num_steps=zero, num_live=zero)

  def questions(self, slots: Slots) -> jax.Array:
    """Finds the questions of the slots, inside their part, [S] int32."""
    last = self.num_questions // self.num_parts - 1
    return jnp.minimum(slots.trajectory // self.num_samples, last)

  def keys(self, keys_Q: PRNGKey, slots: Slots) -> PRNGKey:
    """Makes those of the tokens that are drawn now, [S]."""
    fold = jax.vmap(jax.random.fold_in)
    keys_S = self.take(keys_Q, self.questions(slots))
    return fold(
        fold(keys_S, slots.trajectory % self.num_samples), slots.num_drawn)

  def record(
      self, transcript: episodes.Transcript, slots: Slots, added: Added
  ) -> episodes.Transcript:
    """Writes one more token of every live slot."""
    per_row = self.rules.rows_per_trajectory
    row_S = slots.trajectory * per_row
    if per_row > 1:
      row_S += slots.episode
    # Behind the last row: nowhere.
    row_S = jnp.where(slots.is_live, row_S, self._per_part * per_row)
    entry_Sx3 = episodes.entry(
        added.tokens, added.log_probs, added.is_drawn, slots.episode)
    lines_Sx3 = row_S[:, None] * episodes.NUM_LINES + (
        jnp.arange(episodes.NUM_LINES)[None])
    return transcript.replace(
        written=split(self.each(
            lambda x, r, c, new: x.at[r, c].set(new, mode='drop'),
            transcript.written, lines_Sx3, slots.length[:, None], entry_Sx3)),
        num_live=transcript.num_live + jnp.sum(slots.is_live, dtype=jnp.int32))

  def advance(
      self, slots: Slots, added: Added, beginning: Beginning,
      hidden: Any = None,
  ) -> Slots:
    """Goes on behind the tokens: next episodes, next trajectories.

    `hidden` is what feedback knows of the questions, a tree of [Q, ...].
    """
    rules = self.rules
    is_next_S = added.is_end & ~added.is_over
    slots = slots.replace(
        length=slots.length + slots.is_live,
        num_drawn=slots.num_drawn + added.is_drawn,
        in_episode=slots.in_episode + added.is_drawn,
        at_forced=slots.at_forced + (slots.is_live & ~added.is_drawn))
    if slots.attempt.shape[1]:
      is_here_SxT = added.is_drawn[:, None] & (
          jnp.arange(rules.episode_length)[None]
          == slots.in_episode[:, None] - 1)
      slots = slots.replace(attempt=jnp.where(
          is_here_SxT, added.tokens[:, None], slots.attempt))
    if slots.forced.shape[1]:
      slots = jax.lax.cond(
          jnp.any(is_next_S),
          lambda slots, is_next_S: self._speak(slots, is_next_S, hidden),
          lambda slots, _: slots, slots, is_next_S)
    slots = slots.replace(
        episode=slots.episode + is_next_S,
        in_episode=jnp.where(is_next_S, 0, slots.in_episode))
    if rules.is_windowed:
      slots = slots.replace(length=jnp.where(is_next_S, 0, slots.length))
    return self._next(slots, added.is_over, beginning)

  def _speak(
      self, slots: Slots, is_next_S: jax.Array, hidden: Any) -> Slots:
    """What slots are to read before their next episode."""
    rules, pieces = self.rules, []
    if rules.feedback is not None:
      questions_S = self.questions(slots)
      said_SxF, length_S, _ = rules.feedback(
          jax.tree.map(lambda x: self.take(x, questions_S), hidden),
          slots.attempt, jnp.where(is_next_S, slots.in_episode, 0))
      pieces.append((said_SxF, length_S))
    number = len(rules.reset_ids)
    pieces.append((
        jnp.broadcast_to(
            jnp.asarray(rules.reset_ids, jnp.int32), (self.num_slots, number)),
        jnp.full(self.num_slots, number, jnp.int32)))
    if rules.is_windowed:  # of the attempts in it, this one is the newest
      newest_SxF, length_S = _join(
          [(slots.attempt, slots.in_episode), *pieces])
      shift = lambda old, new: _pick(
          is_next_S, jnp.concatenate([old[:, 1:], new[:, None]], axis=1), old)
      slots = slots.replace(
          seen=shift(slots.seen, newest_SxF),
          seen_lengths=shift(slots.seen_lengths, length_S))
      pieces = [
          (slots.seen[:, w], slots.seen_lengths[:, w])
          for w in range(rules.window)]
    forced_SxF, num_forced_S = _join(pieces)
    return slots.replace(
        forced=_pick(
            is_next_S, forced_SxF[:, :slots.forced.shape[1]], slots.forced),
        num_forced=_pick(is_next_S, num_forced_S, slots.num_forced),
        at_forced=_pick(is_next_S, 0, slots.at_forced))

  def _next(self, slots: Slots, is_over_S, beginning: Beginning) -> Slots:
    """Ended trajectories replaced by those of the queue."""
    new_S = split(self.each(
        lambda head, x: head + jnp.cumsum(x, dtype=jnp.int32) - 1, slots.next,
        is_over_S))
    trajectory_S = jnp.where(
        is_over_S, jnp.minimum(new_S, self._per_part), slots.trajectory)
    slots = slots.replace(
        trajectory=trajectory_S, is_live=trajectory_S < self._per_part,
        next=slots.next + self.each(
            lambda x: jnp.sum(x, keepdims=True, dtype=jnp.int32), is_over_S))
    first = jax.tree.map(
        lambda x: self.take(x, self.questions(slots)), beginning)
    begun = dict(
        episode=first.episode, in_episode=first.drawn, length=0, num_drawn=0,
        num_forced=0, at_forced=0, seen_lengths=0)
    return slots.replace(**{
        name: _pick(is_over_S, new, getattr(slots, name))
        for name, new in begun.items()})


def split(x: jax.Array) -> jax.Array:
  """Splits the first axis over the batch axes of the mesh."""
  return sharding.constrain(x, 'act_batch', *[None] * (x.ndim - 1))


def _of_rows(function: Callable[..., jax.Array], *caches) -> Any:
  """`function` on all arrays of caches, rows in front."""
  on_rows = lambda *arrays: jnp.moveaxis(
      function(*(jnp.moveaxis(x, -4, 0) for x in arrays)), 0, -4)
  of = lambda name: [getattr(cache, name) for cache in caches]
  new = caches[0].replace(
      keys=jax.tree.map(on_rows, *of('keys')),
      values=jax.tree.map(on_rows, *of('values')),
      positions=function(*of('positions')), is_valid=function(*of('is_valid')))
  return jax.tree.map(
      lambda x, axes: sharding.constrain(x, *axes), new, reasoning.axes(new))


def _pick(is_new_S, new, old) -> jax.Array:
  """Rows of `new` where `is_new_S`, else of `old`."""
  return jnp.where(is_new_S.reshape(-1, *[1] * (old.ndim - 1)), new, old)


def _join(pieces) -> tuple[jax.Array, jax.Array]:
  """Texts [S, any] of given lengths, one behind the other without holes."""
  tokens_SxF = jnp.concatenate([tokens for tokens, _ in pieces], axis=1)
  is_text_SxF = jnp.concatenate([
      jnp.arange(tokens.shape[1])[None] < length[:, None]
      for tokens, length in pieces], axis=1)
  order_SxF = jnp.argsort(~is_text_SxF, axis=1, stable=True)
  return (
      jnp.take_along_axis(tokens_SxF, order_SxF, axis=1),
      jnp.sum(is_text_SxF, axis=1, dtype=jnp.int32))
