# SPDX-License-Identifier: Apache-2.0
"""Decoder-only transformer with a policy and a value head."""

from meta_cot.model import cache
from meta_cot.model import transformer
from meta_cot.model.config import ModelConfig

__all__ = ['ModelConfig', 'cache', 'transformer']
