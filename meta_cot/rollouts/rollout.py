# SPDX-License-Identifier: Apache-2.0
"""K episodes for a question, in one jitted loop for a batch of questions.

A slot holds a trajectory. Every step of the loop adds one token to every slot:
drawn from the policy, or forced. A slot whose trajectory has ended takes the
next of the queue, so short trajectories do not wait for long ones. The prompts
are read once and copied to the slots that need them.

The cache is a ring: all slots write the same place in a step, a place is used
again after as many steps as a row has tokens, and what a slot may see is
marked per slot; so a new trajectory begins at any step. Axes besides those of
`episodes`: S slots. The queue is cut into as many parts as the mesh splits a
batch into, and no slot takes from another part.
"""

import functools
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.rollouts import episodes
from meta_cot.rollouts import queue as queue_lib
from meta_cot.types import Params, PRNGKey


class _Prompts(NamedTuple):
  """The prompts of all questions, read."""

  hidden: jax.Array  # [Q, D] compute dtype, at the last token
  cache: cache_lib.Cache  # Q rows
  lengths: jax.Array  # [Q] int32


@struct.dataclass
class _State:
  """The loop's variables."""

  slots: queue_lib.Slots
  hidden: jax.Array  # [S, D] compute dtype, at every slot's newest token
  cache: cache_lib.Cache  # the ring, S rows
  prompts: cache_lib.Cache  # of the slots, S rows; or of the questions, Q rows
  transcript: episodes.Transcript


def rollout(
    config: model_config.ModelConfig, params: Params, texts_RxP: jax.Array,
    prompt_lengths_Q: jax.Array, rng: PRNGKey, *, rules: episodes.Episodes,
    num_samples: int, num_slots: int, question_ids_Q: jax.Array | None = None,
    beginning: queue_lib.Beginning | None = None, hidden: Any = None,
) -> episodes.Rollouts:
  """Samples G trajectories for every question.

  Pure; jit it with `config` and the keyword settings but the arrays static.
  With a mesh, questions, slots and results are split over the batch axes.

  Args:
    params: unboxed.
    texts_RxP: int32, padded on the right with anything: the prompts, or what
      several of them begin, see `decode.read_prompts`.
    prompt_lengths_Q: int32, at least 1.
    rng: consumed. Token t that trajectory n draws uses the key folded with the
      question's id, the sample's number and t.
    num_samples: G.
    num_slots: S, trajectories at a time.
    question_ids_Q: int32, name the questions; 0 .. Q-1 by default.
    beginning: where the prompts have episodes already; not by default.
    hidden: what `rules.feedback` knows of the questions, a tree of [Q, ...].

  Raises:
    ValueError: a row does not fit the model; Q or S does not divide over the
      devices; `beginning` with a window or feedback; feedback without
      `hidden`.
  """
  num_questions = len(prompt_lengths_Q)
  queue = queue_lib.Queue(
      rules=rules, num_questions=num_questions, num_samples=num_samples,
      num_slots=min(num_slots, num_questions * num_samples),
      num_parts=sharding.num_parts('act_batch'))
  decode.check_ids(config, stop_ids=rules.stop_ids)
  queue.check(
      'episodes', config.max_length, texts_RxP.shape[1], rules.row_length)
  if beginning is None:
    beginning = queue_lib.Beginning(
        *jnp.zeros((2, num_questions), jnp.int32))
  elif rules.is_windowed or rules.feedback is not None:
    raise ValueError(
        'beginning: given with a window or feedback; must be None there: they '
        'need the earlier attempts, which are in the prompt.')
  if rules.feedback is not None and hidden is None:
    raise ValueError('hidden: got None with feedback; must be given.')
  if question_ids_Q is None:
    question_ids_Q = jnp.arange(num_questions, dtype=jnp.int32)
  params = transformer.slice_layers(config, params)
  prompts = _Prompts(
      *decode.read_prompts(config, params, texts_RxP, prompt_lengths_Q),
      prompt_lengths_Q.astype(jnp.int32))
  step = functools.partial(
      _step, config, params, prompts, queue,
      jax.vmap(jax.random.fold_in, (None, 0))(rng, question_ids_Q), beginning,
      hidden)
  # On the CPU the ring grows, as attention costs as much as there are places.
  # Elsewhere memory is dearer, and to grow takes both rings.
  places = [rules.row_length]
  if sharding.platform() == 'cpu':
    places = decode.stages(rules.row_length)
  state = _start(config, prompts, queue, beginning, places[0])
  # All have ended by the last bound; it says in the compiled program how long
  # the loop is at most.
  for size, last_step in zip(places, (*places[:-1], queue.max_steps)):
    state = state.replace(cache=cache_lib.grow(state.cache, size))
    state = jax.lax.while_loop(
        lambda s, last_step=last_step: (s.transcript.num_steps < last_step) & (
            jnp.any(s.slots.is_live)), step, state)
  return episodes.read(rules, state.transcript)


def _start(config, prompts, queue, beginning, num_places) -> _State:
  slots = queue.start(beginning)
  questions_S = queue.questions(slots)
  return _State(
      slots=slots, hidden=queue.take(prompts.hidden, questions_S),
      cache=cache_lib.create(config, queue.num_slots, num_places),
      prompts=prompts.cache if queue.is_shared else queue.take_cache(
          prompts.cache, questions_S), transcript=queue.empty())


def _step(
    config, params, prompts, queue, keys_Q, beginning, hidden, state: _State
) -> _State:
  """One more token in every slot; ended trajectories make room."""
  slots, rules = state.slots, queue.rules
  questions_S = queue.questions(slots)
  logits_SxV = transformer.read_out(
      config, params, state.hidden[:, None]).logits[:, 0]
  drawn_S, log_probs_S = decode.sample(
      logits_SxV, queue.keys(keys_Q, slots), rules.sampling)
  added = queue_lib.add(rules, slots, drawn_S, log_probs_S)
  transcript = queue.record(state.transcript, slots, added)
  slots = queue.advance(slots, added, beginning, hidden)

  # The newest token is read behind the old ones. Rows that begin have none.
  is_new_S = slots.length == 0
  ring = state.cache.replace(
      length=transcript.num_steps % rules.row_length,
      is_valid=state.cache.is_valid & ~is_new_S[:, None])
  lengths_S = queue.take(prompts.lengths, questions_S)
  hidden_Sx1xD, cache = transformer.decode_hidden(
      config, params, added.tokens[:, None], ring,
      positions_BxL=(lengths_S + slots.length - 1)[:, None],
      is_valid_BxL=~is_new_S[:, None], shared=(state.prompts,))
  new_questions_S = queue.questions(slots)
  hidden_SxD = jnp.where(
      is_new_S[:, None], queue.take(prompts.hidden, new_questions_S),
      hidden_Sx1xD[:, 0])
  slot_prompts = state.prompts
  if not queue.is_shared:
    slot_prompts = queue.refill(
        slot_prompts, prompts.cache, new_questions_S,
        is_new_S & (new_questions_S != questions_S))
  return _State(
      slots=slots, hidden=hidden_SxD, cache=cache, prompts=slot_prompts,
      transcript=transcript.replace(num_steps=transcript.num_steps + 1))
