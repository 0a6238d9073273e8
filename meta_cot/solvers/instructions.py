# SPDX-License-Identifier: Apache-2.0
r"""What models are told when they are prompted (`prompting`), word for word.

A prompt is one text: what to do, examples if there are any, the question, and
what the model wrote before. Its last line is a heading under which it goes on.
"""

from collections.abc import Sequence

_ANSWER = (
    'Write the final answer on a line of its own at the end, inside \\boxed{}.')
BASELINE = f'Answer the question below. {_ANSWER}'
CHAIN_OF_THOUGHT = (
    'Answer the question below. Work it out step by step, one step on each '
    f'line, before you give the answer. {_ANSWER}')
THINK = (
    'Answer the question below, but think aloud first, for as long as you need '
    'to. Take up an idea, follow it, and look at what comes of it. If a step '
    'turns out to be wrong or leads nowhere, say so, return to the last place '
    'that was right, and try something else from there. Test what you have '
    f'found before you rely on it. {_ANSWER}')

_VERDICT = (
    'The last line must be "Verdict: confident" if you are sure that the final '
    'answer is right, and "Verdict: not confident" if you have any doubt.')
_VERIFY = (
    'Below are a question and an attempt at it. Examine the attempt as though '
    'a stranger had written it: read again what is asked, redo every '
    'calculation, and see whether each step follows from those before it. '
    f'{_VERDICT}')
_CONFIRM = (
    'Below are a question, an attempt at it, and a check that found the '
    'attempt right. Examine the attempt once more by a route that the check '
    f'did not take, such as working back from the answer. {_VERDICT}')
_RETRY = (
    'Below are a question, an attempt at it, and what a check of that attempt '
    'says. Answer the question anew: keep what holds, mend what does not, and '
    'where the approach itself is in doubt choose another one. Think aloud for '
    f'as long as you need to. {_ANSWER}')

CUT_OFF = 'The attempt broke off before it came to an answer.'


def solve(
    instruction: str, examples: Sequence[tuple[str, str]], question: str
) -> str:
  """Asks a question, behind examples of questions and solutions."""
  parts = [
      _part('Question', text) + '\n' + _part('Solution', solution)
      for text, solution in (*examples, (question, ''))]
  return '\n\n'.join((instruction, *parts))


def verify(question: str, attempt: str) -> str:
  """Asks whether an attempt is right."""
  return _about(_VERIFY, question, 'Check', Attempt=attempt)


def confirm(question: str, attempt: str, check: str) -> str:
  """Asks the same once more, where a check found nothing wrong."""
  return _about(_CONFIRM, question, 'Second check', Attempt=attempt,
                Check=check)


def retry(question: str, attempt: str, check: str) -> str:
  """Asks the question again, where an attempt may be wrong."""
  return _about(_RETRY, question, 'Solution', Attempt=attempt, Check=check)


def _about(instruction: str, question: str, heading: str, **texts: str) -> str:
  parts = dict(Question=question, **texts) | {heading: ''}
  return '\n\n'.join((instruction, *(
      _part(name, text) for name, text in parts.items())))


def _part(heading: str, text: str) -> str:
  return f'{heading}:\n{text.strip()}'
