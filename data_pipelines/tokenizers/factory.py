# SPDX-License-Identifier: Apache-2.0
"""Kinds of tokenizers, and tokenizers by the files in a folder."""

from data_pipelines.tokenizers import base
from data_pipelines.tokenizers import huggingface
from data_pipelines.tokenizers import sentencepiece
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib

KINDS = {
    'sentencepiece': sentencepiece,
    'huggingface': huggingface,
}


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
  folder = files.path(folder)
  kinds = [kind for kind in KINDS.values() if (folder / kind.FILE).is_file()]
  if len(kinds) != 1:
    allowed = ', '.join(kind.FILE for kind in KINDS.values())
    found = ' and '.join(kind.FILE for kind in kinds) or 'no tokenizer'
    raise config_lib.UserError(
        f'{folder}: {found} here; must be one of {allowed}. Run the stage that '
        'makes it first.')
  return kinds[0].load(folder)
