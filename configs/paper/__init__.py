# SPDX-License-Identifier: Apache-2.0
"""Experiments behind figures of arXiv 2501.04682, one file for each."""
