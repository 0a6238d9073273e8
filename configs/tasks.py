# SPDX-License-Identifier: Apache-2.0
"""The group `task` of an experiment: which problems there are.

`kind` is a name of meta_cot/tasks/factory.py, or a task of one's own: a dotted
module or the path of a file (docs/tasks.md). The other keys are its Settings.
"""

import ml_collections

placeholder = ml_collections.config_dict.placeholder


def countdown() -> ml_collections.ConfigDict:
  """Makes three-number Countdown, small enough for a laptop."""
  t = ml_collections.ConfigDict()
  t.kind = 'countdown'
  t.num_numbers = 3
  t.min_number = 1
  t.max_number = 20
  t.min_target = 10
  t.max_target = 60
  t.max_value = placeholder(int)  # largest intermediate result; None: any
  t.enumerate_all = True  # every solvable problem once; False: sample
  t.num_train = 10_000  # training problems when sampled
  t.num_heldout = 1_000  # at most so many of every other split
  t.heldout_target_fraction = 0.1  # targets never trained on
  t.heldout_numbers_fraction = 0.12  # number multisets never trained on
  t.validation_fraction = 0.25  # of these, for every choice; never reported
  # Of the teacher's single strategies. descending: larger operand first, which
  # style compact needs; listed: as Stream of Search has them.
  t.operands = 'descending'
  return t


def game24() -> ml_collections.ConfigDict:
  """Makes the Game of 24."""
  t = ml_collections.ConfigDict()
  t.kind = 'game24'
  t.rank_file = placeholder(str)  # test are its ranks 901-1000; None: by seed
  # Training problems: the puzzles in turn, every time in another random order
  # of their numbers. 0: every puzzle once.
  t.num_train = 12_000
  t.num_validation = 100  # puzzles
  t.num_test = 100  # puzzles, without a rank file
  t.max_value = 100  # largest intermediate result; None: any
  # Of the teacher's single strategies. descending: larger operand first, which
  # style compact needs; listed: as Stream of Search has them.
  t.operands = 'descending'
  return t


def maze() -> ml_collections.ConfigDict:
  """Makes mazes of one size, as Searchformer draws them."""
  t = ml_collections.ConfigDict()
  t.kind = 'maze'
  t.sizes = (6,)  # squares; problems of train and validation take them in turn
  t.num_train = 4_000
  t.num_validation = 200
  t.num_test = 200  # of every size, each a split of its own
  t.min_walls = 0.3  # of the cells; their number is uniform
  t.max_walls = 0.5
  t.min_plan = 1.0  # cells of a shortest way, at least so many times the size
  return t


def sudoku4() -> ml_collections.ConfigDict:
  """Makes Sudoku of 4 x 4, hard enough that a search comes to dead ends."""
  t = ml_collections.ConfigDict()
  t.kind = 'sudoku4'
  t.min_empty = 8  # cells; with fewer, filling row by row seldom fails
  t.max_empty = 12
  t.num_train = 16_000  # at most so many, all different
  t.num_validation = 200  # at most so many, no two alike up to symmetry
  t.num_test = 500
  return t


def word_problems() -> ml_collections.ConfigDict:
  """Makes word problems in English, of one to three steps."""
  t = ml_collections.ConfigDict()
  t.kind = 'word_problems'
  t.min_steps = 1  # operations of a problem
  t.max_steps = 3
  t.max_number = 20  # in the question
  t.max_value = 500  # of a result
  t.num_train = 10_000
  t.num_validation = 300
  t.num_test = 300
  return t


def gsm8k() -> ml_collections.ConfigDict:
  """Makes problems in words from files; `task.train` says which."""
  t = ml_collections.ConfigDict()
  t.kind = 'gsm8k'
  # Files (JSONL, Parquet, ArrayRecord; local or in a bucket; * for several), or
  # hf:NAME[:CONFIG]:SPLIT, tfds:NAME[/CONFIG]:SPLIT.
  t.train = ()
  t.test = ()  # (): some of the rows of train
  t.validation_fraction = 0.05  # of the rows of train
  t.test_fraction = 0.05  # of the rows of train, where `test` names nothing
  t.num_train = placeholder(int)  # at most; None: all there are
  t.num_heldout = placeholder(int)  # of every other split, at most
  t.max_bad_fraction = 0.01  # of the rows may be broken; more end the run
  return t


def math() -> ml_collections.ConfigDict:
  """Makes competition problems from files, as `gsm8k`."""
  t = gsm8k()
  t.kind = 'math'
  return t


def safe() -> ml_collections.ConfigDict:
  """Makes codes to crack, of two letters in three attempts."""
  t = _world('safe')
  t.num_symbols = 6  # letters of a code
  t.num_places = 2
  t.default_probability = 0.3  # that the code is the one in the question
  return t


def harbour() -> ml_collections.ConfigDict:
  """Makes ways to a harbour that only the lighthouse knows."""
  t = _world('harbour', num_attempts=2)
  t.home_probability = 0.6  # that the harbour is the one in the question
  return t


def hilo() -> ml_collections.ConfigDict:
  """Makes numbers to find by what is too low or too high."""
  t = _world('hilo')
  t.largest = 7
  t.first_probability = 0.5  # of the number 1; the others are all alike
  return t


def expressions() -> ml_collections.ConfigDict:
  """Makes pairs of numbers to find an expression for."""
  t = _world('expressions')
  t.largest = 9  # of the numbers in an expression
  t.largest_input = 5  # of those shown
  t.num_forms = 3  # of a*x+b, a*x*x+b, (x+a)*b: so many
  return t


def mastermind() -> ml_collections.ConfigDict:
  """Makes rows of colours to find by how many places are right."""
  t = _world('mastermind', num_attempts=4)
  t.num_colours = 4
  t.num_places = 2
  return t


def _world(kind: str, num_attempts: int = 3) -> ml_collections.ConfigDict:
  t = ml_collections.ConfigDict()
  t.kind = kind
  t.num_attempts = num_attempts  # of a demonstration
  t.num_train = 12_000
  t.num_heldout = 1_000  # in validation and in test
  return t
