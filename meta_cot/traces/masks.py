# SPDX-License-Identifier: Apache-2.0
"""Which parts of (question, search Z, solution S) are trained.

arXiv 2501.04682, Appendix C: procedure cloning (Eq. 22), Meta-CoT only
(Eq. 23), masked to the path of the solution (Eq. 24), and pruned traces.
"""

from collections.abc import Sequence
import dataclasses
import random

import numpy as np

from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import record as record_lib

# mask -> whether a span after the prompt is trained
MASKS = {
    'procedure_cloning': lambda span: True,
    'meta_cot': lambda span: span.kind == 'search',
    'solution_path': lambda span: span.kind == 'solution' or span.on_path,
}


def trainable(spans: Sequence[events_lib.Span], mask: str) -> list[bool]:
  """Per span: whether it is trained; prompt and joined lines never are.

  Raises:
    ValueError: no such mask.
  """
  is_trained = _predicate(mask)
  return [
      span.kind not in ('prompt', 'joined') and is_trained(span)
      for span in spans]


def trains_end(events: Sequence[events_lib.Event], mask: str) -> bool:
  """Whether the end-of-sequence token after the text is trained.

  It belongs to S where there is one, else to Z; so 'meta_cot' leaves it out,
  where a solution follows. So does an answer that is not whole.

  Raises:
    ValueError: no such mask.
  """
  _predicate(mask)
  answers = [e for e in events if isinstance(e, events_lib.Answer)]
  return all(e.is_whole for e in answers) and (
      mask != 'meta_cot' or not answers)


def trained_ranges(
    events: Sequence[events_lib.Event], style: str, mask: str
) -> tuple[str, list[tuple[int, int]]]:
  """The text of `events` and which of its characters are trained.

  Returns:
    The text, and disjoint ranges [start, end) of characters in ascending
    order, adjacent ones merged.

  Raises:
    ValueError: no such style or mask, or the style cannot express the
      events.
  """
  spans = format_lib.spans(events, style)
  ranges, at = [], 0
  for span, is_trained in zip(spans, trainable(spans, mask), strict=True):
    end = at + len(span.text)
    if is_trained and ranges and ranges[-1][1] == at:
      ranges[-1] = (ranges[-1][0], end)
    elif is_trained and end > at:
      ranges.append((at, end))
    at = end
  given = _num_given(events, style)
  return ''.join(span.text for span in spans), [
      (max(start, given), end) for start, end in ranges if end > given]


def _num_given(events: Sequence[events_lib.Event], style: str) -> int:
  """Characters up to the end of the steps that an answer was given."""
  for i, event in enumerate(events[:3]):
    if getattr(event, 'is_given', False):  # a thread's message
      return len(format_lib.render(events[:i + 1], style))
  *_, last = events
  number = getattr(last, 'num_given', 0)
  if not number:
    return 0
  given = dataclasses.replace(
      last, text='\n'.join(last.text.split('\n')[:number]))
  return len(format_lib.render((*events[:-1], given), style)) + len(
      format_lib.STYLES[style].STEP_END)


def prune(
    record: record_lib.TraceRecord, keep_fraction: float,
    rng: random.Random | np.random.Generator,
) -> record_lib.TraceRecord:
  """Cuts failed branches off the path to the solution (Appendix C, item 4).

  Every branch, a subtree that hangs on the path, is kept with probability
  `keep_fraction` as a whole. What stays is numbered anew, in the same order.
  A record without a solution is returned as it is.

  Args:
    keep_fraction: 0 leaves the path alone, 1 keeps everything.
    rng: drawn from once per branch.

  Raises:
    ValueError: `keep_fraction` is not in 0..1.
  """
  if not 0 <= keep_fraction <= 1:
    raise ValueError(f'{keep_fraction=} must be in 0..1.')
  if not record.solution:
    return record
  path = frozenset(record.solution)
  new = {}  # old index -> new index
  for i, node in enumerate(record.nodes):
    if i in path or (
        node.parent in new
        and (node.parent not in path or rng.random() < keep_fraction)):
      new[i] = len(new)
  orders = sorted(record.nodes[i].order for i in new)
  rank = {o: at for at, o in enumerate(o for o in orders if o >= 0)}
  nodes = []
  for i in new:
    node = record.nodes[i]
    nodes.append(dataclasses.replace(
        node, parent=new[node.parent] if i else -1,
        order=rank.get(node.order, -1)))
  return dataclasses.replace(
      record, nodes=tuple(nodes),
      solution=tuple(new[i] for i in record.solution))


def _predicate(mask: str):
  if mask not in MASKS:
    raise ValueError(
        f'mask {mask!r} is unknown; the masks are '
        f'{", ".join(sorted(MASKS))}.')
  return MASKS[mask]
