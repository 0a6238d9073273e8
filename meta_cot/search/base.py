# SPDX-License-Identifier: Apache-2.0
"""What a search is given and what it gives: roots, paths, expansions.

Axes, besides those of `types`: N nodes of a tree, A children of one expansion
(the branching; where it changes with depth, the widest), K leaves expanded
together, D nodes on a path, R = B * K rows of one call of the step function.
"""

from collections.abc import Callable, Collection
import dataclasses
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.types import PRNGKey

# As a `state_key`, twice: this state has no key and is never merged.
NO_KEY = 2**32 - 1


@struct.dataclass
class Root:
  """Where the searches start, one per problem."""

  embedding: Any  # pytree, [B, ...]
  value: jax.Array  # [B] float32
  is_terminal: jax.Array  # [B] bool; nothing to search: the value is the reward
  # [B] int32, names the problems: a problem's random draws follow from it, so
  # they are the same alone or in any batch. 0 .. B-1 by default.
  problem_id: jax.Array | None = None
  state_key: jax.Array | None = None  # [B, 2] uint32; None: found by no child


@struct.dataclass
class Path:
  """The nodes from the root to a leaf that is being expanded, per row.

  Row r belongs to problem r // K. Rows with length 0 have nothing to expand;
  what the step function gives for them is ignored.
  """

  embeddings: Any  # pytree, [R, D, ...]; behind `length` anything
  length: jax.Array  # [R] int32, nodes on the path, root included
  nodes: jax.Array  # [R, D] int32 indices; behind `length` the root's
  keys: PRNGKey  # [R]; from the search's rng, the problem's id and the leaf
  # [R] int32, children that the tree takes, the first ones; the others are
  # dropped and cost nothing. None: all of A.
  num_children: jax.Array | None = None


@struct.dataclass
class Expansion:
  """The children of every leaf, in branch order."""

  embedding: Any  # pytree, [R, A, ...]
  log_prob: jax.Array  # [R, A] float32, of the step given its path
  value: jax.Array  # [R, A] float32
  reward: jax.Array  # [R, A] float32, the outcome of a terminal child
  is_terminal: jax.Array  # [R, A] bool
  is_valid: jax.Array  # [R, A] bool; False: there is no such child
  num_tokens: jax.Array | None = None  # [R, A] int32, what the child cost
  # [R, A] int32, rows that models read token by token for it; those that only
  # waited for others too.
  num_passes: jax.Array | None = None
  cost: jax.Array | None = None  # [R, A] float32, length of the step (A*)
  step_key: jax.Array | None = None  # [R, A, 2] uint32; equal steps, equal keys
  state_key: jax.Array | None = None  # [R, A, 2] uint32; NO_KEY twice: none


# (params, rng, path) -> Expansion. Pure. `rng` is a fresh key in every call;
# `path.keys` are those that do not depend on the batch.
StepFn = Callable[[Any, PRNGKey, Path], Expansion]


def check_positive(**numbers: int | None) -> None:
  """Raises a ValueError where a number is below 1; None will do."""
  for name, number in numbers.items():
    if number is not None and number < 1:
      raise ValueError(f'{name}: got {number}; must be at least 1.')


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
  """Raises a ValueError where a value is none of the choices."""
  if value not in choices:
    raise ValueError(
        f'{name}: got {value!r}; must be one of {", ".join(choices)}.')


def check_root(root: Root) -> None:
  """Raises a ValueError where an array has not one entry per problem."""
  if jnp.ndim(root.value) != 1:
    raise ValueError(
        f'root: value has shape {jnp.shape(root.value)}; must be [B].')
  lead = jnp.shape(root.value)
  behind = [jnp.shape(x)[1:] for x in jax.tree.leaves(root.embedding)]
  _check_shapes(
      root, 'root', lead, behind, f'as value has {lead[0]} problems')


def check_expansion(
    expansion: Expansion, embeddings: Any, rows: int, branching: int
) -> None:
  """Checks what a step function gave for R = `rows` leaves of trees.

  Raises:
    ValueError: a shape is not [R, A, ...], or for embeddings not with the axes
      behind it that those of the trees, [B, N, ...], have.
  """
  given, wanted = map(jax.tree.structure, (expansion.embedding, embeddings))
  if given != wanted:
    raise ValueError(
        f'step_fn: embedding is {given}; must be {wanted}, as the root\'s.')
  behind = [x.shape[2:] for x in jax.tree.leaves(embeddings)]
  _check_shapes(
      expansion, 'step_fn', (rows, branching), behind,
      f'for {rows} paths, branching {branching} and what the root has')


def _check_shapes(given, words, lead, behind, reason):
  """All arrays have the axes `lead`; embeddings those of `behind` after it."""
  arrays = [
      (field.name, getattr(given, field.name),
       (2,) if field.name.endswith('_key') else ())
      for field in dataclasses.fields(given) if field.name != 'embedding']
  arrays += [
      (f'embedding{jax.tree_util.keystr(path)}', array, axes)
      for (path, array), axes in zip(
          jax.tree.leaves_with_path(given.embedding), behind)]
  for name, array, axes in arrays:
    if array is not None and jnp.shape(array) != (*lead, *axes):
      raise ValueError(
          f'{words}: {name} has shape {jnp.shape(array)}; must be '
          f'{(*lead, *axes)}, {reason}.')
