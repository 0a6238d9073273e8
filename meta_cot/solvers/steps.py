# SPDX-License-Identifier: Apache-2.0
"""How a text is cut into the steps of a search."""

from collections.abc import Callable, Mapping, Sequence
import types

import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot.reasoning import node as node_lib
from meta_cot.tasks import base
from meta_cot.traces import format as format_lib

# Kind of a step -> what ends one in a style, besides the end of the text.
# `solution`: of a model that writes solutions only; `event`: of one that writes
# whole traces; `episode`: a whole attempt, behind which another one may follow.
KINDS: Mapping[str, Callable[[types.ModuleType], tuple[str, ...]]] = (
    types.MappingProxyType({
        'solution': lambda style: (style.STEP_END,),
        'event': lambda style: style.EVENT_ENDS,
        'episode': lambda style: (),
    }))
_READ_IN_GRAPH = ('S', ',')  # opening and end of steps, of `in_graph.check`


def end_ids(
    tokenizer: tokenizers.Tokenizer, style: str, kind: str
) -> tuple[int, ...]:
  """Lists the tokens that end a step, besides those that end a text.

  Raises:
    ValueError: no token ends one.
  """
  ends = KINDS[kind](format_lib.STYLES[style])
  if not ends:
    return ()
  is_end_V = np.any([tokenizer.ending_in(end) for end in ends], axis=0)
  if not is_end_V.any():
    raise ValueError(
        f'tokenizer: no token ends with {" or ".join(map(repr, ends))}, which '
        f'ends a step; train it on traces of style {style!r}.')
  return tuple(np.flatnonzero(is_end_V).tolist())


def is_in_graph(task: base.Task, style: str) -> bool:
  """Tells whether texts of a style are judged in compiled programs."""
  module = format_lib.STYLES[style]
  return task.in_graph is not None and (
      module.OPENING, module.STEP_END) == _READ_IN_GRAPH


def last_text(tokens: Sequence[int], eos_ids: Sequence[int]) -> Sequence[int]:
  """Cuts out the last attempt of several, with its end."""
  ends = [i for i, token in enumerate(tokens[:-1]) if token in eos_ids]
  return tokens[ends[-1] + 1:] if ends else tokens


def of_last_text(
    outcome: node_lib.OfText, eos_ids: tuple[int, ...]) -> node_lib.OfText:
  """Makes the outcome of the last attempt; as `last_text`, in the graph.
  """

  def of_last(problem, tokens_M, length):
    column_M = jnp.arange(tokens_M.shape[0])
    is_end_M = decode.is_one_of(tokens_M, eos_ids) & (column_M < length - 1)
    start = jnp.max(jnp.where(is_end_M, column_M + 1, 0))
    return outcome(problem, jnp.roll(tokens_M, -start), length - start)

  return of_last


def said(text: str, style: str, kind: str, *, is_first: bool) -> str | None:
  """Cuts off what begins or ends a step of a solution.

  None for a first step that begins no solution, and for other kinds of steps.
  """
  module = format_lib.STYLES[style]
  if kind != 'solution' or is_first and not text.startswith(module.OPENING):
    return None
  if is_first:
    text = text.removeprefix(module.OPENING)
  return text.removesuffix(module.STEP_END)
