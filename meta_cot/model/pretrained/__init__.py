# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of Hugging Face in and out: families, names, safetensors."""
