# SPDX-License-Identifier: Apache-2.0
"""Texts as symbols, which verdicts in the graph read one after the other.

Tokens may be any parts of a text: words, characters, or both.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLANK = -1  # no character


def table(texts: Sequence[str], alphabet: str) -> np.ndarray:
  """Finds the symbols that every token stands for.

  Args:
    texts: of tokens 0 .. V-1; '' for those that write nothing.
    alphabet: its character i is symbol i, any other is len(alphabet).

  Returns:
    [V, C] int32 with C the length of the longest text; BLANK behind the text.
  """
  width = max(map(len, texts), default=0)
  table_VxC = np.full((len(texts), max(width, 1)), BLANK, np.int32)
  known = {c: symbol for symbol, c in enumerate(alphabet)}
  for row, text in enumerate(texts):
    table_VxC[row, :len(text)] = [known.get(c, len(alphabet)) for c in text]
  return table_VxC


def outcome(
    texts: Sequence[str], alphabet: str,
    check: Callable[[Mapping[str, jax.Array], jax.Array], jax.Array],
) -> Callable[..., jax.Array]:
  """Makes the verifier of token ids from that of symbols.

  Args:
    texts: of all tokens.
    alphabet: see `table`.
    check: (inputs, symbols_L) -> [] bool.

  Returns:
    A function of the inputs, tokens_M and a length: [] float32, 1.0 for a right
    text, else 0.0.
  """
  return of_tokens(texts, alphabet, lambda inputs, symbols_L: check(
      inputs, symbols_L).astype(jnp.float32))


def of_tokens(
    texts: Sequence[str], alphabet: str,
    function: Callable[[Mapping[str, jax.Array], jax.Array], Any],
) -> Callable[..., Any]:
  """Makes a function of token ids from one of symbols.

  Args:
    texts: of all tokens.
    alphabet: see `table`.
    function: (inputs, symbols_L) -> anything.

  Returns:
    The same of the inputs, tokens_M and a length.
  """
  table_VxC = table(texts, alphabet)

  def of_text(
      inputs: Mapping[str, jax.Array], tokens_M: jax.Array, length: jax.Array
  ) -> Any:
    symbols_MxC = jnp.asarray(table_VxC)[tokens_M]
    is_text_M = jnp.arange(tokens_M.shape[0]) < length
    symbols_MxC = jnp.where(is_text_M[:, None], symbols_MxC, BLANK)
    return function(inputs, symbols_MxC.reshape(-1))

  return of_text


def read(
    step: Callable[[Any, jax.Array], Any], reading: Any, symbols_L: jax.Array
) -> Any:
  """Applies (reading, symbol) -> reading to all symbols that are not BLANK."""

  def one(reading, symbol):
    after = step(reading, symbol)
    return jax.tree.map(
        lambda a, b: jnp.where(symbol == BLANK, a, b), reading, after), None

  return jax.lax.scan(one, reading, symbols_L)[0]
