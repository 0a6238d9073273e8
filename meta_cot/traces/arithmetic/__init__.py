# SPDX-License-Identifier: Apache-2.0
"""The notation of number puzzles: operations, styles, replay."""
