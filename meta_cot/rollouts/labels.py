# SPDX-License-Identifier: Apache-2.0
"""How often a policy succeeds from a state (arXiv 2501.04682, Eq. 11).

A state is a question and the steps so far. Completions of it are drawn, and the
share of right ones estimates the probability of success. A state is read once
for all of its completions, and they are judged in the same program where the
task allows it.

Axes as in `episodes`; the questions of the rollout are states: Q states, G
completions of each, N = Q * G. Besides them W tokens of the steps of a state,
M = W + T behind a question.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple
import zlib

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.reasoning import node as node_lib
from meta_cot.rollouts import episodes
from meta_cot.rollouts import judge as judge_lib
from meta_cot.rollouts import player
from meta_cot.rollouts import queue
from meta_cot.rollouts import rollout as rollout_lib
from meta_cot.types import Params, PRNGKey


class State(NamedTuple):
  """A question and the steps so far."""

  problem: Problem
  question: tuple[int, ...]  # tokens
  steps: tuple[int, ...]  # tokens, with what ends each


@struct.dataclass
class States:
  """States on the devices."""

  questions: jax.Array  # [Q, P] int32, padded on the right with anything
  question_lengths: jax.Array  # [Q] int32
  steps: jax.Array  # [Q, W] int32, padded likewise
  step_lengths: jax.Array  # [Q] int32
  ids: jax.Array  # [Q] int32; the draws of a state follow from its own
  problems: Any  # pytree [Q, ...] for the verdict in the graph


@struct.dataclass
class Completed:
  """What came of the completions."""

  num_tokens: jax.Array  # [Q] int32, drawn in all completions of a state
  num_right: jax.Array | None  # [Q] int32; None: not judged in the graph
  texts: jax.Array | None  # [N, M] int32, steps and completion; None: judged
  lengths: jax.Array | None  # [N] int32, of the texts; 0: not finished


def jit_complete(
    model: model_config.ModelConfig, mesh: jax.sharding.Mesh, *,
    rules: episodes.Episodes, num_rollouts: int, num_slots: int,
    outcome: node_lib.OfText | None, pad_id: int = 0,
) -> Callable[[Params, States, PRNGKey], Completed]:
  """Jits the labelling of Q states; every device gets the whole result.

  Args:
    model: of the policy.
    mesh: devices; Q and the slots must divide over its parts of a batch.
    rules: of one episode.
    num_rollouts: G.
    num_slots: completions written at a time. With Q * G of them the states
      are shared, not copied, and no slot is used again.
    outcome: the verdict; None: texts are to be judged on the host.
    pad_id: fills texts.
  """

  def complete(params, states, rng):
    states = jax.tree.map(queue.split, states)
    lengths_Q = states.question_lengths + states.step_lengths
    written = rollout_lib.rollout(
        model, params, _behind(
            states.questions, states.question_lengths, states.steps,
            states.step_lengths, pad_id),
        lengths_Q, rng, rules=rules, num_samples=num_rollouts,
        num_slots=num_slots, question_ids_Q=states.ids)
    each = lambda x: jnp.repeat(x, num_rollouts, axis=0)
    texts_NxM = _behind(
        each(states.steps), each(states.step_lengths), written.tokens,
        written.lengths, pad_id)
    is_finished_N = written.is_finished[:, 0]
    lengths_N = jnp.where(
        is_finished_N, each(states.step_lengths) + written.lengths, 0)
    of_states = lambda x_N: jnp.sum(
        x_N.reshape(-1, num_rollouts), axis=1, dtype=jnp.int32)
    num_tokens_Q = of_states(written.lengths)
    if outcome is None:
      return Completed(num_tokens_Q, None, texts_NxM, lengths_N)
    worth_N = jax.vmap(outcome)(
        jax.tree.map(each, states.problems), texts_NxM, lengths_N)
    return Completed(
        num_tokens_Q, of_states(is_finished_N & (worth_N > 0.5)), None, None)

  return jax.jit(complete, out_shardings=sharding.replicated(mesh))


def _behind(first_RxP, first_lengths_R, second_RxC, second_lengths_R, pad_id):
  """Texts [R, P + C] int32: the second of each behind its first, no holes."""
  width = first_RxP.shape[1] + second_RxC.shape[1]
  column_RxX = jnp.arange(width)[None]
  at_RxX = column_RxX - first_lengths_R[:, None]
  pad = lambda x: jnp.pad(x, ((0, 0), (0, width - x.shape[1])))
  second_RxX = jnp.take_along_axis(
      pad(second_RxC), jnp.maximum(at_RxX, 0), axis=1)
  return jnp.where(
      at_RxX < 0, pad(first_RxP),
      jnp.where(at_RxX < second_lengths_R[:, None], second_RxX, pad_id))


def count_right(
    judge: judge_lib.Judge, problems: Sequence[Problem], completed: Completed
) -> np.ndarray:
  """Judges completions on the host; the problems are those of the first states.

  Returns:
    Right ones, as many int32 as there are problems.
  """
  num_right_Q = np.zeros(len(problems), np.int32)
  num_rollouts = len(completed.lengths) // len(completed.num_tokens)
  claims = {}  # the same completion of a state is common
  for n, length in enumerate(
      completed.lengths[:len(problems) * num_rollouts].tolist()):
    q = n // num_rollouts
    if length:
      tokens = tuple(completed.texts[n, :length - 1].tolist())
      if (q, tokens) not in claims:
        claims[q, tokens] = judge.claim(problems[q], tokens)
      num_right_Q[q] += claims[q, tokens].verdict.is_correct
  return num_right_Q


@dataclasses.dataclass(frozen=True)
class Labeler:
  """Counts right completions of any number of states, with one program."""

  complete: Callable[[Params, States, PRNGKey], Completed]
  mesh: jax.sharding.Mesh
  num_states: int  # Q
  width: int  # P
  step_width: int  # W
  pad_id: int
  # What the verdict needs to know of problems: of as many, one for each.
  inputs: Callable[[Sequence[Problem]], list[dict[str, np.ndarray]]]
  judge: judge_lib.Judge  # where the program does not judge

  def __call__(
      self, params: Params, states: Sequence[State], rng: PRNGKey
  ) -> tuple[np.ndarray, int]:
    """Labels the states, at least one.

    The draws of a state follow from `rng` and its own tokens, so that equal
    states have equal labels.

    Returns:
      The number of right completions of each, int32, and of tokens drawn.
    """
    counts, num_tokens = [], 0
    for start in range(0, len(states), self.num_states):
      some = states[start:start + self.num_states]
      done = jax.device_get(self.complete(params, self.put(some), rng))
      num_right_Q = done.num_right
      if num_right_Q is None:
        num_right_Q = count_right(
            self.judge, [s.problem for s in some], done)
      counts.append(num_right_Q[:len(some)])
      num_tokens += int(done.num_tokens[:len(some)].sum())
    return np.concatenate(counts), num_tokens

  def put(self, states: Sequence[State]) -> States:
    """Puts 1 to Q states on the devices; the first one fills the rest."""
    states = [*states, *states[:1] * (self.num_states - len(states))]
    inputs = self.inputs([s.problem for s in states])
    padded = lambda rows, width: player.padded(rows, width, self.pad_id)
    made = States(
        *padded([s.question for s in states], self.width),
        *padded([s.steps for s in states], self.step_width),
        np.array([number_of(s) for s in states], np.int32),
        {k: np.stack([x[k] for x in inputs]) for k in inputs[0]})
    return sharding.split_batch(made, self.mesh)


def number_of(state: State) -> int:
  """Makes the id of a state; it follows from its tokens."""
  tokens = *state.question, -1, *state.steps
  return zlib.crc32(np.array(tokens, np.int32).tobytes()) >> 1


def rules(
    sampling: decode.Sampling, max_new_tokens: int, eos_ids: tuple[int, ...]
) -> episodes.Episodes:
  """Makes those of a completion."""
  return episodes.Episodes(
      num_episodes=1, episode_length=max_new_tokens, sampling=sampling,
      stop_ids=eos_ids)
