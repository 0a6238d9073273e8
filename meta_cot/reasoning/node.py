# SPDX-License-Identifier: Apache-2.0
"""What a node of a tree keeps of its step, and the texts that nodes make.

Axes besides those of `search.base`: T slots of a step, U = D - 1 steps of a
path (the root has none).
"""

from collections.abc import Callable
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.model import pages
from meta_cot.search import base
from meta_cot.search import tree as tree_lib

# (problem, tokens [M] int32, length [] int32) -> what it says of a text behind
# its prompt. Pure, of one text; M differs between calls, and what lies behind
# `length` is padding. `problem` is a row of `Prompts.problems`.
OfText = Callable[[Any, jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Node:
  """What a node of the tree keeps; the leading axes are the caller's."""

  tokens: jax.Array  # [..., T] int32, of its step; anything behind
  page: pages.Page  # their keys and values; `page.length` of them
  hidden: jax.Array  # [..., model width] compute dtype, at the last token
  # [...] float32, of the step: its perturbed log-probability where siblings are
  # drawn without replacement (see `siblings`), else its log-probability.
  score: jax.Array


def texts(
    tree: tree_lib.SearchTree, nodes_BxN: jax.Array, *, num_path: int,
    pad_id: int,
) -> tuple[jax.Array, jax.Array]:
  """The tokens behind the prompt up to some nodes of every tree.

  Args:
    tree: of a search with a `LanguageStep`.
    nodes_BxN: int32, any number per tree; `tree.NONE` has no tokens.
    num_path: D, more than the depth of every node.
    pad_id: fills the rows.

  Returns:
    Tokens [B, N, D * T] int32 and their numbers [B, N] int32.
  """
  paths_BxNxD = tree_lib.paths(tree, nodes_BxN, num_path)
  node = tree.embeddings
  return compact(
      tree_lib.gather(node.tokens, paths_BxNxD),
      tree_lib.gather(node.page.length, paths_BxNxD), pad_id)


@struct.dataclass
class Texts:
  """What stands behind the prompts up to children [R, A] in no tree yet."""

  problems: Any  # pytree [R, ...], rows of `Prompts.problems`
  tokens: jax.Array  # [R, A, M] int32
  lengths: jax.Array  # [R, A] int32

  def each(self, function: OfText, dtype: Any) -> jax.Array:
    """What a function says of each, [R, A, ...]."""
    per_row = jax.vmap(function, (None, 0, 0))
    return jax.vmap(per_row)(
        self.problems, self.tokens, self.lengths).astype(dtype)


def before(path: base.Path) -> tuple[Node, jax.Array]:
  """The steps [R, U] that paths may have, and those that they have, bool."""
  steps = jax.tree.map(lambda x: x[:, 1:], path.embeddings)
  return steps, jnp.arange(1, path.nodes.shape[1])[None] < path.length[:, None]


def texts_of_children(
    path: base.Path, children: Node, problems: Any, pad_id: int) -> Texts:
  """The texts up to children [R, A] of paths; M = U * T + T' tokens.

  A step of the path has T slots, one of a child T'. `problems` [B, ...] are
  those of consecutive rows, equally many of each.
  """
  steps, is_used_RxU = before(path)
  num_rows, shape = len(children.tokens), children.tokens.shape[:2]
  of_steps = lambda x: jnp.broadcast_to(
      x.reshape(num_rows, 1, x[0].size), (*shape, x[0].size))
  is_text_RxUxT = _is_text(
      steps.tokens, jnp.where(is_used_RxU, steps.page.length, 0))
  tokens, lengths_RxA = _without_holes(
      jnp.concatenate([of_steps(steps.tokens), children.tokens], axis=2),
      jnp.concatenate([
          of_steps(is_text_RxUxT),
          _is_text(children.tokens, children.page.length)], axis=2), pad_id)
  repeat = lambda x: jnp.repeat(x, num_rows // len(x), axis=0)
  return Texts(jax.tree.map(repeat, problems), tokens, lengths_RxA)


def compact(
    tokens: jax.Array, lengths: jax.Array, pad_id: int
) -> tuple[jax.Array, jax.Array]:
  """Steps [..., D, T] with `lengths` [..., D], without the holes between them.

  Returns:
    Tokens [..., D * T] int32, filled up, and their numbers [...] int32.
  """
  flat = lambda x: x.reshape(*x.shape[:-2], -1)
  return _without_holes(flat(tokens), flat(_is_text(tokens, lengths)), pad_id)


def _is_text(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
  """Which of the tokens [..., T] are some of a step, bool."""
  slots = jnp.arange(tokens.shape[-1]).reshape((1,) * lengths.ndim + (-1,))
  return slots < lengths[..., None]


def _without_holes(tokens, is_text, pad_id):
  """Tokens [..., M] that are text in front, and how many they are [...]."""
  order = jnp.argsort(~is_text, axis=-1, stable=True)
  tokens = jnp.take_along_axis(
      jnp.where(is_text, tokens, pad_id), order, axis=-1)
  return tokens, jnp.sum(is_text, axis=-1, dtype=jnp.int32)


def hash_tokens(tokens: jax.Array, length: jax.Array) -> jax.Array:
  """Two hashes of int32 tokens [..., T] before `length` [...], uint32 [..., 2].

  Sums of well-mixed words, one for every pair of token and place (Zobrist). The
  mixer is MurmurHash3's fmix32.
  """
  place = jnp.arange(tokens.shape[-1], dtype=jnp.uint32).reshape(
      (1,) * length.ndim + (-1,))
  is_text = place.astype(jnp.int32) < length[..., None]

  def one(seed):
    word = _mix(tokens.astype(jnp.uint32) ^ jnp.uint32(seed))
    word = _mix(word + _mix(place + jnp.uint32(seed)))
    return jnp.sum(
        jnp.where(is_text, word, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)

  return jnp.stack([one(0x9E3779B9), one(0x7F4A7C15)], axis=-1)


def _mix(x: jax.Array) -> jax.Array:
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return x ^ (x >> 16)


def last(x: jax.Array, length_B: jax.Array) -> jax.Array:
  """x[b, length_B[b] - 1]; the first entry where the length is 0."""
  return jax.vmap(lambda row, i: row[i])(x, jnp.maximum(length_B - 1, 0))


def ends_with(token_id: int) -> OfText:
  """Makes what says of a text whether a token stands before its end."""

  def says(problem, tokens_M, length) -> jax.Array:
    del problem
    token = tokens_M[jnp.maximum(length - 2, 0)]
    return ((length > 1) & (token == token_id)).astype(jnp.float32)

  return says
