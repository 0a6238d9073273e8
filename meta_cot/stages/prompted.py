# SPDX-License-Identifier: Apache-2.0
"""Prompted policies in a stage that asks questions, and their programs."""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from meta_cot import program
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.solvers import prompting
from meta_cot.stages import base
from meta_cot.training import policy as policy_lib

# (name, slots for prompts, settings with sizes and sampling) -> program
Generate = Callable[[str, int, prompting.Settings], program.Program]


def check(
    context: base.Context, settings: Any, there: base.Planned) -> None:
  """Raises a ConfigError where a policy cannot be prompted."""
  for asker in _askers(context, settings):
    if there.style != prompting.STYLE:
      raise config_lib.ConfigError(
          f'solvers: got {asker.name!r}; a policy of style {there.style!r} '
          f'cannot be told how to answer, one of style {prompting.STYLE!r} '
          'can.')
    _check_room(
        asker, there.tokenizer, there.model.max_length,
        context.first_problems)


def check_prompts(
    context: base.Context, settings: Any, policy: policy_lib.Policy,
    problems: Sequence[Problem],
) -> None:
  """Raises a UserError where a policy cannot be told so, or not so much."""
  for asker in _askers(context, settings) if problems else ():
    _check_room(
        asker, policy.tokenizer(), policy.model.max_length, problems)
    context.check_encoded(  # in the others only the question differs
        policy.tokenizer(), f'prompt of {asker.name}', problems[0],
        asker.first(problems[0]))


def builders(
    context: base.Context, settings: Any, there: base.Planned,
    generate: Generate,
) -> dict[str, Callable[[str], program.Program]]:
  """Lists what is compiled; a builder is told the name again.

  With texts of the model in a prompt, as `think_verify/1` and `/2` have them,
  it is another program.
  """
  found = {}
  for asker in _askers(context, settings):
    widths = asker.widths(there.tokenizer, context.first_problems)
    for number, width in widths.items():
      name = f'{asker.name}/{number}' if number else asker.name
      found[name] = functools.partial(
          generate, width=width, samples=settings.prompting)
  return found


def _check_room(asker, tokenizer, max_length, problems) -> None:
  longest = max(asker.widths(tokenizer, problems).values())
  number = asker.settings.max_new_tokens
  if longest + number > max_length:
    raise config_lib.ConfigError(
        f'prompting.max_new_tokens: got {number}; prompts of {asker.name} '
        f'need up to {longest} tokens, and with a reply behind them they must '
        f'be at most {max_length}, the max_length of the policy.')


def _askers(context, settings) -> list[prompting.Asker]:
  return [
      prompting.Asker(name, settings.prompting, context.task)
      for name in settings.solvers if name in prompting.STRATEGIES]
