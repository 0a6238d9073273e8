# SPDX-License-Identifier: Apache-2.0
"""What a search knows of a model's texts: tokens, steps, and verdicts."""

from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot.problem import Problem
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base
from meta_cot.traces import format as format_lib

# Kinds of steps. `solution`: of a model that writes solutions only; `sentence`:
# of the same, but they end with lines and sentences, whatever the style;
# `event`: of one that writes whole traces; `episode`: a whole attempt, behind
# which another one may follow.
KINDS = ('solution', 'sentence', 'event', 'episode')
SOLUTIONS = KINDS[:2]  # the steps of solutions
_STOPS = ('.', '!', '?')  # end a sentence, if no more than blanks follow
# Tokens of which programs read texts. They hold every token's characters, and
# read at every position as many as the longest token has: those of released
# vocabularies would be tens of megabytes, and thousands of steps a verdict.
MAX_IN_GRAPH = 2**14


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Constants of the programs of a search."""

  pad_id: int
  eos_ids: tuple[int, ...]  # end a text
  # End a step that is not blank, and belong to it.
  delimiter_ids: tuple[int, ...]
  texts: tuple[str, ...]  # of every id that the model can write
  has_opening: bool = False  # what opens a text would end a step
  blank_ids: tuple[int, ...] = ()  # write blanks, or nothing

  def cut(self, tokens: Sequence[int]) -> list[tuple[int, ...]]:
    """Cuts a text behind what ends a step; the last may have no end."""
    pieces, start, has_text = [], 0, False
    for i, token in enumerate(tokens, 1):
      has_text |= token not in self.blank_ids
      is_end = has_text and token in self.delimiter_ids and not (
          self.has_opening and i == 1)
      if is_end or i == len(tokens):
        pieces.append(tuple(tokens[start:i]))
        start, has_text = i, False
    return pieces


def of(
    tokenizer: tokenizers.Tokenizer, vocab_size: int, style: str,
    kind: str = 'solution',
) -> Vocabulary:
  """Makes that of a model, of texts in a style and one of KINDS of steps.

  Raises:
    ValueError: no token ends a step.
  """
  ends, stops = _ends(style, kind), _STOPS if kind == 'sentence' else ()
  texts = tuple(tokenizer.decode([i]) for i in range(vocab_size))
  is_end_V = [any(end) for end in zip(*map(tokenizer.containing, ends))]
  delimiter_ids = {i for i, is_end in enumerate(is_end_V) if is_end} | {
      i for i, text in enumerate(texts) if text.rstrip().endswith(stops)}
  if ends and not delimiter_ids:
    raise ValueError(
        'tokenizer: no token has '
        f'{" or ".join(map(repr, (*ends, *stops)))} in it, which ends a step; '
        f'train it on traces of style {style!r}.')
  return Vocabulary(
      pad_id=tokenizer.pad_id, eos_ids=tokenizer.eos_ids,
      delimiter_ids=tuple(sorted(delimiter_ids)), texts=texts,
      has_opening=has_opening(style, kind), blank_ids=blank_ids(texts))


def _ends(style: str, kind: str) -> tuple[str, ...]:
  """A token that has one of these in it ends a step."""
  module = format_lib.STYLES[style]
  return dict(
      solution=(module.STEP_END,), sentence=('\n',), event=module.EVENT_ENDS,
      episode=())[kind]


def has_opening(style: str, kind: str) -> bool:
  """Tells whether a style opens its texts with what ends its steps."""
  opening = format_lib.STYLES[style].OPENING
  return any(opening.endswith(end) for end in _ends(style, kind))


def blank_ids(texts: Sequence[str]) -> tuple[int, ...]:
  """Finds the tokens, by their texts, that write blanks or nothing."""
  return tuple(i for i, text in enumerate(texts) if not text.strip())


def is_in_graph(task: base.Task, style: str, vocab_size: int) -> bool:
  """Tells whether texts of a style are judged in compiled programs.

  Those of larger vocabularies than MAX_IN_GRAPH are judged on the host.
  """
  module = format_lib.STYLES[style]
  return task.in_graph is not None and vocab_size <= MAX_IN_GRAPH and (
      module.OPENING, module.STEP_END) == task.in_graph.marks and (
          not format_lib.has_drafts(style))


def graph_inputs(
    task: base.Task, problems: Sequence[Problem]
) -> list[dict[str, np.ndarray]]:
  """Collects what the verdict in the graph needs to know of every problem.

  Raises:
    UserError: two problems differ in shape; names them.
  """
  inputs = [task.in_graph.inputs(p) for p in problems]
  shapes = [{k: np.shape(v) for k, v in x.items()} for x in inputs]
  for problem, shape in zip(problems, shapes):
    if shape != shapes[0]:
      raise config_lib.UserError(
          f'problems: {problems[0].id} has inputs of shapes {shapes[0]}, '
          f'{problem.id} of {shape}; must be equal.')
  return inputs


def of_last_text(
    outcome: Callable[..., jax.Array], eos_ids: tuple[int, ...]
) -> Callable[..., jax.Array]:
  """Makes the outcome of the last attempt: `judge.last_text` in the graph."""

  def of_last(problem, tokens_M, length):
    column_M = jnp.arange(tokens_M.shape[0])
    is_end_M = decode.is_one_of(tokens_M, eos_ids) & (column_M < length - 1)
    start = jnp.max(jnp.where(is_end_M, column_M + 1, 0))
    return outcome(problem, jnp.roll(tokens_M, -start), length - start)

  return of_last
