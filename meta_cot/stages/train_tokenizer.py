# SPDX-License-Identifier: Apache-2.0
"""Stage 2: a sentencepiece tokenizer, trained on the traces of this run.

Leaves `tokenizer/tokenizer.model`.
"""

import pathlib

from data_pipelines import store
from data_pipelines import tokenizer as tokenizer_lib
from meta_cot import experiment as experiment_lib
from meta_cot import traces

_NUM_TEXTS = 5_000  # enough to see every symbol many times


def run(
    experiment: experiment_lib.Experiment, workdir: pathlib.Path
) -> None:
  """Trains the tokenizer on the first training traces, unless it exists."""
  path = workdir / 'tokenizer' / 'tokenizer.model'
  if path.exists():
    return
  records = store.read(workdir / 'traces', 'train')
  style = experiment.data.style
  texts = (
      traces.render(traces.linearize(records[i]), style=style)
      for i in range(min(len(records), _NUM_TEXTS)))
  tokenizer_lib.save(path, tokenizer_lib.train(texts, experiment.tokenizer))
