# SPDX-License-Identifier: Apache-2.0
"""Which questions are asked next, and what a run remembers between iterations.

Every pass over the questions has its own order, from the seed. A question that
was always or never solved teaches nothing now: it rests for some passes.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from meta_cot.runtime import distributed


@dataclasses.dataclass
class Questions:
  """An endless order of question numbers."""

  number: int  # of questions, at least 1
  _: dataclasses.KW_ONLY
  seed: int  # of the orders
  min_success: float  # one solved as rarely rests
  max_success: float  # one solved as often rests
  rest: int  # passes that it misses; 0 asks all questions in every pass

  def __post_init__(self):
    self._pass = self._at = 0
    self._back = {}  # question -> the pass in which it is asked again

  def take(self, count: int) -> list[int]:
    """Takes the next questions; distinct if there are as many awake."""
    taken, passed = [], set()
    while len(taken) < count:
      order = self._order()
      found = [
          q for q in order[self._at:].tolist()
          if self._is_awake(q) and q not in passed]
      found = found[:count - len(taken)]
      taken += found
      if len(taken) < count:
        # One asked at the end of a pass is left out of the next one's start.
        passed = passed | set(found) if found else set()
        if not any(map(self._is_awake, range(self.number))):
          self._back.clear()  # all rest: nobody does
        self._pass, self._at = self._pass + 1, 0
      else:
        self._at = int(np.flatnonzero(order == taken[-1])[0]) + 1
    return taken

  def learn(self, questions: Sequence[int], success: Sequence[float]) -> None:
    """Takes note of the share of right answers to questions that were asked."""
    for question, share in zip(questions, success, strict=True):
      if self.rest and not self.min_success < share < self.max_success:
        self._back[int(question)] = self._pass + 1 + self.rest

  @property
  def num_resting(self) -> int:
    return sum(not self._is_awake(q) for q in self._back)

  def get_state(self) -> dict[str, Any]:
    """Returns what `set_state` continues from, JSON-able."""
    return dict(
        number=self.number, at=[self._pass, self._at], back=sorted(
            [q, p] for q, p in self._back.items() if not self._is_awake(q)))

  def set_state(self, state: dict[str, Any]) -> None:
    """Continues from a state.

    Raises:
      ValueError: the state is of another number of questions.
    """
    if state['number'] != self.number:
      raise ValueError(
          f'questions: got {self.number}; the state that was saved has '
          f'{state["number"]}.')
    self._pass, self._at = state['at']
    self._back = dict(state['back'])

  def _is_awake(self, question: int) -> bool:
    return self._back.get(int(question), 0) <= self._pass

  def _order(self) -> np.ndarray:
    return np.random.default_rng([self.seed, self._pass]).permutation(
        self.number)


@dataclasses.dataclass
class Memory:
  """All that an iteration hands to the next besides the training state.

  As `checkpoint.Streams` it is saved and restored with the checkpoint.
  """

  questions: Questions
  kl_coefficient: float
  best: dict[str, float] | None = None  # iteration, success
  first: dict[str, float] | None = None  # `monitor.COMPARED` of iteration 0
  asked: list[int] | None = None  # questions under way, with a lag

  def stream_names(self) -> tuple[str, ...]:
    return ('memory',)

  def get_state(self) -> dict[str, Any]:
    """The same in all processes; the first one writes it."""
    if not distributed.is_primary():
      return {}
    return {'memory': dict(
        questions=self.questions.get_state(), best=self.best,
        kl_coefficient=self.kl_coefficient, first=self.first,
        asked=self.asked)}

  def set_state(self, state: dict[str, Any]) -> None:
    saved = state['memory']
    self.questions.set_state(saved['questions'])
    self.kl_coefficient = saved['kl_coefficient']
    self.best = saved['best']
    self.first = saved['first']
    self.asked = saved['asked']
