# SPDX-License-Identifier: Apache-2.0
"""Stage 3: a tokenizer, trained on the traces or reused.

Leaves its files in `tokenizer/`.
"""

from collections.abc import Iterator

from etils import epath

from data_pipelines import store
from data_pipelines import tokenizers
from meta_cot import traces
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib

_NUM_TEXTS = 5_000  # enough to see every symbol many times


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Makes the tokenizer of `config.tokenizer`, unless there is one.

  The first host does; the others wait.

  Raises:
    UserError: it cannot be made, or is larger than the model's embedding.
  """
  folder = workdir / 'tokenizer'
  if distributed.is_primary() and not tokenizers.is_whole(folder):
    made = tokenizers.make(experiment.tokenizer, _texts(experiment, workdir))
    _check_size(experiment, made.vocab_size)
    made.save(folder)
  distributed.wait('tokenizer')


def check(experiment: experiment_lib.Experiment, workdir: files.Path) -> None:
  """Makes sure that a tokenizer to reuse can be, before any work.

  Raises:
    UserError: it is not there, or larger than the model's embedding.
  """
  if not tokenizers.is_whole(files.path(workdir) / 'tokenizer'):
    _check_size(experiment, tokenizers.check(experiment.tokenizer) or 0)


def _check_size(experiment, num_tokens: int) -> None:
  if num_tokens > experiment.model.vocab_size:
    raise config_lib.UserError(
        f'config.model.vocab_size: got {experiment.model.vocab_size}; must be '
        f'at least {num_tokens}, the tokens of config.tokenizer.')


def _texts(experiment, workdir) -> Iterator[str]:
  """The first training traces; nothing is read before the first one."""
  records = store.read(workdir / 'traces', 'train')
  style = experiment.data.style
  for i in range(min(len(records), _NUM_TEXTS)):
    yield traces.render(traces.linearize(records[i]), style=style)
