# SPDX-License-Identifier: Apache-2.0
"""Text <-> token ids."""

from data_pipelines.tokenizers.base import Tokenizer
from data_pipelines.tokenizers.factory import check
from data_pipelines.tokenizers.factory import is_whole
from data_pipelines.tokenizers.factory import KINDS
from data_pipelines.tokenizers.factory import load
from data_pipelines.tokenizers.factory import make
from data_pipelines.tokenizers.factory import placeholder

__all__ = [
    'KINDS', 'Tokenizer', 'check', 'is_whole', 'load', 'make', 'placeholder']
