# SPDX-License-Identifier: Apache-2.0
"""Text <-> token ids."""

from data_pipelines.tokenizers.base import Tokenizer
from data_pipelines.tokenizers.factory import is_in
from data_pipelines.tokenizers.factory import KINDS
from data_pipelines.tokenizers.factory import load
from data_pipelines.tokenizers.factory import make
from data_pipelines.tokenizers.factory import placeholder

__all__ = [
    'KINDS', 'Tokenizer', 'is_in', 'load', 'make', 'placeholder']
