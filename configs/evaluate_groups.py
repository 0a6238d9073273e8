# SPDX-License-Identifier: Apache-2.0
"""Groups of a stage that asks policies, every setting with its meaning."""

import ml_collections

placeholder = ml_collections.config_dict.placeholder


def budget() -> ml_collections.ConfigDict:
  """Makes the settings of what answers of a problem may cost."""
  b = ml_collections.ConfigDict()
  # Tokens drawn for a problem on average, by every solver but greedy and the
  # prompts: their sizes are chosen so (docs/search.md). None: they are as set.
  b.tokens = placeholder(int)
  b.num_problems = 64  # of validation, that sizes are chosen by
  b.block = 16  # problems between two looks at what was drawn
  # Without `tokens`, what samples of a problem may cost on average: a policy
  # with long texts has fewer. None: any.
  b.sample_tokens = placeholder(int)
  return b


def revisions() -> ml_collections.ConfigDict:
  """Makes the settings of trajectories of attempts."""
  r = ml_collections.ConfigDict()
  r.num_questions = 32  # played together
  r.num_samples = 4  # trajectories of a question
  r.num_slots = 256  # trajectories written together
  r.num_episodes = 3  # attempts of a trajectory, at most those it was tuned on
  r.episode_length = 24  # tokens of an attempt, at most
  r.max_tokens = placeholder(int)  # of a trajectory; None: any
  r.window = placeholder(int)  # earlier attempts in sight; None: all
  r.reset = ''  # text between two attempts
  # What answers an attempt (docs/rl.md): none | task | shuffled (the answer is
  # that to another question: a control).
  r.feedback = 'none'
  r.feedback_length = 16  # tokens of an answer from the host, at most
  r.give_up = placeholder(str)  # a token that ends an attempt; None: none
  r.temperature = 1.0
  r.top_k = placeholder(int)  # None: off
  r.top_p = placeholder(float)  # None: off
  r.threads = _threads()
  return r


def _threads():
  t = ml_collections.ConfigDict()  # of solver threads, for such a trajectory
  t.num_joins = 6  # of a parent, at most
  t.num_threads = 24  # of a join, at most
  t.window = 256  # tokens of a parent behind the question, what it reads too
  t.thread_window = 128  # tokens of a thread behind the question
  t.temperature = 0.0  # 0: greedy; of attempts it is another one
  return t


def prompting() -> ml_collections.ConfigDict:
  """Makes the settings of models that are told how to answer."""
  p = ml_collections.ConfigDict()
  p.batch_size = 64  # texts written together
  p.max_new_tokens = 512  # of an attempt, and of a check, at most
  p.num_samples = 1  # attempts at a problem, or dialogues about it
  p.temperature = 0.7  # 0: greedy
  p.top_k = placeholder(int)  # None: off
  p.top_p = placeholder(float)  # None: off
  p.num_shots = 3  # examples of think_3_shot, the first training problems
  p.max_attempts = 6  # of think_verify, the last of which counts
  return p
