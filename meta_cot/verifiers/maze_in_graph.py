# SPDX-License-Identifier: Apache-2.0
"""The verdict on a way through a maze as a function of arrays.

A small automaton over symbols reads ` plan 1 3 plan 1 4` behind anything, a
search for example, and walks along.
"""

from collections.abc import Callable, Mapping, Sequence

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.verifiers import symbols as symbols_lib

ALPHABET = '0123456789 plan'
_SPACE = ALPHABET.index(' ')
_WORD = np.array([ALPHABET.index(c) for c in ' plan '], np.int32)
_X, _Y = len(_WORD), len(_WORD) + 1
_NONE = -1


@struct.dataclass
class _Reading:
  """What has been read; a failed reading stays failed."""

  place: jax.Array  # [] int32, next in `_WORD`, or _X or _Y
  number: jax.Array  # [] int32, the digits so far; _NONE without any
  x: jax.Array  # [] int32
  cell: jax.Array  # [2] int32, the last whole cell; _NONE before the first
  is_plan: jax.Array  # [] bool, the first ' plan' is read
  is_right: jax.Array  # [] bool


def outcome(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """Makes the verifier of token ids.

  Args:
    texts: of all tokens.

  Returns:
    A function of `start`, `goal` and `is_wall` (see `check`), tokens_M and a
    length: [] float32, 1.0 for a right solution, else 0.0.
  """
  return symbols_lib.outcome(
      texts, ALPHABET, lambda maze, symbols_L: check(symbols_L, maze))


def is_legal(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """Makes the check of cells that a text has ended so far.

  Args:
    texts: of all tokens; those that end a text write a blank behind its last
      cell.

  Returns:
    A function of `start` and `is_wall` (see `check`), tokens_M and a length: []
    bool, False where no continuation of the text is right: a step into a wall,
    or one that is not single.
  """
  return symbols_lib.of_tokens(
      texts, ALPHABET,
      lambda maze, symbols_L: _read_all(symbols_L, maze).is_right)


def state(
    texts: Sequence[str]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Makes the state that a text has reached: the last cell.

  Args:
    texts: of all tokens; those that end a text write what no way has.

  Returns:
    A function as of `is_legal`: the cell, [2] int32, and whether the text has
    ended a legal step and nothing else, [].
  """
  def of_symbols(maze, symbols_L):
    reading = _read_all(symbols_L, maze)
    # What ends a step may begin the next one, as far as its first number.
    is_whole = (reading.cell[0] != _NONE) & (reading.place <= _X) & (
        reading.number == _NONE)
    return reading.cell, is_whole & reading.is_right

  return symbols_lib.of_tokens(texts, ALPHABET, of_symbols)


def check(symbols_L: jax.Array, maze: Mapping[str, jax.Array]) -> jax.Array:
  """Whether a way is right: by single steps, off walls, from start to goal.

  Args:
    symbols_L: int32; anything without ' plan', then a ' plan x y' for every
      cell and nothing else. Blanks may stand anywhere.
    maze: `start` and `goal`, int32 [2], and `is_wall`, bool [S, S] by x and y,
      which is also True outside of a maze smaller than S.

  Returns:
    [] bool.
  """
  reading = _read_all(symbols_L, maze)
  is_whole = (reading.place == _Y) & (reading.number != _NONE)
  reading = _go(reading, maze)
  return reading.is_right & is_whole & jnp.all(reading.cell == maze['goal'])


def _read_all(symbols_L: jax.Array, maze) -> _Reading:
  """The reading after all symbols."""
  zero = jnp.zeros((), jnp.int32)
  return symbols_lib.read(
      lambda reading, symbol: _read(reading, symbol, maze), _Reading(
          place=zero, number=zero + _NONE, x=zero,
          cell=jnp.full(2, _NONE, jnp.int32), is_plan=jnp.array(False),
          is_right=jnp.array(True)), symbols_L)


def _read(reading: _Reading, symbol: jax.Array, maze) -> _Reading:
  """The reading after one more symbol."""
  place, number = reading.place, reading.number
  in_number, is_number = place >= _X, number != _NONE
  is_letter = ~in_number & (
      symbol == jnp.asarray(_WORD)[jnp.minimum(place, len(_WORD) - 1)])
  longer = jnp.where(is_number, 10 * number + symbol, symbol)
  # A number does not go on after a leading zero, nor out of the maze.
  adds = in_number & (symbol >= 0) & (symbol < 10) & (number != 0) & (
      longer < maze['is_wall'].shape[0])
  ends = in_number & is_number & (symbol == _SPACE)
  ends_cell = ends & (place == _Y)
  gone = _go(reading, maze)
  pick = lambda when, new, old: jnp.where(when, new, old)
  # A blank begins the word anew, behind a cell or where it was not the word.
  anew = jnp.where(symbol == _SPACE, 1, 0)
  goes_on = is_letter | (ends & ~ends_cell)
  return reading.replace(
      place=pick(goes_on, place + 1, pick(adds, place, anew)),
      number=pick(adds, longer, _NONE),
      x=pick(ends, number, reading.x),
      cell=pick(ends_cell, gone.cell, reading.cell),
      is_plan=reading.is_plan | (is_letter & (place == len(_WORD) - 2)),
      is_right=pick(ends_cell, gone.is_right, reading.is_right) & (
          is_letter | adds | ends | ~reading.is_plan))


def _go(reading: _Reading, maze) -> _Reading:
  """Goes to the cell of `x` and `number`."""
  cell_2 = jnp.stack([reading.x, reading.number])
  is_start = jnp.all(cell_2 == maze['start'])
  is_step = jnp.sum(jnp.abs(cell_2 - reading.cell)) == 1
  is_right = jnp.where(reading.cell[0] == _NONE, is_start, is_step)
  return reading.replace(
      cell=cell_2, is_right=reading.is_right & is_right & ~maze['is_wall'][
          cell_2[0], cell_2[1]])
