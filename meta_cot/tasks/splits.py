# SPDX-License-Identifier: Apache-2.0
"""Splits by a hash: the same for ever, however many problems are drawn."""

from collections.abc import Sequence
import hashlib

RANGE = 2**64


def rank(numbers: Sequence, seed: int) -> int:
  """Hashes numbers as they are printed, uniformly below `RANGE`."""
  digest = hashlib.blake2b(f'{seed}/{numbers}'.encode(), digest_size=8).digest()
  return int.from_bytes(digest, 'big')
