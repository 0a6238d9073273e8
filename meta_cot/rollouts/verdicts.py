# SPDX-License-Identifier: Apache-2.0
"""From what a model wrote to a verdict: the one way from tokens to right."""

from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.problem import Problem, Verdict
from meta_cot.tasks import base


class Claim(NamedTuple):
  """The answer that a text claims, None for none, and what it is worth."""

  answer: str | None
  verdict: Verdict


def of_text(
    task: base.Task, problem: Problem, text: str, style: str, *,
    is_finished: bool = True,
) -> Claim:
  """Judges prompt and continuation; an unfinished one is never right."""
  if not is_finished:
    return Claim(None, Verdict(False, 'unfinished: no end of sequence'))
  answer = traces.extract_answer(text, style)
  if answer is None:
    return Claim(None, Verdict(False, 'no answer in the text'))
  return Claim(answer, task.verify(problem, answer))


def of_tokens(
    task: base.Task, tokenizer: tokenizers.Tokenizer, problem: Problem,
    tokens: Sequence[int], style: str,
) -> Claim:
  """Judges the tokens behind a prompt, the end of sequence left out or not."""
  prompt = traces.prompt(problem, style=style)
  return of_text(task, problem, prompt + tokenizer.decode(tokens), style)
