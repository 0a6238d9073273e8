# SPDX-License-Identifier: Apache-2.0
"""Stage `tokenizer`: learned from the texts of records, or reused."""

from collections.abc import Iterator
import dataclasses
from typing import Any

from etils import epath

from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.runtime import distributed
from meta_cot.settings import config as config_lib
from meta_cot.stages import base

_NUM_TEXTS = 5_000  # enough to see every symbol many times


@dataclasses.dataclass(frozen=True)
class Settings:
  """Where the texts come from, and what is made of them."""

  records: str = config_lib.setting()
  vocabulary: Any = config_lib.setting(kinds={
      name: kind.Settings for name, kind in tokenizers.KINDS.items()})


def check(context: base.Context, settings: Settings, name: str) -> None:
  """Raises a ConfigError where the model has no room for the vocabulary."""
  size, room = (
      settings.vocabulary.check() or settings.vocabulary.vocab_size,
      context.shared.model.vocab_size)
  if size is not None and size > room:
    raise base.wrong(
        name, 'vocabulary.vocab_size', f'got {size}; must be at most '
        f'config.model.vocab_size, {room}.')


def run(
    context: base.Context, settings: Settings, directory: epath.Path) -> None:
  """Makes the tokenizer, unless it is there: the first host, others wait.

  Raises:
    UserError: there is none to reuse, or the texts do not make one.
  """
  if distributed.is_primary() and not tokenizers.is_whole(directory):
    settings.vocabulary.make(_texts(context, settings)).save(directory)
  distributed.wait('tokenizer')


def _texts(context: base.Context, settings: Settings) -> Iterator[str]:
  """The first training records; nothing is read before the first one."""
  records = store.read(context.folder(settings.records), 'train')
  for i in range(min(len(records), _NUM_TEXTS)):
    yield traces.render(
        traces.linearize(records[i]), style=context.shared.style)


STAGE = base.Stage(
    Settings=Settings, run=run, check=check,
    uses=('seed', 'task', 'style'),
    reads=lambda settings: (settings.records,),
    is_whole=lambda context, settings, directory: tokenizers.is_whole(
        directory))
