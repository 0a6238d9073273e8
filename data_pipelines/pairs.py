# SPDX-License-Identifier: Apache-2.0
"""Records with targets of states -> pairs of steps, one better than the other.

Two steps are a pair if they are children of one node and the target of the one
is above that of the other. Records of the policy's own answers or searches give
pairs that are on its policy, those of a teacher others.
"""

import dataclasses

import numpy as np

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import tokenizers
from data_pipelines import values
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib

# As `examples.POSITION`; what stands behind 'place' in its own text is unseen
# by the other one of the pair.
POSITION = np.dtype([
    *examples.POSITION.descr, ('place', np.int32), ('is_second', np.int32)])


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Makes the two texts of a pair of a record; picklable.

  A pair is drawn, each as likely. Each text is the question, the steps to the
  node, and one of the steps; that step has weights, which sum up to 1 over the
  pair. The preferred one comes first.
  """

  arm: arms.Arm
  config: examples.PairsConfig
  tokenizer: tokenizers.Tokenizer
  style: str
  is_random = True  # which pair

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray | None:
    """Returns POSITION [n]; None where no two steps are a pair.

    Raises:
      UserError: the record has no targets, or those of other tokens.
    """
    values.check(record, self.tokenizer)
    pairs = find(record, self.config.min_gap)
    if not pairs:
      return None
    problem = record.problem
    if self.arm.is_permuted:
      problem = self.arm.task.vary(problem, rng)
    pair = pairs[int(rng.integers(len(pairs)))]
    question = self.tokenizer.encode_prompt(
        format_lib.prompt(problem, style=self.style))
    return np.concatenate([
        self._text(record, question, node, is_second)
        for is_second, node in enumerate(pair)])

  def _text(self, record, question, node, is_second) -> np.ndarray:
    """One text of a pair, [m]."""
    nodes = record.nodes
    before = [*question, *(
        token for i in from_tree.path(nodes, nodes[node].parent)[1:]
        for token in nodes[i].tokens)]
    step = nodes[node].tokens
    tokens = [*before, *step]
    text = np.zeros(len(tokens) - 1, POSITION)
    text['tokens'], text['targets'] = tokens[:-1], tokens[1:]
    text['weights'][len(before) - 1:] = 0.5 / len(step)
    text['place'], text['is_second'] = np.arange(len(text)), is_second
    return text


def find(
    record: record_lib.TraceRecord, min_gap: float
) -> list[tuple[int, int]]:
  """Lists pairs (better, worse) of nodes, in their order.

  Args:
    record: with targets as values.
    min_gap: by which the target of the better one is above the other's, at
      least; above 0.
  """
  siblings = {}
  for i, node in enumerate(record.nodes[1:], 1):
    if node.value is not None and node.tokens:
      siblings.setdefault(node.parent, []).append(i)
  return [
      (i, k) for children in siblings.values() for i in children
      for k in children
      if record.nodes[i].value - record.nodes[k].value >= min_gap]
