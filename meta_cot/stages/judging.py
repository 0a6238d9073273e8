# SPDX-License-Identifier: Apache-2.0
"""Judges of samples in a stage that asks questions, and their programs.

`width` is that of the longest question with a sample behind it.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
from typing import Any

from meta_cot import program
from meta_cot.evaluation import bench
from meta_cot.settings import config as config_lib
from meta_cot.solvers import sampling
from meta_cot.solvers import scoring
from meta_cot.solvers import verdicts
from meta_cot.stages import base
from meta_cot.training import objective
from meta_cot.training import policy as policy_lib


def procedure(
    context: base.Context, samples: sampling.Settings,
    asked: policy_lib.Policy, keeps_tokens: bool,
) -> bench.Procedure:
  """Makes samples, with judges if any; their rows depend on who judges.

  Raises:
    UserError: a judge reads other tokens than the policy that is asked.
  """
  judges = [
      scoring.reader(
          reference, context.policy(reference), context.mesh, asked.fingerprint)
      for reference in context.parts(samples.judges)]
  return bench.Procedure(
      dict(dataclasses.asdict(samples), judges={
          judge.label: bench.identity(judge) for judge in judges}
      ) if judges else samples,
      sampling.Sampler(
          samples, context.task, context.mesh, judges, keeps_tokens))


def check(
    context: base.Context, settings: Any, style: str, width: int) -> None:
  """Raises a ConfigError where texts of a style cannot be judged."""
  for reference in _references(context, settings):
    said = words(context, reference)
    more = 1 + settings.samples.max_new_tokens if said else 0
    try:
      scoring.check(
          context.planned(reference), style, width + more,
          in_words=said is not None)
    except config_lib.ConfigError as e:
      raise config_lib.ConfigError(
          f'samples.judges: got {reference!r}; {e}') from None


def builders(
    context: base.Context, settings: Any, width: int
) -> dict[str, Callable[[str], program.Program]]:
  """Lists what is compiled; a builder is told the name again."""
  found, samples = {}, settings.samples
  for reference in _references(context, settings):
    there = context.planned(reference)
    build = functools.partial(
        scoring.program_of, of=scoring.values, width=width)
    if words(context, reference):
      build = functools.partial(
          verdicts.program_of, tokenizer=there.tokenizer,
          width=width - samples.max_new_tokens,
          text_width=samples.max_new_tokens, num_verdicts=samples.num_verdicts)
    found[f'judge/{reference.strip("/")}'] = functools.partial(
        build, model=there.model, mesh=context.mesh,
        batch_size=samples.batch_size)
  return found


def words(
    context: base.Context, reference: str) -> Mapping[str, Any] | None:
  """Finds how a policy says verdicts, trained or not; None: it says none."""
  group = context.groups.get(reference.partition('/')[0])
  if group is None:
    return context.policy(reference).about.get('verdict')
  name = getattr(group.settings, 'objective', None)  # reinforcement has none
  return name and objective.OBJECTIVES[name].about(
      group.settings.data).get('verdict')


def _references(context, settings) -> tuple[str, ...]:
  is_drawn = 'samples' in settings.solvers
  return context.parts(settings.samples.judges) if is_drawn else ()
