# SPDX-License-Identifier: Apache-2.0
"""What a value is to say of the states of a record, by name.

A source takes what is known of a record whose attempts are merged
(`states.Reader.merged`) and gives a target in [0, 1] for every node, or None
where it says nothing.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import types

from meta_cot import traces
from meta_cot.settings import config as config_lib
from meta_cot.tasks import base as base_task

Targets = list[float | None]


@dataclasses.dataclass(frozen=True)
class Known:
  """A record, and what sources ask for."""

  task: base_task.Task
  record: traces.TraceRecord
  td_lambda: float = 1.0
  num_rollouts: int = 0
  # Right completions of every node; None: of an end, or not drawn.
  num_right: Sequence[int | None] = ()

  def success(self) -> Targets:
    """The probability of success (Eq. 11); that of an end is its verdict."""
    return [
        float(node.is_correct) if node.is_terminal else
        None if right is None else right / self.num_rollouts
        for node, right in zip(self.record.nodes, self.num_right, strict=True)]


def monte_carlo(known: Known) -> Targets:
  """Share of right completions (arXiv 2501.04682, Eq. 11)."""
  return known.success()


def math_shepherd(known: Known) -> Targets:
  """1 where any completion is right, else 0 (arXiv 2312.08935)."""
  return [None if p is None else float(p > 0) for p in known.success()]


def progress(known: Known) -> Targets:
  """Change of the probability of success by the last step, as (1 + change) / 2.

  1/2: no change, and of the question itself (arXiv 2410.08146).
  """
  success, targets = known.success(), [0.5]
  for node, after in zip(known.record.nodes[1:], success[1:], strict=True):
    before = success[node.parent]
    targets.append(
        None if None in (before, after) else (1 + after - before) / 2)
  return targets


def outcome(known: Known) -> Targets:
  """Share of right ones of the record's own attempts through a node."""
  nodes = known.record.nodes
  num_right = [node.is_correct * node.visits for node in nodes]
  for i in range(len(nodes) - 1, 0, -1):
    num_right[nodes[i].parent] += num_right[i]
  return [
      right / node.visits for right, node in zip(num_right, nodes, strict=True)]


def td(known: Known) -> Targets:
  """TD(lambda) on a tree: children are draws of the policy, and count equally.

  G = the verdict at an end; the search's own value where nothing was tried;
  else the mean over children of (1 - lambda) * value + lambda * G.

  Raises:
    UserError: a node that is needed has no value.
  """
  nodes, mixed = known.record.nodes, known.td_lambda
  children = [[] for _ in nodes]
  for i, node in enumerate(nodes[1:], 1):
    children[node.parent].append(i)

  def value(i):
    if nodes[i].is_terminal:
      return float(nodes[i].is_correct)
    if nodes[i].value is None:
      raise config_lib.UserError(
          f"problem {known.record.problem.id!r}: source 'td' needs the values "
          'of a search, which its record does not have; use records of one.')
    return min(max(nodes[i].value, 0.0), 1.0)

  targets = [0.0] * len(nodes)
  for i in range(len(nodes) - 1, -1, -1):
    targets[i] = value(i) if not children[i] else sum(
        mixed * targets[k] + ((1 - mixed) * value(k) if mixed < 1 else 0.0)
        for k in children[i]) / len(children[i])
  return targets


def oracle(known: Known) -> Targets:
  """1 where some solution goes on from the state, else 0, as the task says."""
  return [
      float(node.is_correct) if node.is_terminal else float(
          (node.parent < 0 or node.state != '') and known.task.oracle(
              known.record.problem, node.state))
      for node in known.record.nodes]


SOURCES: Mapping[str, Callable[[Known], Targets]] = types.MappingProxyType({
    source.__name__: source for source in (
        monte_carlo, math_shepherd, progress, outcome, td, oracle)})
DRAWN = ('monte_carlo', 'math_shepherd', 'progress')  # by completions
