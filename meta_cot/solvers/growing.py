# SPDX-License-Identifier: Apache-2.0
"""What of a model's steps becomes a node, and when a search is over."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from meta_cot.reasoning import node as node_lib
from meta_cot.search import base as search_base
from meta_cot.search.frontier import GOAL_TESTS
from meta_cot.search.mcts import BACKUPS
from meta_cot.settings import config as config_lib
from meta_cot.solvers import vocabulary as vocabulary_lib
from meta_cot.tasks import base

# Strategies that finish their levels whatever they find, unless told otherwise.
_FINISHERS = ('beam', 'dvts', 'particles')


@dataclasses.dataclass(frozen=True)
class Tree:
  """How trees grow, whatever the strategy."""

  step_check: str = config_lib.setting(choices=('none', 'task'))
  merging: str = config_lib.setting(choices=('none', 'steps', 'states'))
  goal_test: str = config_lib.setting(choices=GOAL_TESTS)
  backup: str = config_lib.setting(choices=BACKUPS)
  early_stop: str | None = config_lib.setting(
      choices=('never', 'verdict', 'value'))
  stop_value: float = config_lib.setting()
  widening: float | None = config_lib.setting(above=0.0, high=1.0)
  widening_scale: float = config_lib.setting(above=0.0)
  resample_below: float = config_lib.setting(low=0.0, high=1.0)
  compaction: bool = config_lib.setting(is_free=True)

  @property
  def reads_steps(self) -> bool:
    """Whether programs read the steps of a text, for which they need a task."""
    return self.step_check == 'task' or self.merging == 'states'

  @property
  def widened(self) -> dict[str, Any]:
    """The fields of strategies that expand nodes again."""
    return dict(widening=self.widening, widening_scale=self.widening_scale)

  def rules(self, name: str, outcome: str) -> dict[str, Any]:
    """Makes the fields that all strategies have, for the one called so.

    Raises:
      ConfigError: it would wait for a verdict that no one gives.
    """
    is_judged = outcome == 'verifier'
    if self.early_stop == 'verdict' and not is_judged:
      raise config_lib.ConfigError(
          "search.tree.early_stop: got 'verdict' with search.outcome "
          f"{outcome!r}; must be 'never' or 'value', or the outcome "
          "'verifier'.")
    stops = self.early_stop != 'never'
    if self.early_stop is None:
      stops = is_judged if name == 'mcts' else name not in _FINISHERS
    return dict(
        stops_at_goal=stops,
        goal_above=self.stop_value if self.early_stop == 'value' else 0.0,
        merge_steps=self.merging != 'none',
        merge_states=self.merging == 'states')

  def functions(
      self, task: base.Task, vocabulary: vocabulary_lib.Vocabulary
  ) -> dict[str, Callable[..., jax.Array]]:
    """Makes the fields of a `reasoning.LanguageStep` that read steps."""
    def texts(end: str) -> tuple[str, ...]:
      """Of all tokens; those that end a text write something."""
      return tuple(
          text + end if i in vocabulary.eos_ids else text
          for i, text in enumerate(vocabulary.texts))

    found = {}
    if self.step_check == 'task':
      found.update(is_legal=task.in_graph.is_legal(
          texts(task.in_graph.marks[1])))
    if self.merging == 'states':
      # A text that has ended has no state.
      found.update(state_key=_key(task.in_graph.state(texts('\0'))))
    return found


def check(
    tree: Tree, step: str, task: base.Task, style: str, vocab_size: int
) -> None:
  """Raises a ConfigError where no program reads the steps of such texts."""
  is_read = step in vocabulary_lib.SOLUTIONS and vocabulary_lib.is_in_graph(
      task, style, vocab_size)
  for name, value, part, instead in (
      ('step_check', 'task', 'is_legal', 'none'),
      ('merging', 'states', 'state', 'steps')):
    if getattr(tree, name) == value and not (
        is_read and hasattr(task.in_graph, part)):
      raise config_lib.ConfigError(
          f'search.tree.{name}: got {value!r}; must be {instead!r}: no '
          f'compiled program reads steps of this task, {step!r}, in style '
          f'{style!r}, with {vocab_size} tokens (task.in_graph.{part}).')


def _key(state: Callable[..., Any]) -> node_lib.OfText:
  """The key of a state, which is int32 numbers; NO_KEY where it is none."""

  def state_key(problem, tokens_M, length):
    state_n, is_state = state(problem, tokens_M, length)
    key = node_lib.hash_tokens(state_n, jnp.asarray(len(state_n)))
    return jnp.where(is_state, key, jnp.uint32(search_base.NO_KEY))

  return state_key
