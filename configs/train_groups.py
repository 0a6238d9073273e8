# SPDX-License-Identifier: Apache-2.0
"""Groups of settings of stages `train`, every setting with its meaning."""

import ml_collections

placeholder = ml_collections.config_dict.placeholder


def data() -> ml_collections.ConfigDict:
  """Makes the group that says what sequences are made of records."""
  d = ml_collections.ConfigDict()
  d.sequence_length = 192  # tokens in a packed row
  # Which tokens are trained (docs/traces.md): procedure_cloning | meta_cot |
  # solution_path.
  d.mask = 'procedure_cloning'
  d.num_records = placeholder(int)  # the first of train; None: all there are
  d.packing_bins = 64  # rows filled at a time
  # Packed separately, shared by the hosts: a multiple of their number that
  # divides batch_size. Another number gives other batches.
  d.num_streams = 1
  d.num_workers = 0  # reader processes per stream; 0: in this one
  d.prune_fraction = 0.0  # share of traces with failed branches cut off
  d.max_attempts = 4  # of arm revisions, the right one included
  d.trained_attempts = 'all'  # of arm revisions: all | final (the right one)
  # Of arm backtracks: share of steps with a wrong one before them; of arm
  # resets: share of solutions with a beginning of a wrong one before them.
  d.backtrack_rate = 0.0
  # What stands before a question: none | strategy (that of the record) | budget
  # (the least of `openings` that holds the tokens of the text) | limit (one
  # that does, drawn) | any (one of them, drawn: it says nothing).
  d.opening = 'none'
  d.openings = ()  # that may; records with others are left out
  d.value = _value()
  d.verdict = _verdict()
  d.pairs = _pairs()
  return d


def _value():
  v = ml_collections.ConfigDict()  # of objective value
  v.weight = 1.0  # of a state, in the mean over all that is trained
  v.policy_weight = 0.0  # of a token of a right attempt; 0: the value alone
  # Share of the weight that successes have, where few states succeed; what the
  # value says is put right. None: as it is in the records.
  v.balance = placeholder(float)
  return v


def _verdict():
  v = ml_collections.ConfigDict()  # of objective verdict; each is one token
  v.ask = '?'  # behind the steps: the verdict follows
  v.right = '!'
  v.wrong = 'x'
  # Ends every state of a verification, which then stands before the verdict.
  v.chain = placeholder(str)
  return v


def _pairs():
  p = ml_collections.ConfigDict()  # of objective dpo
  p.beta = 0.1  # the smaller, the further from the start
  # Of two steps of a state, the target of the better one is above the other's
  # by so much at least.
  p.min_gap = 0.25
  return p
