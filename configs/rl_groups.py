# SPDX-License-Identifier: Apache-2.0
"""Groups of settings of stages `rl`, every setting with its meaning."""

import ml_collections

placeholder = ml_collections.config_dict.placeholder


def questions() -> ml_collections.ConfigDict:
  """Makes the group that says which questions are asked."""
  q = ml_collections.ConfigDict()
  q.num_questions = 32  # of an iteration
  q.num_samples = 8  # trajectories of a question
  # More that share the beginning of one, of each; read and learned in one row.
  q.num_branches = 0
  q.branch_at = 'steps'  # steps (credit.step_end) | entropy (the highest ones)
  q.num_slots = 256  # trajectories written together
  # A question solved as rarely, or as often, rests for some passes.
  q.min_success = 0.0
  q.max_success = 1.0
  q.rest = 1  # passes; 0: all questions in every pass
  q.solutions = placeholder(str)  # of qstar: records that solve all questions
  q.solution_length = 32  # tokens of one, at most
  return q


def episodes() -> ml_collections.ConfigDict:
  """Makes the group that says how episodes are played."""
  e = ml_collections.ConfigDict()
  e.num_episodes = 3  # attempts of a trajectory; `single` has one
  # Who writes all but the last: policy, or a search (beam | dvts |
  # breadth_first | best_first | depth_first | mcts | particles).
  e.exploration = 'policy'
  e.episode_length = 24  # tokens of an attempt, at most
  e.max_tokens = placeholder(int)  # of a trajectory; None: any
  e.window = placeholder(int)  # earlier attempts in sight; None: all
  e.reset = ''  # text between two attempts
  # What answers an attempt (docs/rl.md): none | task | shuffled (the answer is
  # that to another question: a control).
  e.feedback = 'none'
  e.feedback_length = 16  # tokens of an answer from the host, at most
  e.give_up = placeholder(str)  # a token that ends an attempt; None: none
  e.temperature = 1.0
  e.top_k = placeholder(int)  # None: off
  e.top_p = placeholder(float)  # None: off
  return e


def credit() -> ml_collections.ConfigDict:
  """Makes the group that says what trajectories are worth."""
  c = ml_collections.ConfigDict()
  c.earlier_weight = 0.5  # of `weighted`, for the episodes before the last
  c.episode_discount = 1.0  # of what an episode is worth to the one before it
  c.score_hold = 0.5  # share of the run before score turns to rl2
  c.discounts = (1.0,)  # gamma; every question is asked with one of them
  c.discount_prompts = ('',)  # what stands before the question then
  # reinforce | rloo | step_rloo | grpo | grpo_no_std | vineppo | mrt | gae.
  c.advantage = 'rloo'
  c.whiten = False  # advantages to mean 0 and deviation 1
  c.num_rollouts = 4  # of vineppo and mrt, for every value
  c.num_steps = 2  # of an episode, that have values of their own there
  c.progress_weight = 1.0  # of mrt, beside the outcome: 0 is rloo
  c.step_end = ','  # a token that has this in it ends a step
  c.gae_gamma = 1.0
  c.gae_lambda = 0.95
  return c


def loss() -> ml_collections.ConfigDict:
  """Makes the group that says the loss."""
  o = ml_collections.ConfigDict()
  o.ratio_level = 'token'  # token | sequence
  o.clip_low = 0.2
  o.clip_high = 0.2
  # A mean over tokens | over each sequence first | a sum over a constant.
  o.token_weights = 'token'  # token | sequence | constant
  o.kl_in = 'loss'  # none (and none is logged) | loss | reward
  o.kl_estimator = 'k3'  # k2, k3 in the loss; k1 in the reward
  o.kl_coefficient = 0.001
  o.kl_target = placeholder(float)  # nats a token; None: fixed coefficient
  o.kl_horizon = 10_000  # trajectories over which the coefficient adapts
  o.entropy_bonus = 0.0  # nats of a token count as much
  o.entropy_bonus_end = placeholder(float)  # linearly there; None: the same
  o.value_coefficient = 0.5  # of gae
  o.value_clip = placeholder(float)  # None: off
  # Of apa: the weight of its KL to the start; advantages count one over it.
  o.apa_lambda = 1.0
  return o


def updates() -> ml_collections.ConfigDict:
  """Makes the group that says how often one sample is learned from."""
  u = ml_collections.ConfigDict()
  u.num_epochs = 1  # over the trajectories of an iteration
  u.num_minibatches = 1  # of an epoch
  u.num_accumulation = 1  # micro-batches of a minibatch
  u.num_loss_chunks = 1  # pieces of a row whose logits exist one at a time
  # Rows of questions without a gradient are left out, and rows are cut to the
  # longest that is left. With a KL or an entropy in the loss, or a value head,
  # all rows have a gradient: then they are cut only.
  u.skip_flat_groups = True
  return u
