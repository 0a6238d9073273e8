# SPDX-License-Identifier: Apache-2.0
"""Stage 2: a sentencepiece tokenizer, trained on the traces or reused.

Leaves `tokenizer/tokenizer.model`.
"""

from etils import epath

from data_pipelines import store
from data_pipelines.tokenizers import sentencepiece as tokenizer_lib
from meta_cot import traces
from meta_cot.runtime import distributed
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.stages import experiment as experiment_lib

_NUM_TEXTS = 5_000  # enough to see every symbol many times


def run(
    experiment: experiment_lib.Experiment, workdir: epath.Path
) -> None:
  """Trains the tokenizer on the first training traces, unless it exists.

  The first host does; the others wait.

  Raises:
    UserError: the tokenizer to reuse is no sentencepiece model, or larger than
      the model's embedding.
  """
  path = workdir / 'tokenizer' / 'tokenizer.model'
  if distributed.is_primary() and not tokenizer_lib.is_whole(path):
    tokenizer_lib.save(path, _model(experiment, workdir))
  distributed.wait('tokenizer')


def check(experiment: experiment_lib.Experiment, workdir: files.Path) -> None:
  """Makes sure that a tokenizer to reuse can be, before any work.

  Raises:
    UserError: it is not there, no sentencepiece model, or larger than the
      model's embedding.
  """
  path = files.path(workdir) / 'tokenizer' / 'tokenizer.model'
  if experiment.tokenizer.path is not None and not path.exists():
    _reused(experiment)


def _reused(experiment) -> tokenizer_lib.Tokenizer:
  path = experiment.tokenizer.path
  if files.size(files.path(path)) is None:
    raise config_lib.UserError(
        f'config.tokenizer.path: got {path!r}; there is no such file.')
  reused = tokenizer_lib.load(path)
  if reused.vocab_size > experiment.model.vocab_size:
    raise config_lib.UserError(
        f'config.tokenizer.path: {path} has {reused.vocab_size} pieces; raise '
        f'config.model.vocab_size, {experiment.model.vocab_size}, to it.')
  return reused


def _model(experiment, workdir) -> bytes:
  """The sentencepiece model to use, trained or reused."""
  if experiment.tokenizer.path is not None:
    return _reused(experiment).model
  records = store.read(workdir / 'traces', 'train')
  style = experiment.data.style
  texts = (
      traces.render(traces.linearize(records[i]), style=style)
      for i in range(min(len(records), _NUM_TEXTS)))
  return tokenizer_lib.train(texts, experiment.tokenizer)
