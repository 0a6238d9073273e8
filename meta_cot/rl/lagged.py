# SPDX-License-Identifier: Apache-2.0
"""Iterations that learn one step behind what they draw (`rl.lag = 1`).

Trajectories of iteration i + 1 are drawn by the policy before the updates of
iteration i, so that the host judges them while the devices update; ratios of
the loss are to what the sampler said. A checkpoint has that policy and the
numbers of its questions: what was under way at a kill is played again.
"""

from collections.abc import Callable
import time

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import types
from meta_cot.rl import learner as learner_lib
from meta_cot.rl import questions as questions_lib
from meta_cot.training import state as state_lib


@struct.dataclass
class LaggedState(state_lib.TrainState):
  """With the parameters that draw what is learned next; of what is trained."""

  before: types.Params


def begin(state: state_lib.TrainState) -> LaggedState:
  """Makes the first state: the start draws what is learned first."""
  return _join(state, state.params)


def _join(state, before) -> LaggedState:
  return LaggedState(
      step=state.step, params=state.params, opt_state=state.opt_state,
      rng=state.rng, before=before)


def _plain(state) -> state_lib.TrainState:
  return state_lib.TrainState(
      step=state.step, params=state.params, opt_state=state.opt_state,
      rng=state.rng)


class Iterations:
  """`Learner.iterate`, one step behind; in order, from any on."""

  def __init__(self, learner: learner_lib.Learner):
    self._learner = learner
    self._ahead = None  # Experience of the next iteration

  def iterate(
      self, state: LaggedState, memory: questions_lib.Memory, iteration: int,
      keep: Callable[..., None] | None = None,
  ) -> tuple[LaggedState, dict[str, float]]:
    """See `Learner.iterate`; `keep` gets the policy that has drawn."""
    learner = self._learner
    experience = self._ahead or self._collect(state, memory, iteration)
    if keep is not None:
      keep(learner.whole(state.replace(params=state.before)), experience,
           iteration)
    # The updates take the place of these parameters.
    drawing = jax.tree.map(jnp.copy, state.params)
    drawn = self._draw(state.replace(params=drawing), memory, iteration + 1)
    start = time.perf_counter()
    after, metrics = learner.begin_updates(_plain(state), experience)
    verdicts = drawn and learner.verdicts(drawn)
    row = learner.updated(metrics, int(after.step)) | experience.row | {
        'time/update': time.perf_counter() - start}
    learner.remember(memory, experience, row)
    self._ahead = drawn and learner.give_credit(
        drawn, verdicts, memory.kl_coefficient)
    row['staleness'] = float(
        learner.config.updates.per_iteration * (iteration > 0))
    return _join(after, drawing), row

  def _collect(self, state, memory, iteration):
    """What the iteration before would have left."""
    if memory.asked is None:
      memory.asked = self._take(memory)
    drawn = self._learner.draw(self._learner.whole(
        state.replace(params=state.before)), memory.asked, iteration)
    return self._learner.give_credit(
        drawn, self._learner.verdicts(drawn), memory.kl_coefficient)

  def _draw(self, state, memory, iteration):
    """What iteration `iteration` learns from; None behind the last one."""
    memory.asked = None
    if iteration == self._learner.config.num_iterations:
      return None
    memory.asked = self._take(memory)
    return self._learner.draw(
        self._learner.whole(state), memory.asked, iteration)

  def _take(self, memory):
    return memory.questions.take(self._learner.config.questions.num_questions)
