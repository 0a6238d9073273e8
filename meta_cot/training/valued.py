# SPDX-License-Identifier: Apache-2.0
"""Training objective `value`: say of states what they are worth.

The policy is trained beside it on right attempts where they have a weight.
"""

import jax

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import pipelines
from data_pipelines import tokenizers
from data_pipelines import values
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import sft
from meta_cot.objectives import value
from meta_cot.training import supervised
from meta_cot.types import Batch, Params

about = supervised.about


def example(
    arm: arms.Arm, config: examples.DataConfig,
    tokenizer: tokenizers.Tokenizer, style: str, *, is_training: bool,
) -> pipelines.Example:
  """Makes what turns a record with targets into a sequence."""
  del is_training
  return values.Values(arm, config.value, tokenizer, style)


def loss(
    model: model_config.ModelConfig, params: Params, batch: Batch, *,
    num_chunks: int,
) -> sft.Sums:
  """Computes totals of one batch, those of the policy's tokens in pieces."""
  hidden_BxLxD = transformer.hidden(
      model, params, batch.tokens, positions_BxL=batch.positions,
      segment_ids_BxL=batch.segment_ids)
  read_out = lambda x: transformer.read_out(model, params, x)
  of_policy = sft.chunked_loss_sums(
      lambda x: read_out(x).logits, hidden_BxLxD,
      batch.replace(value_targets=None, value_weights=None, value_offsets=None),
      num_chunks=num_chunks)
  of_value = value.cross_entropy_sums(
      read_out(hidden_BxLxD).value_logits, batch)
  return jax.tree.map(lambda x, y: x + y, of_policy, of_value)
