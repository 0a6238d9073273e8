# SPDX-License-Identifier: Apache-2.0
"""Countdown: join all given numbers, each once, with + - * / into a target."""

from collections.abc import Sequence

from meta_cot.problem import Problem, Verdict
from meta_cot.verifiers import arithmetic


class Countdown:
  """The task; `Problem.data` holds `numbers` (list of int) and `target`."""

  def verify(self, problem: Problem, answer: str) -> Verdict:
    """Judges one expression or one operation per line.

    See `verifiers.arithmetic.check`; arithmetic is exact, and rational values
    inside an expression are accepted although the generator uses integers.
    """
    judgement = arithmetic.check(
        answer, problem.data['numbers'], problem.data['target'])
    return Verdict(judgement.is_correct, judgement.reason)


def make_problem(numbers: Sequence[int], target: int) -> Problem:
  """The problem that shows `numbers` in the given order.

  Its question is '9,3,4>24' and its id 'countdown-3-9-3-4-24': the number
  count, the numbers, the target.
  """
  numbers = list(numbers)
  name = '-'.join(str(n) for n in (len(numbers), *numbers, target))
  return Problem(
      id=f'countdown-{name}',
      question=f'{",".join(str(n) for n in numbers)}>{target}',
      answer=str(target),
      data={'numbers': numbers, 'target': target})
