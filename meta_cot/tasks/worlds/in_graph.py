# SPDX-License-Identifier: Apache-2.0
"""What worlds say of attempts, as functions of arrays.

Axes: S attempts that are answered, T symbols of one, A attempts of a table, F
symbols said.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def look_up(
    hidden: Mapping[str, jax.Array], symbols_SxT: jax.Array, length_S: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Answers attempts by tables [S, ...]; see `world.World.arrays`.

  Returns:
    Symbols said [S, F] int32, their number [S] int32, rewards [S] float32.
  """
  attempts_SxAxL = hidden['attempts']
  room = attempts_SxAxL.shape[2]
  padded_SxL = jnp.pad(
      symbols_SxT[:, :room],
      ((0, 0), (0, max(0, room - symbols_SxT.shape[1]))), constant_values=-1)
  is_it_SxA = jnp.all(attempts_SxAxL == padded_SxL[:, None], axis=2) & (
      hidden['lengths'] == length_S[:, None])
  other = attempts_SxAxL.shape[1]
  at_S = jnp.where(
      jnp.any(is_it_SxA, axis=1), jnp.argmax(is_it_SxA, axis=1), other)
  take = lambda x_SxB: jnp.take_along_axis(x_SxB, at_S[:, None], axis=1)[:, 0]
  said_SxF = jnp.take_along_axis(
      hidden['said'], at_S[:, None, None], axis=1)[:, 0]
  return said_SxF, take(hidden['numbers']), take(hidden['rewards'])


def sail(
    hidden: Mapping[str, jax.Array], symbols_SxT: jax.Array,
    length_S: jax.Array, symbols: str, moves: Mapping[str, tuple[int, int]],
    size: int, max_moves: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Answers ways on a grid; see `harbour`.

  Args:
    hidden: `start`, `light` and `goal`, int32 [S, 2].
    symbols_SxT: int32, of the ways.
    length_S: int32.
    symbols: texts by their numbers.
    moves: columns and rows of each.
    size: of the grid.
    max_moves: of a way.

  Returns:
    As `look_up`, two symbols each.
  """
  steps_Ax2 = jnp.asarray(
      [moves.get(symbol, (0, 0)) for symbol in symbols], jnp.int32)
  is_move_A = jnp.asarray([symbol in moves for symbol in symbols])
  here_Sx2 = hidden['start']
  is_seen_S = jnp.zeros(len(here_Sx2), bool)
  is_way_S = (length_S > 0) & (length_S <= max_moves)
  for t in range(min(max_moves, symbols_SxT.shape[1])):
    symbol_S = symbols_SxT[:, t]
    is_here_S = t < length_S
    is_way_S &= ~is_here_S | (symbol_S >= 0) & is_move_A[symbol_S]
    moved_Sx2 = jnp.clip(here_Sx2 + steps_Ax2[symbol_S], 0, size - 1)
    here_Sx2 = jnp.where(is_here_S[:, None], moved_Sx2, here_Sx2)
    is_seen_S |= jnp.all(here_Sx2 == hidden['light'], axis=1)
  is_right_S = is_way_S & jnp.all(here_Sx2 == hidden['goal'], axis=1)
  verdict_S = jnp.where(is_right_S, symbols.index('+'), symbols.index('-'))
  said_Sx2 = jnp.where(
      (is_seen_S & is_way_S)[:, None], hidden['goal'],
      jnp.stack([verdict_S, jnp.full_like(verdict_S, symbols.index('.'))], 1))
  return (
      said_Sx2.astype(jnp.int32), jnp.full(len(said_Sx2), 2, jnp.int32),
      is_right_S.astype(jnp.float32))
