# SPDX-License-Identifier: Apache-2.0
"""Control tokens of one's own in the vocabulary of a checkpoint.

A name takes a token that the vocabulary reserves, such as `<unused3>` or
`<|reserved_special_token_3|>`, or else the id behind all tokens: often a row of
the embedding that no token has.
"""

from collections.abc import Mapping, Sequence
import json
import re
from typing import Any

_RESERVED = re.compile(
    r'<\|?(unused|reserved|reserved_token|reserved_special_token|extra'
    r'|extra_id)_?\d+\|?>')


def add(data: bytes, names: Sequence[str]) -> bytes:
  """Adds control tokens.

  Args:
    data: of tokenizer.json, with a vocabulary of byte pairs.
    names: of the tokens.

  Returns:
    tokenizer.json with them; unchanged where there are none.

  Raises:
    ValueError: a name is empty, given twice, or that of a token; names it.
  """
  if not names:
    return data
  raw = json.loads(data)
  vocabulary = raw['model']['vocab']
  taken = {**vocabulary, **{
      token['content']: token['id'] for token in raw['added_tokens']}}
  free = sorted(i for text, i in taken.items() if _RESERVED.fullmatch(text))
  behind = 1 + max(taken.values())
  made: dict[int, str] = {}
  for name in names:
    if not name or name in taken or name in made.values():
      raise ValueError(
          f'control token {name!r}: must be a text that is no token yet')
    made[free.pop(0) if free else behind] = name
    behind += name == made.get(behind)
  raw['model']['vocab'] = {
      made.get(i, text): i for text, i in vocabulary.items()}
  raw['added_tokens'] = sorted(
      [token for token in raw['added_tokens'] if token['id'] not in made]
      + [dict(id=i, **_described(name)) for i, name in made.items()],
      key=lambda token: token['id'])
  return json.dumps(raw, ensure_ascii=False).encode()


def _described(name: str) -> dict[str, Any]:
  return dict(content=name, special=True, normalized=False, lstrip=False,
              rstrip=False, single_word=False)


def named(
    told: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, Any]:
  """Names them in what tokenizer_config.json tells."""
  return {**told, 'added_tokens_decoder': {
      **told.get('added_tokens_decoder', {}),
      **{str(i): _described(name) for name, i in ids.items()}}}
