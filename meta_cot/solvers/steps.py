# SPDX-License-Identifier: Apache-2.0
"""How a text is cut into the steps of a search."""

from collections.abc import Callable, Mapping
import types

import numpy as np

from data_pipelines import tokenizers
from meta_cot.tasks import base
from meta_cot.traces import format as format_lib

# Kind of a step -> what ends one in a style. `solution`: of a model that writes
# solutions only; `event`: of one that writes whole traces.
KINDS: Mapping[str, Callable[[types.ModuleType], tuple[str, ...]]] = (
    types.MappingProxyType({
        'solution': lambda style: (style.STEP_END,),
        'event': lambda style: style.EVENT_ENDS,
    }))
_READ_IN_GRAPH = ('S', ',')  # opening and end of steps, of `in_graph.check`


def end_ids(
    tokenizer: tokenizers.Tokenizer, style: str, kind: str
) -> tuple[int, ...]:
  """The tokens that end a step.

  Raises:
    ValueError: no token ends one.
  """
  ends = KINDS[kind](format_lib.STYLES[style])
  is_end_V = np.any([tokenizer.ending_in(end) for end in ends], axis=0)
  if not is_end_V.any():
    raise ValueError(
        f'tokenizer: no token ends with {" or ".join(map(repr, ends))}, which '
        f'ends a step; train it on traces of style {style!r}.')
  return tuple(np.flatnonzero(is_end_V).tolist())


def is_in_graph(task: base.Task, style: str) -> bool:
  """Whether texts of a style are judged in compiled programs."""
  module = format_lib.STYLES[style]
  return task.in_graph is not None and (
      module.OPENING, module.STEP_END) == _READ_IN_GRAPH


def said(text: str, style: str, kind: str, *, is_first: bool) -> str | None:
  """What a step of a solution says, without what begins or ends it.

  None for a first step that begins no solution, and for other kinds of steps.
  """
  module = format_lib.STYLES[style]
  if kind != 'solution' or is_first and not text.startswith(module.OPENING):
    return None
  if is_first:
    text = text.removeprefix(module.OPENING)
  return text.removesuffix(module.STEP_END)
