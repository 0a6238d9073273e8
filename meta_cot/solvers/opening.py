# SPDX-License-Identifier: Apache-2.0
"""The texts that may stand in front of a policy's questions, by name."""

from collections.abc import Mapping
from typing import Any

from data_pipelines import tokenizers


def named(about: Mapping[str, Any]) -> dict[str, str]:
  """Reads from what a policy says of itself what it is asked with.

  Those are the prompts of its discounts, one alone without a name, or what it
  was taught with: budgets or strategies. Else it is nothing, without a name.
  """
  if names := about.get('openings'):
    return {name: tokenizers.opening(name) for name in names}
  some = about.get('discounts', [(1.0, '')])
  if len(some) == 1:
    return {'': some[0][1]}
  return {f'gamma {gamma:g}': text for gamma, text in some}
