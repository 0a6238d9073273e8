# SPDX-License-Identifier: Apache-2.0
"""Parents and their threads, in one jitted loop for a batch of questions.

As in `rollout` every step of the loop adds one token to every slot, all slots
write the same place of a ring, and questions are read once. A slot holds a row
of `threads`: a parent that waits for its threads has none, these take the next
slots that are free, and the parent goes on in any slot when they have ended.
What rows begin with is read token by token. Axes as in `threads`; S slots. Rows
and slots are cut into as many parts as the mesh splits a batch into.
"""

import functools
from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import queue as queue_lib
from meta_cot.rollouts import threads
from meta_cot.types import Params, PRNGKey


class _Given(NamedTuple):
  """What the loop reads: the questions, read, and their keys."""

  hidden: jax.Array  # [Q, D] compute dtype, at the last token
  cache: cache_lib.Cache  # Q rows
  lengths: jax.Array  # [Q] int32
  keys: PRNGKey  # [Q]


@struct.dataclass
class _State:
  """The loop's variables."""

  table: threads.Table
  row: jax.Array  # [S] int32, inside its part; behind the last: idle
  at: jax.Array  # [S] int32, tokens of the row so far
  hidden: jax.Array  # [S, D] compute dtype, at every slot's newest token
  cache: cache_lib.Cache  # the ring, S rows
  prompts: cache_lib.Cache  # of the slots, S rows
  num_steps: jax.Array  # [] int32
  num_live: jax.Array  # [] int32


