# SPDX-License-Identifier: Apache-2.0
"""A run as one page: what a workdir holds, read and drawn."""
