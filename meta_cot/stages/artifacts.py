# SPDX-License-Identifier: Apache-2.0
"""What stages read of one another: problems, policies, and policies to come."""

import dataclasses

from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.stages import base
from meta_cot.training import policy as policy_lib


@dataclasses.dataclass(frozen=True)
class Planned:
  """A policy that may not be there yet."""

  model: model_config.ModelConfig
  style: str
  tokenizer: tokenizers.Tokenizer  # a placeholder of the one to come


def planned(context: base.Context, reference: str) -> Planned:
  """Describes the policy behind a reference, trained or not."""
  group = context.groups.get(reference.partition('/')[0])
  if group is None:
    there = policy_lib.read(context.folder(reference))
    return Planned(there.model, there.style, there.tokenizer())
  if group.settings.start is not None:
    return planned(context, group.settings.start)
  source = context.groups.get(group.settings.tokenizer)
  tokenizer = (
      tokenizers.load(context.folder(group.settings.tokenizer))
      if source is None else
      source.settings.vocabulary.placeholder())
  return Planned(context.shared.model, context.shared.style, tokenizer)


def policy(context: base.Context, reference: str) -> policy_lib.Policy:
  """Reads what the policy folder behind a reference says of itself.

  Raises:
    UserError: there is none.
  """
  return policy_lib.read(context.folder(reference))


def problems(
    context: base.Context, reference: str, split: str, limit: int | None = None
) -> list[Problem]:
  """Reads the first problems of a split, all without a limit.

  Raises:
    UserError: they are not there, or the split is empty.
  """
  folder = context.folder(reference)
  source = store.read(folder, split)
  if not len(source):
    raise config_lib.UserError(
        f'{folder}: the split {split} is empty; change config.task.')
  number = len(source) if limit is None else min(limit, len(source))
  return [source[i] for i in range(number)]
