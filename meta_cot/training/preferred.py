# SPDX-License-Identifier: Apache-2.0
"""Training objective `dpo`: prefer the better of two steps of one state.

The policy that it starts from stays beside it as the reference.
"""

import jax

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import pairs
from data_pipelines import pipelines
from data_pipelines import tokenizers
from meta_cot.model import config as model_config
from meta_cot.model import transformer
from meta_cot.objectives import dpo
from meta_cot.objectives import sft
from meta_cot.training import supervised
from meta_cot.types import Batch, Params

about = supervised.about


def example(
    arm: arms.Arm, config: examples.DataConfig,
    tokenizer: tokenizers.Tokenizer, style: str, *, is_training: bool,
) -> pipelines.Example:
  """Makes what turns a record with targets into a pair of texts."""
  del is_training
  return pairs.Pairs(arm, config.pairs, tokenizer, style)


def loss(
    model: model_config.ModelConfig, params: Params, batch: Batch, *,
    num_chunks: int, reference: Params, beta: float,
) -> sft.Sums:
  """Computes totals of one batch; `num_chunks` pieces of a row at a time.

  `reference` are all parameters of the policy that stays.
  """
  def score(params) -> jax.Array:
    hidden_BxLxD = transformer.hidden(
        model, params, batch.tokens, positions_BxL=batch.positions,
        segment_ids_BxL=batch.segment_ids)
    return dpo.log_probs(
        lambda x: transformer.read_out(model, params, x).logits, hidden_BxLxD,
        batch.targets, num_chunks=num_chunks)

  return dpo.pair_sums(score(params), score(reference), batch, beta=beta)
