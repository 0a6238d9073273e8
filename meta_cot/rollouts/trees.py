# SPDX-License-Identifier: Apache-2.0
"""Trajectories that begin alike: what they share is drawn and read once.

A *trunk* is a trajectory. A *branch* keeps the first tokens of a trunk and goes
on by itself. Both are trajectories of one episode, *leaves*; leaf 0 of a tree
is its trunk. A row holds a whole tree: prompt and trunk, then every branch,
each with the last token that it shares once more in front, so that every token
is predicted from the one before it. A branch sees of the trunk what it shares.

Axes besides those of `rows`: R trees, F branches of each, L = 1 + F leaves, C
tokens of a trajectory, at most.
"""

from typing import NamedTuple

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot import decode
from meta_cot.rollouts import episodes
from meta_cot.rollouts import rows as rows_lib


@struct.dataclass
class Trees:
  """R trees as they were drawn."""

  tokens: jax.Array  # [R, L, C] int32; of a branch only what it drew itself
  log_probs: jax.Array  # [R, L, C] float32, of the sampler
  lengths: jax.Array  # [R, L] int32, of the same
  kept: jax.Array  # [R, L] int32, tokens of the trunk before; 0 for the trunk


@struct.dataclass
class TreeRows:
  """Rows of trees, and whose every token is."""

  rows: rows_lib.Rows
  # [R, X, L] bool, of the targets: the leaves that the token is a part of. A
  # token that was not drawn is a part of none.
  leaves: jax.Array


