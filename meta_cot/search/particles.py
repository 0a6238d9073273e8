# SPDX-License-Identifier: Apache-2.0
"""Particle filtering: texts that are worth more are gone on with more often."""

import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.search import base
from meta_cot.search import engine
from meta_cot.search import ranking
from meta_cot.search import tree as tree_lib
from meta_cot.types import PRNGKey


@struct.dataclass
class Population:
  """The particles of every problem, P of each."""

  nodes: jax.Array  # [B, P] int32; the same node may be there several times
  log_weights: jax.Array  # [B, P] float32; -inf: dead


@dataclasses.dataclass(frozen=True)
class Particles(engine.Strategy):
  """The rule of `particles`.

  A step draws one more step for every particle that can go on. Its weight is
  multiplied by the value of the new node over that of the old one, so that it
  is the value of its text as long as nothing is drawn again. When the weights
  are too unequal, P particles are drawn from them (systematic resampling) and
  all get the mean weight. Ended particles wait, and are drawn as others are.
  Values must not be below 0.

  Whatever the values on the way, the mean weight at the end is an unbiased
  estimate of the value that a text of the policy has where it ends (Del Moral,
  2004, section 7.4.2): with the outcome `verifier` of its rate of success.
  The solution is the answer with the highest reward, then value, then age.
  """

  num_particles: int  # P
  resample_below: float = 1.0  # share of P that weights are worth at least

  repeats = True

  def __post_init__(self):
    base.check_positive(num_particles=self.num_particles)
    super().__post_init__()
    if self.branching != 1 or self.merge_states:
      raise ValueError(
          f'branching, merge_states: got {self.branching}, '
          f'{self.merge_states}; must be 1 and False: particles are '
          'independent.')
    if not 0.0 <= self.resample_below <= 1.0:
      raise ValueError(
          f'resample_below: got {self.resample_below}; must be 0 to 1.')

  @property
  def num_leaves(self) -> int:
    return self.num_particles

  @property
  def max_steps(self) -> int:
    return self.max_depth

  @property
  def num_nodes(self) -> int:
    return 1 + self.num_particles * self.max_depth

  def start(self, tree: tree_lib.SearchTree) -> Population:
    """All particles at the root; see `engine.Strategy`."""
    shape = tree.shape[0], self.num_particles
    return Population(
        jnp.zeros(shape, jnp.int32),
        jnp.broadcast_to(_log(tree.values[:, :1]), shape))

  def select(self, state: engine.State) -> tuple[engine.State, jax.Array]:
    """The particles that can go on; see `engine.Strategy`."""
    return state, self._open(state.tree, state.extra)

  def backup(
      self, state: engine.State, leaves_BxK: jax.Array,
      children: tree_lib.Children,
  ) -> engine.State:
    """Moves, weighs and draws the particles; see `engine.Strategy`."""
    tree, old = state.tree, state.extra
    is_moved_BxP = leaves_BxK != tree_lib.NONE
    nodes_BxP = jnp.where(
        is_moved_BxP, jnp.minimum(children.nodes[..., 0], tree.shape[1] - 1),
        old.nodes)
    gain_BxP = _log(tree_lib.gather(tree.values, nodes_BxP)) - (
        _log(tree_lib.gather(tree.values, old.nodes)))
    is_dead_BxP = (old.log_weights == -jnp.inf) | (
        is_moved_BxP & ~children.is_valid[..., 0])
    population = resample(
        Population(nodes_BxP, jnp.where(
            is_dead_BxP, -jnp.inf, old.log_weights + gain_BxP)),
        _keys(state), self.resample_below)
    is_done_B = jnp.all(
        self._open(tree, population) == tree_lib.NONE, axis=1)
    if self.stops_at_goal:
      is_done_B |= jnp.any(ranking.is_goal(tree, self.goal_above), axis=1)
    return state.replace(
        extra=population, is_done=is_done_B,
        solution=ranking.best_terminal(tree, tree.values))

  def _open(self, tree, population: Population) -> jax.Array:
    """Nodes of live particles that can be expanded, [B, P]; else NONE."""
    is_open_BxP = tree_lib.gather(
        ranking.is_expandable(tree, self.max_depth, again=True),
        population.nodes) & (population.log_weights > -jnp.inf)
    return jnp.where(is_open_BxP, population.nodes, tree_lib.NONE)


def log_evidence(population: Population) -> jax.Array:
  """Returns the logarithm of the mean weight, [B] float32."""
  return jax.nn.logsumexp(population.log_weights, axis=1) - jnp.log(
      population.log_weights.shape[1])


def particles(
    params: Any, rng: PRNGKey, root: base.Root, step_fn: base.StepFn,
    **settings: Any,
) -> engine.SearchOutput:
  """Searches by particle filtering (Puri et al., arXiv 2502.01618).

  Takes the arguments of `engine.run` and the fields of `Particles` but
  `branching`; raises a ValueError where these allow no search or a shape is
  wrong.
  """
  return engine.run(
      Particles(branching=1, **settings), params, rng, root, step_fn)


def resample(
    population: Population, keys_B: PRNGKey, below: float) -> Population:
  """Draws the particles anew where they are too unequal (systematically).

  That is where (sum of weights)^2 / (sum of their squares), the number that
  the particles are worth, is less than `below` * P.
  """
  log_BxP, mean_B = population.log_weights, log_evidence(population)
  num = log_BxP.shape[1]
  share_BxP = jax.nn.softmax(log_BxP, axis=1)  # NaN where all are dead
  is_unequal_B = (mean_B > -jnp.inf) & (
      jnp.sum(share_BxP**2, axis=1) * below * num > 1.0 + 1e-5)
  start_B = jax.vmap(jax.random.uniform)(keys_B)
  places_BxP = (jnp.arange(num)[None] + start_B[:, None]) / num
  drawn_BxP = jax.vmap(
      lambda ends_P, places_P: jnp.searchsorted(ends_P, places_P, side='right')
  )(jnp.cumsum(share_BxP, axis=1), places_BxP)
  # The last sum may be a little below 1: never past the last live particle.
  last_B = num - 1 - jnp.argmax((log_BxP > -jnp.inf)[:, ::-1], axis=1)
  drawn_BxP = jnp.minimum(drawn_BxP, last_B[:, None])
  drawn = Population(
      tree_lib.gather(population.nodes, drawn_BxP),
      jnp.broadcast_to(mean_B[:, None], log_BxP.shape))
  return tree_lib.select_rows(is_unequal_B, drawn, population)


def _log(values: jax.Array) -> jax.Array:
  """-inf where a value is no weight."""
  return jnp.log(jnp.maximum(jnp.nan_to_num(values), 0.0))


def _keys(state: engine.State) -> PRNGKey:
  """A key of every problem for this step, [B]."""
  keys_B = jax.random.wrap_key_data(state.seeds, impl='threefry2x32')
  return jax.vmap(jax.random.fold_in)(keys_B, state.num_steps)
