# SPDX-License-Identifier: Apache-2.0
"""The states of a record: its attempts as tokens, equal beginnings merged.

A state is what was written up to the end of a step, as a policy would write it;
two with the same tokens are one node.
"""

from collections.abc import Iterator, Sequence
import dataclasses

from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.solvers import vocabulary
from meta_cot.traces import events as events_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the states of records in the tokens of a policy."""

  tokenizer: tokenizers.Tokenizer
  style: str
  words: vocabulary.Vocabulary  # of solutions

  def merged(self, record: traces.TraceRecord) -> traces.TraceRecord:
    """Merges the attempts of a record, each a way from the root to an end.

    Nodes of the result have tokens; `visits` counts the attempts through a
    node, at least one through the root; `value` is the mean of those that the
    search gave to what was merged. Attempts that the style cannot write, or
    whose tokens do not end where steps do, are left out. So is the solution,
    unless it is among them; the first right attempt is.
    """
    root = dataclasses.replace(
        record.nodes[0], visits=0, tokens=(), order=-1)
    nodes, places, merged = [root], {}, {0: {0}}
    for way, pieces in self._attempts(record):
      at = 0
      nodes[0] = _visited(nodes[0])
      for index, tokens in zip(way[1:], pieces, strict=True):
        key = at, tokens
        if key not in places:
          places[key] = len(nodes)
          nodes.append(dataclasses.replace(
              record.nodes[index], parent=at, tokens=tokens, visits=0,
              order=-1))
          merged[places[key]] = set()
        at = places[key]
        nodes[at] = _visited(nodes[at])
        merged[at].add(index)
    nodes[0] = dataclasses.replace(nodes[0], visits=max(nodes[0].visits, 1))
    nodes = [
        dataclasses.replace(node, value=_mean(
            [record.nodes[k].value for k in sorted(merged[i])]))
        for i, node in enumerate(nodes)]
    right = next((i for i, n in enumerate(nodes) if n.is_correct), -1)
    return dataclasses.replace(
        record, nodes=tuple(nodes), solution=from_tree.path(nodes, right),
        traversal='depth_first')

  def question(self, record: traces.TraceRecord) -> tuple[int, ...]:
    """The tokens of the question."""
    return tuple(self.tokenizer.encode_prompt(
        traces.prompt(record.problem, style=self.style)))

  def _attempts(
      self, record
  ) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Ways from the root to every leaf, and the tokens of their steps."""
    parents = {node.parent for node in record.nodes}
    for leaf in range(1, len(record.nodes)):
      if leaf in parents:
        continue
      way = from_tree.path(record.nodes, leaf)
      steps = [record.nodes[i] for i in way[1:]]
      pieces = [n.tokens for n in steps]
      if not any(pieces):
        pieces = self._written(record, steps)
      if pieces is not None:
        yield way, pieces

  def _written(self, record, steps) -> list[tuple[int, ...]] | None:
    """The tokens of steps that have none yet; None: they cannot be written."""
    events = (
        events_lib.Start(record.problem.question),
        events_lib.Answer('\n'.join(node.step for node in steps)))
    try:
      text = traces.render(events, style=self.style)
    except ValueError:
      return None
    text = text[len(traces.prompt(record.problem, style=self.style)):]
    if not steps[-1].is_terminal:
      text += format_lib.STYLES[self.style].STEP_END
    tokens = self.tokenizer.encode(text)
    if steps[-1].is_terminal:
      tokens = [*tokens, self.tokenizer.eos_id]
    pieces = self.words.cut(tokens)
    return pieces if len(pieces) == len(steps) else None


def _visited(node: traces.Node) -> traces.Node:
  return dataclasses.replace(node, visits=node.visits + 1)


def _mean(values: Sequence[float | None]) -> float | None:
  known = [v for v in values if v is not None]
  return sum(known) / len(known) if known else None


def written(record: traces.TraceRecord) -> list[tuple[int, ...]]:
  """The tokens behind the question up to every node of a merged record."""
  texts = [()]
  for node in record.nodes[1:]:
    texts.append(texts[node.parent] + node.tokens)
  return texts
