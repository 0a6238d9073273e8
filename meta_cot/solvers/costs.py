# SPDX-License-Identifier: Apache-2.0
"""What attempts cost beside the tokens that are drawn.

A cost is a dict of JSON values, of one attempt:

  prompt_tokens      of the question
  forwarded_tokens   question and all that was drawn, each token read once by
                     each model
  prompt_flops       of reading the question once (`training.flops`)
  flops              of all forwarded tokens
  sequential_tokens  the longest chain of decode steps that wait for each other
  judges             name -> prompt_flops and flops of a judge, which reads as
                     many tokens again

Several attempts at a question need to read it once. None is not known.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from meta_cot import traces
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.solvers import base
from meta_cot.traces import from_tree
from meta_cot.training import flops

# Of searches; those of others are read by models that are not counted here.
_KNOWN_VALUES = ('likelihood', 'head', 'model', 'oracle')
# Expand all of a level at once.
_LEVELS = ('beam', 'dvts', 'breadth_first', 'particles')


def of_text(
    model: model_config.ModelConfig, num_prompt: int, num_tokens: int,
    judges: Mapping[str, model_config.ModelConfig],
) -> dict[str, Any]:
  """Counts the cost of a text of `num_tokens` behind its question."""
  prompt = _prefill(model, num_prompt)
  work = num_tokens * model.flops_per_token(num_prompt + num_tokens / 2)
  return dict(
      prompt_tokens=num_prompt, forwarded_tokens=num_prompt + num_tokens,
      prompt_flops=prompt, flops=prompt + work, sequential_tokens=num_tokens,
      judges={
          name: dict(
              prompt_flops=_prefill(judge, num_prompt),
              flops=_prefill(judge, num_prompt + num_tokens))
          for name, judge in judges.items()})


def of_searches(
    policy: base.Policy, name: str, sources: Sequence[str],
    problems: Sequence[Problem], outcomes: base.Outcomes,
    judge: model_config.ModelConfig | None = None,
) -> np.ndarray | None:
  """Counts the costs of searches, [B, 1] object, by their records.

  Equal siblings are drawn and not kept: they count as the nodes that were kept
  do, on average, and not in the chain of steps.

  Args:
    policy: who searched.
    name: of the strategy.
    sources: of the values that guided it, `strategies.Settings.sources`; where
      one writes texts of its own the cost is None.
    problems: that were searched.
    outcomes: with records.
    judge: of source 'model': reads all that the policy writes.
  """
  if not set(sources) <= set(_KNOWN_VALUES):
    return None
  models = [policy.model, *([judge] if judge and 'model' in sources else [])]
  return base.objects([
      [_of_tree(
          models, name, len(policy.tokenizer.encode_prompt(
              traces.prompt(problem, style=policy.style))), record, drawn)]
      for problem, (record,), (drawn,) in zip(
          problems, outcomes.records, outcomes.num_tokens, strict=True)])


def _of_tree(models, name: str, num_prompt: int, record, drawn: float) -> dict:
  ends, work = [0], 0.0  # tokens up to the end of every node, and their FLOPs
  for node in record.nodes[1:]:
    number = len(node.tokens)
    ends.append(ends[node.parent] + number)
    context = num_prompt + ends[node.parent] + number / 2
    work += number * sum(m.flops_per_token(context) for m in models)
  kept = sum(len(node.tokens) for node in record.nodes)
  prompt = sum(_prefill(m, num_prompt) for m in models)
  return dict(
      prompt_tokens=num_prompt,
      forwarded_tokens=len(models) * (num_prompt + int(drawn)),
      prompt_flops=prompt, flops=prompt + work * drawn / max(kept, 1),
      sequential_tokens=_chain(record.nodes, is_level=name in _LEVELS),
      judges={})


def _chain(nodes: Sequence[traces.Node], *, is_level: bool) -> int:
  """Tokens of the longest steps of every expansion, or of every level."""
  longest = {}
  for i, node in enumerate(nodes[1:], 1):
    key = len(from_tree.path(nodes, i)) if is_level else node.parent
    longest[key] = max(longest.get(key, 0), len(node.tokens))
  return sum(longest.values())


def _prefill(model: model_config.ModelConfig, num_tokens: int) -> float:
  return flops.prefill_flops(model, 1, num_tokens, num_readouts=0)
