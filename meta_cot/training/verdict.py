# SPDX-License-Identifier: Apache-2.0
"""Training objective `verdict`: write what a state is worth.

A generative verifier (arXiv 2501.04682, section 3.1): its verdict is a token,
behind a verification if it is to write one.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from data_pipelines import arms
from data_pipelines import examples
from data_pipelines import pipelines
from data_pipelines import tokenizers
from data_pipelines import verdicts
from meta_cot.training import supervised

loss = supervised.loss


def example(
    arm: arms.Arm, config: examples.DataConfig,
    tokenizer: tokenizers.Tokenizer, style: str, *, is_training: bool,
) -> pipelines.Example:
  """Makes what turns a record with targets into a verdict."""
  del is_training
  return verdicts.Verdicts(arm, config.verdict, tokenizer, style)


def about(config: examples.DataConfig) -> Mapping[str, Any]:
  """Describes the verdicts, for who asks for one."""
  return dict(verdict=dataclasses.asdict(config.verdict))
