# SPDX-License-Identifier: Apache-2.0
"""The verdict on a number puzzle's solution as a function of arrays.

`arithmetic.check` judges text on the host; a compiled search cannot call it.
Here the same judgement of "one operation after another", `S9-3=6,4*6=24`, is a
small automaton over symbols, so that finished steps are judged in the graph.
"""

from collections.abc import Callable, Sequence

from flax import struct
import jax
import jax.numpy as jnp

from meta_cot.verifiers import symbols as symbols_lib

MAX_DIGITS = 9  # of a number; longer ones are wrong here

ALPHABET = '0123456789+-*/=,S'
_PLUS, _MINUS, _TIMES, _OVER, _EQUALS, _COMMA, _START = range(10, 17)
_BEFORE, _LEFT, _RIGHT, _RESULT = range(4)  # what is read next


@struct.dataclass
class _Reading:
  """What has been read; a failed reading stays failed."""

  place: jax.Array  # [] int32, one of _BEFORE .. _RESULT
  number: jax.Array  # [] int32, the digits so far
  num_digits: jax.Array  # [] int32
  left: jax.Array  # [] int32
  right: jax.Array  # [] int32
  sign: jax.Array  # [] int32, symbol of the operation
  values: jax.Array  # [n] int32
  is_there: jax.Array  # [n] bool, values that may be used
  is_right: jax.Array  # [] bool


def outcome(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """Makes the verifier of token ids.

  Args:
    texts: of all tokens.

  Returns:
    A function of `numbers` and `target` (see `check`), tokens_M and a length:
    [] float32, 1.0 for a right solution, else 0.0.
  """
  return symbols_lib.outcome(
      texts, ALPHABET, lambda inputs, symbols_L: check(
          symbols_L, inputs['numbers'], inputs['target']))


def is_legal(texts: Sequence[str]) -> Callable[..., jax.Array]:
  """Makes the check of steps that a text has ended so far.

  Args:
    texts: of all tokens; those that end a text write the comma of its last
      step.

  Returns:
    A function of `numbers` (see `check`), tokens_M and a length: [] bool, False
    where no continuation of the text is right: false arithmetic, or a number
    that is not there.
  """
  return symbols_lib.of_tokens(
      texts, ALPHABET, lambda inputs, symbols_L: _read_all(
          symbols_L, inputs['numbers']).is_right)


def state(
    texts: Sequence[str]
) -> Callable[..., tuple[jax.Array, jax.Array]]:
  """Makes the state that a text has reached: the numbers left.

  Args:
    texts: of all tokens; those that end a text write what no step has.

  Returns:
    A function as of `is_legal`: the numbers in order, [n] int32 with -1 for
    those that were used up, and whether the text has ended a legal step, [].
  """
  def of_symbols(inputs, symbols_L):
    reading = _read_all(symbols_L, inputs['numbers'])
    left_n = jnp.sort(jnp.where(reading.is_there, reading.values, -1))
    is_whole = (reading.place == _LEFT) & (reading.num_digits == 0)
    return left_n, is_whole & reading.is_right

  return symbols_lib.of_tokens(texts, ALPHABET, of_symbols)


def check(
    symbols_L: jax.Array, numbers_n: jax.Array, target: jax.Array
) -> jax.Array:
  """Whether a solution is right, as `arithmetic.check` has it.

  Args:
    symbols_L: int32; anything, S, then operations with commas between them.
      Blanks may stand anywhere.
    numbers_n: int32, the given numbers, of at most `MAX_DIGITS` digits.
    target: int32, of at most `MAX_DIGITS` digits.

  Returns:
    [] bool.
  """
  reading = _read_all(symbols_L, numbers_n)
  is_whole = (reading.place == _RESULT) & (reading.num_digits > 0)
  reading = _apply(reading)
  # The only value left is the last result.
  is_last = jnp.sum(reading.is_there) == 1
  is_target = jnp.any(reading.is_there & (reading.values == target))
  return reading.is_right & is_whole & is_last & is_target


def _read_all(symbols_L: jax.Array, numbers_n: jax.Array) -> _Reading:
  """The reading after all symbols."""
  zero = jnp.zeros((), jnp.int32)
  reading = _Reading(
      place=zero + _BEFORE, number=zero, num_digits=zero, left=zero,
      right=zero, sign=zero, values=numbers_n.astype(jnp.int32),
      is_there=jnp.ones(numbers_n.shape, bool), is_right=jnp.array(True))
  return symbols_lib.read(_read, reading, symbols_L)


def _read(reading: _Reading, symbol: jax.Array) -> _Reading:
  """The reading after one more symbol."""
  is_digit = (symbol >= 0) & (symbol < 10)
  is_sign = (symbol >= _PLUS) & (symbol <= _OVER)
  place, is_number = reading.place, reading.num_digits > 0
  starts = (place == _BEFORE) & (symbol == _START)
  to_right = (place == _LEFT) & is_number & is_sign
  to_result = (place == _RIGHT) & is_number & (symbol == _EQUALS)
  ends = (place == _RESULT) & is_number & (symbol == _COMMA)
  # A number does not go on after a leading zero.
  adds = is_digit & (place != _BEFORE) & (reading.num_digits < MAX_DIGITS) & (
      ~is_number | (reading.number > 0))
  moves = starts | to_right | to_result | ends
  applied = _apply(reading)
  pick = lambda when, new, old: jnp.where(when, new, old)
  return reading.replace(
      place=jnp.where(starts | ends, _LEFT, place + moves),
      number=pick(adds, 10 * reading.number + symbol, 0),
      num_digits=pick(adds, reading.num_digits + 1, 0),
      left=pick(to_right, reading.number, reading.left),
      right=pick(to_result, reading.number, reading.right),
      sign=pick(to_right, symbol, reading.sign),
      values=pick(ends, applied.values, reading.values),
      is_there=pick(ends, applied.is_there, reading.is_there),
      is_right=pick(ends, applied.is_right, reading.is_right) & (
          moves | adds | (place == _BEFORE)))


def _apply(reading: _Reading) -> _Reading:
  """Takes the operands away and adds the result, `reading.number`."""
  is_there, slots = reading.is_there, jnp.arange(reading.values.shape[0])
  is_right, first = reading.is_right, None
  for operand in (reading.left, reading.right):
    is_it = is_there & (reading.values == operand)
    at = jnp.argmax(is_it)
    is_right &= jnp.any(is_it)
    is_there &= slots != at
    first = at if first is None else first
  return reading.replace(
      values=jnp.where(slots == first, reading.number, reading.values),
      is_there=is_there | (slots == first), is_right=is_right & _is_true(
          reading.left, reading.sign, reading.right, reading.number))


def _is_true(left, sign, right, result) -> jax.Array:
  # Numbers have nine digits, so sums and differences fit in 32 bits.
  return jnp.select(
      [sign == _PLUS, sign == _MINUS, sign == _TIMES, sign == _OVER],
      [left + right == result, left - right == result,
       _is_product(left, right, result),
       (right != 0) & _is_product(right, result, left)], False)


def _is_product(a, b, product) -> jax.Array:
  # Equal modulo 2^32 and within half of it: equal.
  exact = a.astype(jnp.uint32) * b.astype(jnp.uint32)
  rough = a.astype(jnp.float32) * b.astype(jnp.float32)
  is_near = jnp.abs(rough - product.astype(jnp.float32)) < 2.0**31
  return (exact == product.astype(jnp.uint32)) & is_near