def chains(trees: Trees) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Writes every leaf out: tokens and log-probs [R, L, C], lengths [R, L].

  C is enough where no trajectory is longer than a trunk may be.
  """
  column_C = jnp.arange(trees.tokens.shape[2], dtype=jnp.int32)
  at_RxLxC = column_C[None, None] - trees.kept[..., None]

  def join(x_RxLxC):
    own = jnp.take_along_axis(x_RxLxC, jnp.maximum(at_RxLxC, 0), axis=2)
    return jnp.where(at_RxLxC < 0, x_RxLxC[:, :1], own)

  lengths_RxL = trees.kept + trees.lengths
  is_in_RxLxC = column_C[None, None] < lengths_RxL[..., None]
  blank = lambda x: jnp.where(is_in_RxLxC, join(x), jnp.zeros((), x.dtype))
  return blank(trees.tokens), blank(trees.log_probs), lengths_RxL


def as_rollouts(
    trees: Trees, rules: episodes.Episodes, trunks: episodes.Rollouts
) -> episodes.Rollouts:
  """Writes the leaves out as trajectories, those of a tree one after the other.

  `trunks` are those that they grew on; steps of the loop are theirs.
  """
  tokens, log_probs, lengths = (
      x.reshape(-1, *x.shape[2:]) for x in chains(trees))
  is_drawn = jnp.arange(tokens.shape[1])[None] < lengths[:, None]
  last_N = jnp.take_along_axis(
      tokens, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
  ended_by = lambda ids: (
      (lengths > 0) & decode.is_one_of(last_N, ids))[:, None]
  given_up = () if rules.give_up_id is None else (rules.give_up_id,)
  return episodes.Rollouts(
      tokens=tokens, log_probs=log_probs, is_sampled=is_drawn,
      episode=jnp.where(is_drawn, 0, -1).astype(jnp.int32), lengths=lengths,
      starts=jnp.zeros_like(lengths)[:, None], ends=lengths[:, None],
      is_finished=ended_by(rules.stop_ids), has_given_up=ended_by(given_up),
      num_steps=trunks.num_steps, num_live=trunks.num_live)


def assemble(
    prompts_RxP: jax.Array, prompt_lengths_R: jax.Array, trees: Trees, *,
    pad_id: int, width: int | None = None,
) -> TreeRows:
  """Makes the training rows of trees, each behind its prompt.

  Args:
    prompts_RxP: int32, padded on the right with anything.
    prompt_lengths_R: int32, at least 1.
    trees: behind the prompts.
    pad_id: fills the rows.
    width: X, at least what the longest tree needs, see `num_places`; by default
      what the longest possible one does.
  """
  num_rows, num_leaves, num_new = trees.tokens.shape
  if width is None:
    width = prompts_RxP.shape[1] - 1 + num_leaves * num_new
  targets = _targets(prompt_lengths_R, trees, width)
  leaf_RxX, new_RxX = targets.leaf, targets.new

  def take(x_RxLxC, leaf_RxX, at_RxX):
    return jnp.take_along_axis(
        x_RxLxC.reshape(num_rows, -1),
        leaf_RxX * num_new + jnp.clip(at_RxX, 0, num_new - 1), axis=1)

  def token(behind):  # of every place, so far behind the target in its text
    text_RxX = targets.text + behind
    new = text_RxX - prompt_lengths_R[:, None]
    found = jnp.where(
        new_RxX + behind >= 0, take(trees.tokens, leaf_RxX, new_RxX + behind),
        take(trees.tokens, jnp.zeros_like(leaf_RxX), new))
    found = jnp.where(new >= 0, found, jnp.take_along_axis(
        prompts_RxP, jnp.clip(text_RxX, 0, prompts_RxP.shape[1] - 1), axis=1))
    return jnp.where(targets.is_in, found, pad_id)

  is_drawn_RxX = targets.is_in & (new_RxX >= 0)
  is_own_RxXxL = leaf_RxX[..., None] == jnp.arange(num_leaves)[None, None]
  is_shared_RxXxL = (leaf_RxX == 0)[..., None] & (
      new_RxX[..., None] < trees.kept[:, None])
  blank = lambda x_RxX, fill: jnp.where(targets.is_in, x_RxX, fill)
  return TreeRows(
      rows=rows_lib.Rows(
          tokens=token(-1), targets=token(0), is_sampled=is_drawn_RxX,
          behaviour=jnp.where(
              is_drawn_RxX, take(trees.log_probs, leaf_RxX, new_RxX), 0.0),
          episode=jnp.where(is_drawn_RxX, 0, -1).astype(jnp.int32),
          trajectory=jnp.arange(num_rows, dtype=jnp.int32) * num_leaves,
          places=rows_lib.Places(
              positions=blank(targets.text - 1, 0),
              segments=blank(leaf_RxX, num_leaves),
              num_seen=blank(jnp.where(
                  leaf_RxX > 0, targets.text - 1 - new_RxX, 0), 0))),
      leaves=is_drawn_RxX[..., None] & (is_own_RxXxL | is_shared_RxXxL))


class _Targets(NamedTuple):
  """What every place of rows predicts."""

  leaf: jax.Array  # [R, X] int32, whose piece of the row it is in
  new: jax.Array  # [R, X] int32, of the leaf's own tokens; below 0: prompt
  text: jax.Array  # [R, X] int32, place in the text of the leaf
  is_in: jax.Array  # [R, X] bool; False: padding


def _targets(prompt_lengths_R, trees: Trees, width: int) -> _Targets:
  """Cuts rows into pieces, one a leaf.

  They are the prompt and the trunk less its last token, which predicts nothing;
  then of every branch a shared token, and its own less the last.
  """
  num_rows, num_leaves = trees.lengths.shape
  first_R = prompt_lengths_R - 1
  pieces_RxL = trees.lengths.at[:, 0].add(first_R)
  ends_RxL = jnp.cumsum(pieces_RxL, axis=1, dtype=jnp.int32)
  column_RxX = jnp.broadcast_to(
      jnp.arange(width, dtype=jnp.int32)[None], (num_rows, width))
  leaf_RxX = jnp.sum(
      column_RxX[..., None] >= ends_RxL[:, None], axis=2, dtype=jnp.int32)
  is_in_RxX = leaf_RxX < num_leaves
  leaf_RxX = jnp.minimum(leaf_RxX, num_leaves - 1)
  of_leaf = lambda x_RxL: jnp.take_along_axis(x_RxL, leaf_RxX, axis=1)
  new_RxX = column_RxX - of_leaf(ends_RxL - pieces_RxL) - jnp.where(
      leaf_RxX == 0, first_R[:, None], 0)
  return _Targets(
      leaf_RxX, new_RxX,
      prompt_lengths_R[:, None] + of_leaf(trees.kept) + new_RxX, is_in_RxX)


def num_places(prompt_lengths_R: jax.Array, trees: Trees) -> jax.Array:
  """Counts the places that every tree needs in a row, [R] int32."""
  return prompt_lengths_R - 1 + jnp.sum(trees.lengths, axis=1)
