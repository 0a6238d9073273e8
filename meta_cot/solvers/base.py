# SPDX-License-Identifier: Apache-2.0
"""What answers questions (a policy), how (a solver), and what came of it.

Axes: B problems, N attempts at each, E episodes of a trajectory.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

from data_pipelines import tokenizers
from meta_cot import decode
from meta_cot.model import config as model_config
from meta_cot.problem import Problem
from meta_cot.types import Params, PRNGKey


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
  """A model that writes text in a style."""

  label: str  # such as 'solution_only'; a name of a folder
  model: model_config.ModelConfig
  params: Params  # unboxed
  tokenizer: tokenizers.Tokenizer
  style: str
  seed: int = 0  # of its training
  step: int = 0  # of its training
  trained_tokens: float | None = None  # up to this step


class Drawing:
  """Settings with `temperature`, `top_k` and `top_p`."""

  def sampling(self) -> decode.Sampling:
    """Makes the rule by which tokens are drawn."""
    return decode.Sampling(self.temperature, self.top_k, self.top_p)


@dataclasses.dataclass(frozen=True)
class Outcomes:
  """Judged attempts, NumPy.

  Raises:
    ValueError: fields of other shapes, or a right attempt without tokens.
  """

  is_correct: np.ndarray  # [B, N] bool
  is_finished: np.ndarray  # [B, N] bool, ended by itself, not by a limit
  # [B, N] float, drawn for the attempt; 0: it did not take place, NaN: unknown.
  # The first one of a problem did; of others a whole trajectory may not have.
  num_tokens: np.ndarray
  answers: np.ndarray  # [B, N] object, the text claimed; None: none
  values: np.ndarray | None = None  # [B, N] float, what the solver thinks of it
  num_episodes: int = 1  # E; attempt i is episode i % E of trajectory i // E
  seconds: float = 0.0  # of all of them, compiling not counted
  occupancy: float = 1.0  # share of rows and steps that worked on an attempt
  # [B, N] object each: more to keep of an attempt, JSON values.
  details: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
  records: np.ndarray | None = None  # [B, N] object, `TraceRecord`s
  costs: np.ndarray | None = None  # [B, N] object, see `costs`; None: unknown

  def __post_init__(self):
    names = ('is_correct', 'is_finished', 'num_tokens', 'answers')
    shapes = {name: getattr(self, name).shape for name in names}
    shape = self.is_correct.shape
    if len(shape) != 2 or 0 in shape or set(shapes.values()) != {shape}:
      raise ValueError(
          f'outcomes: shapes {shapes}; must be equal, of 2 axes, none empty.')
    if shape[1] % self.num_episodes:
      raise ValueError(
          f'outcomes: num_episodes is {self.num_episodes}; must divide the '
          f'{shape[1]} attempts.')
    if np.any(self.is_correct & (self.num_tokens == 0)):
      raise ValueError(
          'outcomes: is_correct has an attempt of 0 tokens; one that did not '
          'take place must be False.')
    tokens_BxGxE = self.by_episode(self.num_tokens)
    is_absent_BxG = tokens_BxGxE[..., 0] < 1
    if np.any(is_absent_BxG[:, 0]) or np.any(tokens_BxGxE[is_absent_BxG] > 0):
      raise ValueError(
          'outcomes: num_tokens of a first episode is less than 1 in a '
          'trajectory that took place.')

  @property
  def mean_tokens(self) -> float:
    """Of an attempt, over those whose tokens are known; NaN for none."""
    known = self.num_tokens[~np.isnan(self.num_tokens)]
    return float(known.mean()) if known.size else float('nan')

  def by_episode(self, values_BxN: np.ndarray) -> np.ndarray:
    """[B, N, ...] as trajectories of episodes, [B, N / E, E, ...]."""
    return values_BxN.reshape(
        len(values_BxN), -1, self.num_episodes, *values_BxN.shape[2:])


class Solver(Protocol):
  """A way to answer questions; how is in its settings."""

  def __call__(
      self, policy: Policy, problems: Sequence[Problem], rng: PRNGKey, *,
      first: int = 0,
  ) -> Outcomes:
    """Attempts all problems.

    Args:
      policy: whose attempts.
      problems: at least one.
      rng: of all draws; those of a problem follow from its place in the split
        too, so that they are the same alone or among others.
      first: place of the first problem in its split; the others follow.
    """


def objects(rows: Sequence[Sequence[Any]]) -> np.ndarray:
  """Makes an array [B, N] of any values."""
  array = np.empty((len(rows), len(rows[0])), object)
  for place in np.ndindex(array.shape):
    array[place] = rows[place[0]][place[1]]
  return array
