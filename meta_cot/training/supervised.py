# SPDX-License-Identifier: Apache-2.0
"""Training objective `sft`: write what an arm writes of a record."""

from collections.abc import Mapping
from typing import Any

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import pipelines
from data_pipelines import tokenizers
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import sft
from meta_cot.types import Batch, Params


def example(
    arm: arms.Arm, config: examples.DataConfig,
    tokenizer: tokenizers.Tokenizer, style: str, *, is_training: bool,
) -> pipelines.Example:
  """Makes what turns a record into a sequence; pruned in training only."""
  texts = examples.Texts(arm, config, tokenizer, style)
  return texts if is_training else texts.plain()


def about(config: examples.DataConfig) -> Mapping[str, Any]:
  """Describes what stands before questions."""
  return dict(openings=config.openings) if config.openings else {}


def loss(
    model: model_config.ModelConfig, params: Params, batch: Batch, *,
    num_chunks: int,
) -> sft.Sums:
  """Computes totals of one batch; `num_chunks` pieces of a row at a time."""
  hidden_BxLxD = transformer.hidden(
      model, params, batch.tokens, positions_BxL=batch.positions,
      segment_ids_BxL=batch.segment_ids)
  return sft.chunked_loss_sums(
      lambda x: transformer.read_out(model, params, x).logits, hidden_BxLxD,
      batch, num_chunks=num_chunks)
