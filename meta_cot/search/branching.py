# SPDX-License-Identifier: Apache-2.0
"""How many children a node gets: as many everywhere, or by its depth.

(32, 8, 1) stands for 32 of the root, 8 of every node of depth 1, and 1 of every
node below: the last entry holds for all that is deeper.
"""

import jax
import jax.numpy as jnp

Branching = int | tuple[int, ...]


def widths(branching: Branching) -> tuple[int, ...]:
  """The numbers of children by depth; the last one holds below."""
  return branching if isinstance(branching, tuple) else (branching,)


def widest(branching: Branching) -> int:
  """A, the most children that a node gets."""
  return max(widths(branching))


def at(branching: Branching, depth: int) -> int:
  """The children of a node of this depth."""
  entries = widths(branching)
  return entries[min(depth, len(entries) - 1)]


def of_depths(branching: Branching, depths: jax.Array) -> jax.Array:
  """As `at`, of int32 depths of any shape; int32."""
  entries = jnp.asarray(widths(branching), jnp.int32)
  return entries[jnp.minimum(depths, len(entries) - 1)]


def most_children(
    branching: Branching, max_depth: int, num_expansions: int, *,
    again: bool = False,
) -> int:
  """An upper bound of the children that so many expansions make.

  Nodes of depth 0 to `max_depth` - 1 are expanded, each once, or `again` as
  often as one likes; that many are there at the widest. Exact where no entry
  exceeds the one before.
  """
  room, level, levels = num_expansions, 1, []
  for depth in range(max_depth):
    width = at(branching, depth)
    levels.append((width, room if again else min(level, room)))
    level *= width
  total = 0
  for width, num_nodes in sorted(levels, reverse=True):
    total += width * min(room, num_nodes)
    room -= min(room, num_nodes)
  return total


def check(branching: Branching) -> None:
  """Raises a ValueError where a node would get no child."""
  if branching == ():
    raise ValueError('branching: got (); must have at least 1 entry.')
  if min(widths(branching)) < 1:
    raise ValueError(f'branching: got {branching}; must be at least 1'
                     f'{" everywhere" * isinstance(branching, tuple)}.')
