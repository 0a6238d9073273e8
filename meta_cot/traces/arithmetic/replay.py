# SPDX-License-Identifier: Apache-2.0
"""What a text has told so far of a search over numbers."""

from meta_cot.traces import events as events_lib
from meta_cot.traces import reading as reading_lib
from meta_cot.traces.arithmetic import operations


class Replay(reading_lib.Reader):
  """What readers of such searches are; grows as it goes through a text."""

  def __init__(self, question: str, text: str, at: int):
    super().__init__(question, text, at)
    numbers, self.target = operations.question(question)
    self.states = [numbers]

  def step(
      self, text: str, numbers: tuple[int, ...], outcome: str
  ) -> events_lib.Step:
    """Tries a step at the present node."""
    state = ','.join(map(str, numbers))
    step = events_lib.Step(
        len(self.states), self.here, text, state, outcome)
    self.events.append(step)
    self.states.append(numbers)
    return step

  def check(
      self, operation: operations.Operation, numbers: tuple[int, ...],
      position: int, is_grammar: bool = False,
  ) -> None:
    """Notes an untrue `operation`, and one that does not leave `numbers`."""
    if not operation.is_true:
      self.fault('arithmetic', position, 'a true operation', is_grammar=False)
    left, state = None, self.states[self.here]
    # Comparing sizes first keeps the work in proportion to the text.
    if len(numbers) == len(state) - 1:
      left = operations.remaining(state, operation)
    if left is None or sorted(left) != sorted(numbers):
      self.fault(
          'illegal_state', position,
          f'a step at node {self.here}, where the search stands', is_grammar)

  def check_goal(
      self, is_goal: bool, claims_goal: bool, position: int,
      is_grammar: bool = False,
  ) -> None:
    """Notes a hit that is wrongly claimed or overlooked."""
    if claims_goal != is_goal:
      self.fault(
          'wrong_answer', position,
          f'a right verdict against the target {self.target}', is_grammar)
