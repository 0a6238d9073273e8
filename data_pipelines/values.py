# SPDX-License-Identifier: Apache-2.0
"""Records with targets of states -> sequences for a value to learn from."""

import dataclasses
import math

import numpy as np

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import tokenizers
from meta_cot.settings import config as config_lib
from meta_cot.traces import format as format_lib
from meta_cot.traces import from_tree
from meta_cot.traces import record as record_lib

# As `examples.POSITION`, with the fields of `types.Batch` about values.
POSITION = np.dtype([
    *examples.POSITION.descr, ('value_targets', np.float32),
    ('value_weights', np.float32), ('value_offsets', np.float32)])


@dataclasses.dataclass(frozen=True)
class Values:
  """Makes the sequence of one attempt of a record; picklable.

  Attempts are drawn as often as they were made. Every state of one has the
  target that its node has as a value: the question alone, and what is written
  up to the end of every step. Where `balance` says so, successes have that
  share of the weight: a target y counts as y b / r of success and
  (1 - y) (1 - b) / (1 - r) of failure, with r the mean target, and the log odds
  of the one against the other are the offset of the logit. Right attempts are
  drawn more often by the first of these factors and wrong ones less often by
  the second; what is drawn more often weighs less, so that only the noise of
  training depends on it.
  """

  arm: arms.Arm
  config: examples.ValueConfig
  tokenizer: tokenizers.Tokenizer
  style: str
  is_random = True  # which attempt

  def __call__(
      self, record: record_lib.TraceRecord, rng: np.random.Generator
  ) -> np.ndarray | None:
    """Returns POSITION [n]; None where the attempt is not to be seen now.

    Raises:
      UserError: the record has no targets, or those of other tokens.
    """
    check(record, self.tokenizer)
    nodes, problem = record.nodes, record.problem
    success, failure = self._factors(record.arguments['base_rate'])
    way = from_tree.path(nodes, draw_end(record, rng))
    often = success if nodes[way[-1]].is_correct else failure
    if rng.random() * max(success, failure) >= often:
      return None
    if self.arm.is_permuted:
      problem = self.arm.task.vary(problem, rng)
    question = self.tokenizer.encode_prompt(
        format_lib.prompt(problem, style=self.style))
    pieces = [question, *(nodes[i].tokens for i in way[1:])]
    tokens = [token for piece in pieces for token in piece]
    example = np.zeros(len(tokens), POSITION)
    example['tokens'] = tokens
    example['targets'] = [*tokens[1:], self.tokenizer.pad_id]
    if nodes[way[-1]].is_correct:
      example['weights'][len(question) - 1:-1] = self.config.policy_weight
    ends = np.cumsum([len(piece) for piece in pieces]) - 1
    for end, i in zip(ends.tolist(), way, strict=True):
      if nodes[i].value is not None:
        self._label(
            example[end:end + 1], nodes[i].value,
            record.arguments['base_rate'])
    example['weights'] /= often
    example['value_weights'] /= often
    return example

  def _factors(self, rate: float) -> tuple[float, float]:
    """How much more than it occurs a success counts, and a failure."""
    share = rate if self.config.balance is None else self.config.balance
    return share / rate, (1 - share) / (1 - rate)

  def _label(self, position: np.ndarray, target: float, rate: float) -> None:
    """Writes the target of a state at its last token, [1]."""
    of_success, of_failure = self._factors(rate)
    success, failure = target * of_success, (1 - target) * of_failure
    position['value_targets'] = success / (success + failure)
    position['value_weights'] = self.config.weight * (success + failure)
    position['value_offsets'] = math.log(of_success / of_failure)


def check(
    record: record_lib.TraceRecord, tokenizer: tokenizers.Tokenizer) -> None:
  """Raises a UserError where a record has no targets in these tokens."""
  about = record.arguments
  if 'base_rate' not in about:
    raise config_lib.UserError(
        f'records: that of problem {record.problem.id!r} has no targets; this '
        "objective learns from those of a stage of kind 'label'.")
  if about['tokenizer'] != tokenizer.fingerprint:
    raise config_lib.UserError(
        'records: their targets are of the states of another tokenizer, '
        f'{about["tokenizer"][:12]}; start from the policy that was labelled '
        'or name its tokenizer.')


def draw_end(
    record: record_lib.TraceRecord, rng: np.random.Generator) -> int:
  """Draws the node with which an attempt ends, as often as it was made."""
  number = np.array([node.visits for node in record.nodes], np.float64)
  for node in record.nodes[1:]:
    number[node.parent] -= node.visits
  return int(rng.choice(len(number), p=number / number.sum()))
