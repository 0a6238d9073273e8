# SPDX-License-Identifier: Apache-2.0
"""What is learned from records: one module per objective.

A new objective is a module with `example` and `loss` and a line in OBJECTIVES.
"""

from collections.abc import Mapping
import types
from typing import Protocol

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import pipelines
from data_pipelines import tokenizers
from meta_cot.model import config as model_config
from meta_cot.objectives import sft
from meta_cot.training import supervised
from meta_cot.types import Batch, Params


class Objective(Protocol):
  """How sequences are made of records, and what is minimised on them."""

  def example(
      self, arm: arms.Arm, config: examples.DataConfig,
      tokenizer: tokenizers.Tokenizer, style: str, *, is_training: bool,
  ) -> pipelines.Example:
    """Makes what turns a record into a training sequence."""

  def loss(
      self, model: model_config.ModelConfig, params: Params, batch: Batch, *,
      num_chunks: int,
  ) -> sft.Sums:
    """Computes totals of one batch; `num_chunks` pieces of a row at a time."""


OBJECTIVES: Mapping[str, Objective] = types.MappingProxyType({
    'sft': supervised,
})
