# SPDX-License-Identifier: Apache-2.0
"""The notation of Sudoku: grids, a style, the teacher."""

from meta_cot.traces.sudoku import cells

STYLES = {'cells': cells}
