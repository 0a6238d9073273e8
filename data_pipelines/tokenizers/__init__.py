# SPDX-License-Identifier: Apache-2.0
"""Text <-> token ids."""

from data_pipelines.tokenizers.base import of_setting
from data_pipelines.tokenizers.base import Tokenizer
from data_pipelines.tokenizers.factory import is_whole
from data_pipelines.tokenizers.factory import KINDS
from data_pipelines.tokenizers.factory import load
from data_pipelines.tokenizers.opened import Opened
from data_pipelines.tokenizers.opened import opening

__all__ = [
    'KINDS', 'Opened', 'Tokenizer', 'is_whole', 'load', 'of_setting', 'opening']