def rollout(
    config: model_config.ModelConfig, params: Params, texts_QxP: jax.Array,
    prompt_lengths_Q: jax.Array, rng: PRNGKey, *, rules: threads.Rules,
    num_samples: int, num_slots: int, question_ids_Q: jax.Array | None = None,
) -> threads.Rollouts:
  """Samples G trajectories for every question.

  Pure; jit it with `config` and the keyword settings but the ids static. With
  a mesh, questions, slots and rows are split over the batch axes.

  Args:
    params: unboxed.
    texts_QxP: int32, padded on the right with anything.
    prompt_lengths_Q: int32, at least 1.
    rng: consumed. Token t that row k of a trajectory draws uses the key folded
      with the question's id, the sample's number, k and t.
    num_samples: G.
    num_slots: S, rows at a time.
    question_ids_Q: int32, name the questions; 0 .. Q-1 by default.

  Raises:
    ValueError: a row does not fit the model; Q or S does not divide over the
      devices.
  """
  num_questions, num_parts = (
      len(prompt_lengths_Q), sharding.num_parts('act_batch'))
  parts = queue_lib.Parts(num_questions, num_samples, num_slots, num_parts)
  decode.check_ids(config, stop_ids=rules.stop_ids, marks=(
      rules.spawn_id, rules.message_end_id, rules.opening_id, rules.found_id,
      rules.nothing_id, rules.line_end_id))
  parts.check(
      'threads', config.max_length, texts_QxP.shape[1], rules.row_length)
  if question_ids_Q is None:
    question_ids_Q = jnp.arange(num_questions, dtype=jnp.int32)
  params = transformer.slice_layers(config, params)
  given = _Given(
      *decode.read_prompts(config, params, texts_QxP, prompt_lengths_Q),
      prompt_lengths_Q.astype(jnp.int32),
      jax.vmap(jax.random.fold_in, (None, 0))(rng, question_ids_Q))
  # On the CPU the ring grows, as in `rollout`.
  places = [rules.row_length]
  if sharding.platform() == 'cpu':
    places = decode.stages(rules.row_length)
  state = _start(config, rules, parts, given, places[0])
  step = functools.partial(_step, config, params, rules, parts, given)
  num_rows = len(state.table.status) // num_parts
  last = rules.max_steps(num_rows, num_slots // num_parts)
  for size, last_step in zip(places, (*places[:-1], last)):
    state = state.replace(cache=cache_lib.grow(state.cache, size))
    state = jax.lax.while_loop(
        lambda s, last_step=last_step: (s.num_steps < last_step) & jnp.any(
            s.row < num_rows), step, state)
  table = state.table
  is_text_RxC = jnp.arange(rules.row_length)[None] < table.lengths[:, None]
  return threads.Rollouts(
      jnp.where(is_text_RxC, table.tokens, 0), table.log_probs,
      jnp.minimum(table.starts, table.lengths), table.lengths,
      state.num_steps, state.num_live)


def _start(config, rules, parts, given, num_places) -> _State:
  num_rows = parts.num_questions * parts.num_samples * rules.num_rows
  table, row_S = parts.each(
      threads.deal, _split(threads.empty(rules, num_rows)),
      jnp.full(parts.num_slots, num_rows, jnp.int32))
  questions_S = _questions(rules, parts, row_S)
  zero = jnp.zeros((), jnp.int32)
  return _State(
      table=_split(table), row=queue_lib.split(row_S),
      at=queue_lib.split(jnp.zeros(parts.num_slots, jnp.int32)),
      hidden=parts.take(given.hidden, questions_S),
      cache=cache_lib.create(config, parts.num_slots, num_places),
      prompts=parts.take_cache(given.cache, questions_S), num_steps=zero,
      num_live=zero)


def _step(config, params, rules, parts, given, state: _State) -> _State:
  """One more token in every slot; rows that end make room."""
  questions_S = _questions(rules, parts, state.row)
  logits_SxV = transformer.read_out(
      config, params, state.hidden[:, None]).logits[:, 0]
  starts_S = parts.each(_of_row, state.table.starts, state.row)
  drawn_S, log_probs_S = decode.sample(
      logits_SxV, _keys(rules, parts, given, state, questions_S, starts_S),
      rules.sampling)
  is_forced_S = state.at < starts_S
  tokens_S = jnp.where(
      is_forced_S, parts.each(
          lambda x, r, c: x.at[r, c].get(mode='fill', fill_value=0),
          state.table.tokens, state.row, state.at), drawn_S)
  num_rows = len(state.table.status) // parts.num_parts
  is_live_S = state.row < num_rows
  table = parts.each(
      _write, state.table, state.row, state.at, tokens_S,
      jnp.where(is_forced_S, 0.0, log_probs_S))
  at_S = state.at + is_live_S
  table, row_S = _go_on(
      rules, parts, table, state.row, tokens_S, at_S,
      is_live_S & ~is_forced_S)
  is_new_S = (row_S != state.row) | (row_S >= num_rows)

  # The newest token is read behind the old ones. Rows that begin have none.
  ring = state.cache.replace(
      length=state.num_steps % rules.row_length,
      is_valid=state.cache.is_valid & ~is_new_S[:, None])
  hidden_Sx1xD, cache = transformer.decode_hidden(
      config, params, tokens_S[:, None], ring, positions_BxL=(
          parts.take(given.lengths, questions_S) + at_S - 1)[:, None],
      is_valid_BxL=~is_new_S[:, None], shared=(state.prompts,))
  new_S = _questions(rules, parts, row_S)
  return _State(
      table=table, row=row_S, at=jnp.where(is_new_S, 0, at_S),
      hidden=jnp.where(
          is_new_S[:, None], parts.take(given.hidden, new_S),
          hidden_Sx1xD[:, 0]), cache=cache, prompts=parts.refill(
              state.prompts, given.cache, new_S,
              is_new_S & (new_S != questions_S)),
      num_steps=state.num_steps + 1,
      num_live=state.num_live + jnp.sum(is_live_S, dtype=jnp.int32))


def _go_on(rules, parts, table, row_S, tokens_S, at_S, is_drawn_S):
  """Ends rows, begins those that follow from them: the table, [S] rows."""
  is_parent_S = threads.is_parent(rules, row_S)
  is_asking_S = is_drawn_S & (tokens_S == rules.spawn_id)
  is_full_S = at_S >= threads.limit(rules, row_S)
  is_end_S = is_asking_S | is_drawn_S & (
      is_full_S | decode.is_one_of(tokens_S, rules.stop_ids))
  num_rows = len(table.status) // parts.num_parts
  table = table.replace(status=queue_lib.split(parts.each(
      lambda x, r: x.at[r].set(threads.DONE, mode='drop'), table.status,
      jnp.where(is_end_S, row_S, num_rows))))
  if rules.num_joins:
    is_last_S = row_S % rules.num_rows == rules.num_rows - 1
    for happens, is_so_S in (
        (threads.spawn, is_asking_S & is_parent_S & ~is_last_S & ~is_full_S),
        (threads.join, is_end_S & ~is_parent_S)):
      table = jax.lax.cond(
          jnp.any(is_so_S),
          lambda table, is_so_S, happens=happens: _split(parts.each(
              functools.partial(happens, rules), table, row_S, is_so_S)),
          lambda table, _: table, table, is_so_S)
  table, row_S = jax.lax.cond(
      jnp.any(is_end_S | (row_S >= num_rows)),
      lambda table, row_S: parts.each(threads.deal, table, row_S),
      lambda table, row_S: (table, row_S), table, row_S)
  return _split(table), queue_lib.split(row_S)


def _write(table, row_S, at_S, tokens_S, log_probs_S) -> threads.Table:
  """Puts one token behind every row."""
  put = lambda x, new: x.at[row_S, at_S].set(new, mode='drop')
  return table.replace(
      tokens=put(table.tokens, tokens_S),
      log_probs=put(table.log_probs, log_probs_S),
      lengths=table.lengths.at[row_S].set(at_S + 1, mode='drop'))


def _keys(rules, parts, given, state, questions_S, starts_S) -> PRNGKey:
  """Makes those of the tokens that are drawn now, [S]."""
  fold = jax.vmap(jax.random.fold_in)
  trajectory_S = state.row // rules.num_rows
  keys_S = fold(
      parts.take(given.keys, questions_S), trajectory_S % parts.num_samples)
  return fold(
      fold(keys_S, state.row % rules.num_rows),
      jnp.maximum(state.at - starts_S, 0))


def _questions(rules, parts, row_S) -> jax.Array:
  """Finds the questions of rows, inside their part, [S] int32."""
  last = parts.num_questions // parts.num_parts - 1
  return jnp.minimum(row_S // (rules.num_rows * parts.num_samples), last)


def _of_row(x_R, row_S) -> jax.Array:
  return x_R.at[row_S].get(mode='fill', fill_value=0)


def _split(table: threads.Table) -> threads.Table:
  return jax.tree.map(queue_lib.split, table)
