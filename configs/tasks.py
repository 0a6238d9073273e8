# SPDX-License-Identifier: Apache-2.0
"""The group `task` of an experiment: which problems there are."""

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
  t.num_heldout = 1_000  # at most so many per held-out split
  t.heldout_target_fraction = 0.1  # targets never trained on
  t.heldout_numbers_fraction = 0.12  # number multisets never trained on
  return t
