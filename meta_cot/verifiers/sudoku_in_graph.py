# SPDX-License-Identifier: Apache-2.0
"""The verdict on a Sudoku's solution as a function of arrays.

A small automaton over symbols reads `Sr1c2=3;r1c3=4` behind anything, a search
for example, and fills the cells.
"""

from collections.abc import Callable, Sequence

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from meta_cot.verifiers import symbols as symbols_lib

SIZE, BOX = 4, 2
ALPHABET = '1234rc=;S'
_ROW, _COLUMN, _EQUALS, _END, _START = range(SIZE, len(ALPHABET))
_DIGIT = -2  # any digit
# What is read at every place: what opens, a step, what ends it.
_TEXT = np.array([
    _START, _ROW, _DIGIT, _COLUMN, _DIGIT, _EQUALS, _DIGIT, _END], np.int32)
_BEFORE, _STEP, _AT_ROW, _AT_COLUMN, _AT_DIGIT, _WHOLE = 0, 1, 2, 4, 6, 7
_UNITS = np.array([
    (row, column, row // BOX * SIZE + column // BOX)
    for row in range(SIZE) for column in range(SIZE)])
# [16, 16]: cells that may not have the same digit.
_IS_PEER = (_UNITS[:, None] == _UNITS).any(2) & ~np.eye(SIZE**2, dtype=bool)


@struct.dataclass
class _Reading:
  """What has been read; a failed reading stays failed."""

  place: jax.Array  # [] int32, next in `_TEXT`
  row: jax.Array  # [] int32, from 0
  column: jax.Array  # [] int32
  grid: jax.Array  # [16] int32, 0 for an empty cell
  is_right: jax.Array  # [] bool


def outcome(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """Makes the verifier of token ids.

  Args:
    texts: of all tokens.

  Returns:
    A function of `givens` (see `check`), tokens_M and a length: [] float32, 1.0
    for a right solution, else 0.0.
  """
  return symbols_lib.outcome(
      texts, ALPHABET,
      lambda inputs, symbols_L: check(symbols_L, inputs['givens']))


def is_legal(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """Makes the check of cells that a text has filled so far.

  Args:
    texts: of all tokens; those that end a text write the ; of its last step.

  Returns:
    A function of `givens` (see `check`), tokens_M and a length: [] bool, False
    where no continuation of the text is right: no step, a cell that is not
    empty, or a digit twice in a row, a column or a box. Whether what is left
    has a solution is not asked.
  """
  return symbols_lib.of_tokens(
      texts, ALPHABET, lambda inputs, symbols_L: _read_all(
          symbols_L, inputs['givens']).is_right)


def state(
    texts: Sequence[str]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Makes the state that a text has reached: the grid.

  Args:
    texts: of all tokens; those that end a text write what no step has.

  Returns:
    A function as of `is_legal`: the grid, [16] int32 row by row with 0 for
    empty cells, and whether the text has ended a legal step, [].
  """
  def of_symbols(inputs, symbols_L):
    reading = _read_all(symbols_L, inputs['givens'])
    return reading.grid, (reading.place == _STEP) & reading.is_right

  return symbols_lib.of_tokens(texts, ALPHABET, of_symbols)


def check(symbols_L: jax.Array, givens_C: jax.Array) -> jax.Array:
  """Whether a solution fills all empty cells, each without a clash.

  Args:
    symbols_L: int32; anything, S, then steps with ; between them. Blanks may
      stand anywhere.
    givens_C: int32 [16] row by row, 0 for an empty cell.

  Returns:
    [] bool.
  """
  reading = _read_all(symbols_L, givens_C)
  is_whole = reading.place == _WHOLE
  return reading.is_right & is_whole & jnp.all(reading.grid > 0)


def _read_all(symbols_L: jax.Array, givens_C: jax.Array) -> _Reading:
  """The reading after all symbols."""
  zero = jnp.zeros((), jnp.int32)
  return symbols_lib.read(_read, _Reading(
      place=zero + _BEFORE, row=zero, column=zero,
      grid=givens_C.astype(jnp.int32), is_right=jnp.array(True)), symbols_L)


def _read(reading: _Reading, symbol: jax.Array) -> _Reading:
  """The reading after one more symbol."""
  place, wanted = reading.place, jnp.asarray(_TEXT)[reading.place]
  is_digit = (symbol >= 0) & (symbol < SIZE)
  fits = (symbol == wanted) | (is_digit & (wanted == _DIGIT))
  fills = fits & (place == _AT_DIGIT)
  cell = SIZE * reading.row + reading.column
  digit = symbol + 1
  is_free = (reading.grid[cell] == 0) & ~jnp.any(
      jnp.asarray(_IS_PEER)[cell] & (reading.grid == digit))
  pick = lambda when, new, old: jnp.where(when, new, old)
  return reading.replace(
      place=pick(fits, pick(place == _WHOLE, _STEP, place + 1), place),
      row=pick(fits & (place == _AT_ROW), symbol, reading.row),
      column=pick(fits & (place == _AT_COLUMN), symbol, reading.column),
      grid=pick(fills, reading.grid.at[cell].set(digit), reading.grid),
      is_right=reading.is_right & (fits | (place == _BEFORE)) & (
          ~fills | is_free))
