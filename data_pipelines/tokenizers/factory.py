# SPDX-License-Identifier: Apache-2.0
"""Tokenizers by their settings, and by the files in a folder."""

from collections.abc import Iterable
from typing import Any

from data_pipelines.tokenizers import base
from data_pipelines.tokenizers import sentencepiece
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

KINDS = {
    'sentencepiece': sentencepiece,
}


def make(settings: Any, texts: Iterable[str]) -> base.Tokenizer:
  """Makes the tokenizer that the settings ask for.

  Args:
    settings: `Settings` of a kind.
    texts: of the kind to be encoded; read only where they are learned from.

  Raises:
    UserError: the texts, or the files to read, do not make one.
  """
  return _kind_of(settings).make(settings, texts)


def placeholder(settings: Any) -> base.Tokenizer:
  """Returns what programs are built with before there is a tokenizer."""
  return _kind_of(settings).placeholder(settings)


def check(settings: Any) -> int | None:
  """Makes sure that what `make` reads is there.

  Returns:
    The tokens there will be; None where they are learned.

  Raises:
    UserError: a file is missing or damaged; names it.
  """
  return _kind_of(settings).check(settings)


def is_whole(folder: files.Path) -> bool:
  """Tells whether `load` would read it: nothing missing or damaged."""
  try:
    load(folder)
  except config_lib.UserError:
    return False
  return True


def load(folder: files.Path) -> base.Tokenizer:
  """Reads the tokenizer of a folder, of the kind that its files tell.

  Raises:
    UserError: files of no kind or of several, or damaged ones; names them.
  """
  folder, kinds = files.path(folder), _kinds_in(folder)
  if len(kinds) != 1:
    allowed = ', '.join(kind.FILE for kind in KINDS.values())
    found = ' and '.join(kind.FILE for kind in kinds) or 'no tokenizer'
    raise config_lib.UserError(
        f'{folder}: {found} here; must be one of {allowed}. Run the stage that '
        'makes it first.')
  return kinds[0].load(folder)


def _kind_of(settings: Any) -> Any:
  return next(k for k in KINDS.values() if type(settings) is k.Settings)


def _kinds_in(folder) -> list[Any]:
  folder = files.path(folder)
  return [
      kind for kind in KINDS.values() if (folder / kind.FILE).is_file()]
