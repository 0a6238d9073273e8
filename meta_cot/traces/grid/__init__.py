# SPDX-License-Identifier: Apache-2.0
"""The notation of mazes on a grid: questions, styles, the teacher."""

from meta_cot.traces.grid import searchformer

STYLES = {'searchformer': searchformer}
