# SPDX-License-Identifier: Apache-2.0
"""Folders of records as datasets of TensorFlow Datasets; needs its package."""
