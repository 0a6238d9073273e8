# SPDX-License-Identifier: Apache-2.0
"""Tree search over steps, inside one compiled program."""

from meta_cot.search.base import Expansion
from meta_cot.search.base import Path
from meta_cot.search.base import Root
from meta_cot.search.beam import beam
from meta_cot.search.beam import breadth_first
from meta_cot.search.beam import dvts
from meta_cot.search.engine import SearchOutput
from meta_cot.search.frontier import best_first
from meta_cot.search.frontier import depth_first
from meta_cot.search.mcts import best_child
from meta_cot.search.mcts import mcts
from meta_cot.search.particles import particles
from meta_cot.search.subtree import reroot
from meta_cot.search.tree import SearchTree

__all__ = ('Expansion', 'Path', 'Root', 'SearchOutput', 'SearchTree', 'beam',
           'best_child', 'best_first', 'breadth_first', 'depth_first', 'dvts',
           'mcts', 'particles', 'reroot')
