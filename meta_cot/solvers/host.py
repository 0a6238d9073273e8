# SPDX-License-Identifier: Apache-2.0
"""A task's own code as functions of texts, for compiled programs to call.

For what no function of arrays knows: verdicts in styles that no program reads,
and which states lead to a solution. The rows of a program go to the host
together, and nothing is asked twice.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.problem import Problem
from meta_cot.rollouts import judge as judge_lib
from meta_cot.runtime import callbacks
from meta_cot.settings import config as config_lib
from meta_cot.solvers import trees
from meta_cot.solvers import vocabulary as vocabulary_lib


@dataclasses.dataclass(eq=False)
class Host:
  """The verifier and the oracle of a task, as functions of `reasoning.OfText`.

  Of a `problem` they need the 'index', by which `problems` are known.
  """

  judge: judge_lib.Judge
  words: vocabulary_lib.Vocabulary  # of the steps
  _problems: Mapping[int, Problem] = dataclasses.field(default_factory=dict)
  _known: dict[Any, float] = dataclasses.field(default_factory=dict)
  error: config_lib.UserError | None = None  # of a task, to be raised

  @property
  def is_verifier(self) -> bool:
    """Whether no compiled program judges such texts."""
    return not vocabulary_lib.is_in_graph(
        self.judge.task, self.judge.style, len(self.words.texts))

  def ask_about(self, problems: Mapping[int, Problem]) -> None:
    """Sets the problems; forgets all that was said of others."""
    self._problems, self._known, self.error = problems, {}, None

  def verdict(self, problem, tokens_M, length) -> jax.Array:
    """Returns 1.0 for a right text, else 0.0; [] float32."""
    return _call(self._verdicts)(problem['index'], tokens_M, length)

  def oracle(self, problem, tokens_M, length) -> jax.Array:
    """Returns 1.0 if some solution goes on from the text, else 0.0.

    Of one that has ended it is the verdict. One that stops inside a step is in
    no state, and has none. [] float32.
    """
    return _call(self._oracles)(problem['index'], tokens_M, length)

  def _verdicts(self, *rows) -> np.ndarray:
    return self._each(self._is_right, *rows)

  def _oracles(self, *rows) -> np.ndarray:
    return self._each(self._is_alive, *rows)

  def _each(self, is_true, index_S, tokens_SxM, length_S) -> np.ndarray:
    """[S] float32, of rows."""
    found = []
    for index, tokens_M, length in zip(
        *map(np.asarray, (index_S, tokens_SxM, length_S)), strict=True):
      found.append(self._know(
          is_true, int(index), tuple(tokens_M[:length].tolist())))
    return np.array(found, np.float32)

  def _know(self, is_true, index: int, about: Any) -> float:
    key = is_true, index, about
    if key not in self._known:
      try:
        self._known[key] = float(is_true(index, about))
      except config_lib.UserError as e:  # must not pass through the program
        self.error = e
        self._known[key] = 0.0
    return self._known[key]

  def _has_ended(self, tokens: Sequence[int]) -> bool:
    """Most texts are parts of one, without an end."""
    return bool(set(tokens[-1:]) & set(self.words.eos_ids))

  def _is_right(self, index: int, tokens: Sequence[int]) -> bool:
    return self._has_ended(tokens) and self.judge.claim(
        self._problems[index], tokens).verdict.is_correct

  def _is_alive(self, index: int, tokens: Sequence[int]) -> float:
    if self._has_ended(tokens):
      return self._know(self._is_right, index, tokens)
    state = trees.state_of(
        self.judge, self._problems[index],
        self.words.cut(tokens))
    return 0.0 if state is None else self._know(self._leads, index, state)

  def _leads(self, index: int, state: str) -> bool:
    return self.judge.task.oracle(self._problems[index], state)


def _call(function: Callable[..., np.ndarray]) -> Callable[..., jax.Array]:
  """Makes (index, tokens [M], length) -> [] float32 of a function of rows [S].

  Under `jax.vmap` as many rows go into one call as its arguments may have.
  """

  @jax.custom_batching.custom_vmap
  def call(index, tokens, length):  # all with the same leading axes, any
    shape = length.shape
    flat = lambda x: x.reshape(length.size, *x.shape[length.ndim:])
    return callbacks.by_rows(
        function, jax.ShapeDtypeStruct((), jnp.float32),
        *map(flat, (index, tokens, length))).reshape(shape)

  @call.def_vmap
  def _(size, is_batched, *rows):
    return call(*(
        x if b else jnp.broadcast_to(x, (size, *x.shape))
        for x, b in zip(rows, is_batched))), True

  return call
