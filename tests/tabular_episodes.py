# SPDX-License-Identifier: Apache-2.0
"""A world of two episodes so small that all its trajectories are listed.

The policy draws 0, 1 or STOP; an episode ends with STOP or with its second
token. A first episode that stops at once ends the trajectory: the second does
not take place. The policy is a table, softmax(theta[context]), with a row for
every context there is: the whole history of the trajectory.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

STOP, PROMPT, RESET, PAD = 2, 3, 4, 5
NUM_EPISODES = 2
_LIMIT = 2
_EPISODES = ((2,), (0, 2), (0, 0), (0, 1), (1, 2), (1, 0), (1, 1))


@dataclasses.dataclass(frozen=True)
class World:
  """All N trajectories as rows [PROMPT, episode, RESET, episode, PAD...]."""

  tokens: np.ndarray  # [N, L] int32
  context: np.ndarray  # [N, L] int32, row of theta that draws the token
  episode: np.ndarray  # [N, L] int32, -1 for the prompt and padding
  is_sampled: np.ndarray  # [N, L] bool
  is_used: np.ndarray  # [N, K] bool, the episode took place
  tokens_before: np.ndarray  # [N, K] int32
  rewards: np.ndarray  # [N, K] float32
  num_contexts: int

  def theta(self, seed: int = 0) -> jax.Array:
    """A random table, [contexts, 3] float32."""
    noise = np.random.default_rng(seed).normal(size=(self.num_contexts, 3))
    return jnp.asarray(noise, jnp.float32)

  def log_probs(self, theta: jax.Array) -> jax.Array:
    """Of every token, [N, L] float32; 0 for those that are not sampled."""
    log_probs = jax.nn.log_softmax(theta)[
        self.context, np.minimum(self.tokens, STOP)]
    return jnp.where(self.is_sampled, log_probs, 0.0)

  def probs(self, theta: jax.Array) -> jax.Array:
    """Of the trajectories, [N] float32."""
    return jnp.exp(jnp.sum(self.log_probs(theta), axis=1))

  def values(self, theta: jax.Array, worth: np.ndarray) -> np.ndarray:
    """Exact V before every sampled token, [N, L]; `worth` [N, L] is to come."""
    probs = np.asarray(self.probs(theta), np.float64)[:, None]
    values = np.zeros(self.tokens.shape)
    for c in range(self.num_contexts):
      here = self.is_sampled & (self.context == c)
      values[here] = (here * probs * worth).sum() / (here * probs).sum()
    return values

  def last_tokens(self) -> np.ndarray:
    """Where each episode's last sampled token is, [N, L] bool."""
    is_last = np.zeros(self.tokens.shape, bool)
    for n, k in np.argwhere(self.is_used):
      inside = self.is_sampled[n] & (self.episode[n] == k)
      is_last[n, np.flatnonzero(inside)[-1]] = True
    return is_last


def make() -> World:
  noise = np.random.default_rng(7)
  pairs = [(first, second) for first in _EPISODES
           for second in (_EPISODES if first != (STOP,) else ((),))]
  length = 2 + NUM_EPISODES * _LIMIT
  shape = (len(pairs), length)
  tokens, episode = np.full(shape, PAD, np.int32), np.full(shape, -1, np.int32)
  context, is_sampled = np.zeros(shape, np.int32), np.zeros(shape, bool)
  contexts, first_rewards = {}, {}
  rewards = np.zeros((len(pairs), NUM_EPISODES), np.float32)
  for n, (first, second) in enumerate(pairs):
    row = (PROMPT, *first, *((RESET, *second) if second else ()))
    tokens[n, :len(row)] = row
    for i in range(1, len(row)):
      episode[n, i] = int(i > len(first))
      is_sampled[n, i] = row[i] != RESET
      if is_sampled[n, i]:
        context[n, i] = contexts.setdefault(row[:i], len(contexts))
    rewards[n, 0] = first_rewards.setdefault(first, noise.uniform())
    rewards[n, 1] = noise.uniform() if second else 0.0
  return World(
      tokens=tokens, context=context, episode=episode, is_sampled=is_sampled,
      is_used=np.array([(True, bool(second)) for _, second in pairs]),
      tokens_before=np.array([(0, len(first)) for first, _ in pairs], np.int32),
      rewards=rewards, num_contexts=len(contexts))
