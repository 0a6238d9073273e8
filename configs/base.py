# SPDX-License-Identifier: Apache-2.0
"""Every setting of an experiment, with its meaning and a laptop-safe default.

Experiment files start from `get_config()` here and override what differs; the
command line overrides again: `--config.optimizer.learning_rate=1e-3`. Types and
ranges are declared beside the code that reads them, as
`meta_cot/stages/experiment.py` lists the groups, and checked before any work.
"""

from collections.abc import Callable, Mapping

import ml_collections

placeholder = ml_collections.config_dict.placeholder


def choose(variants: Mapping[str, Callable], variant: str) -> Callable:
  """The function of one variant of an experiment.

  Raises:
    ValueError: no such variant; lists them.
  """
  if variant not in variants:
    raise ValueError(
        f'variant: got {variant!r}; must be one of {", ".join(variants)}.')
  return variants[variant]


def get_config() -> ml_collections.ConfigDict:
  """The base experiment: 3-number Countdown, a small model."""
  c = ml_collections.ConfigDict()
  c.seed = 0  # of everything: problems, traces, initialisation, shuffling
  c.stages = (
      'problems', 'generate_traces', 'train_tokenizer', 'sft', 'evaluate')
  # Compiled programs, for the next process: workdir | off | a path or bucket.
  c.compilation_cache = 'workdir'
  c.arms = ('traces', 'solution_only')  # what is trained and compared
  c.mesh = _mesh()
  c.model = _model()
  c.task = _task()
  c.problems = _problems()
  c.traces = _traces()
  c.tokenizer = _tokenizer()
  c.data = _data()
  c.optimizer = _optimizer()
  c.train = _train()
  c.checkpoint = _checkpoint()
  c.evaluation = _evaluation()
  c.search = _search()
  c.rl = _rl()
  return c


def _mesh():
  m = ml_collections.ConfigDict()
  m.data = -1  # data-parallel devices; -1: all that are left over
  m.fsdp = 1  # devices that share parameters and optimiser state
  m.model = 1  # tensor-parallel devices (heads, feed-forward, vocabulary)
  return m


def _model():
  m = ml_collections.ConfigDict()
  m.vocab_size = 128  # rows of the embedding; at least the tokenizer's size
  m.num_layers = 4
  m.embed_dim = 96
  m.num_heads = 4  # query heads
  m.num_kv_heads = 4  # key/value heads; divides num_heads
  m.head_dim = 24
  m.mlp_dim = 256
  m.max_length = 512  # longest sequence, in tokens
  m.activation = 'silu'  # silu (SwiGLU) | gelu_tanh (GeGLU)
  m.rope_theta = 10_000.0
  m.rope_local_theta = placeholder(float)  # of sliding layers; None: the same
  m.rope_scaling_factor = placeholder(float)  # Llama-3 scaling; None: off
  m.rope_low_freq_factor = placeholder(float)  # None: linear scaling
  m.rope_high_freq_factor = placeholder(float)
  m.rope_original_max_length = placeholder(int)
  m.norm_epsilon = 1e-5
  m.norm_plus_one = False  # scale by 1 + w (Gemma)
  m.use_qk_norm = False  # RMSNorm of queries and keys (Qwen 3, Gemma 3)
  m.use_qkv_bias = False  # Qwen 2.5
  m.use_post_norms = False  # norms after attention and feed-forward (Gemma)
  m.attention_softcap = placeholder(float)  # cap * tanh(x / cap); None: off
  m.logit_softcap = placeholder(float)
  m.query_scale = placeholder(float)  # None: head_dim ** -0.5
  m.sliding_window = placeholder(int)  # tokens seen by sliding layers
  m.sliding_window_pattern = placeholder(int)  # every n-th layer is global
  m.embed_scale = True  # embeddings times sqrt(embed_dim) (Gemma)
  m.tie_embeddings = True
  m.value_head = 'shared'  # shared (read-out on the trunk) | none
  m.layer_loop = 'unroll'  # unroll (CPU) | scan (TPU, GPU: compiles faster)
  # What the backward pass computes again, to save memory. none: nothing; dots:
  # all but matrix products and splash attention; outputs: all but the blocks'
  # outputs; attention: all but splash attention; full: everything.
  m.remat = 'none'
  # auto (by platform) | dense | splash (TPU) | cudnn (GPU).
  m.attention = 'auto'
  m.compute_dtype = 'auto'  # auto: bfloat16 on accelerators, float32 on CPU
  m.param_dtype = 'float32'
  return m


def _task():
  t = ml_collections.ConfigDict()
  # A name of meta_cot/tasks/factory.py or a dotted module; the other keys are
  # those of its Settings.
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


def _problems():
  p = ml_collections.ConfigDict()
  p.num_shards = 4  # files per split
  p.num_processes = 1
  return p


def _traces():
  t = ml_collections.ConfigDict()
  t.strategies = 'compact'  # compact (one DFS) | stream_of_search (all 12)
  t.num_shards = 4  # files per split
  t.num_processes = 2
  return t


def _tokenizer():
  t = ml_collections.ConfigDict()
  t.kind = 'sentencepiece'  # data_pipelines/tokenizers; the rest is its own
  t.vocab_size = 128  # at most
  t.number_tokens = placeholder(int)  # n: 0..n one token each; None: digits
  t.path = placeholder(str)  # tokenizer.model to reuse; None: train one
  return t


def _data():
  d = ml_collections.ConfigDict()
  d.sequence_length = 192  # tokens in a packed row
  d.style = 'compact'  # compact | stream_of_search
  d.objective = 'procedure_cloning'  # which tokens are trained (docs/traces.md)
  d.packing_bins = 64  # rows filled at a time
  # Packed separately, shared by the hosts: a multiple of their number that
  # divides train.batch_size. Another number gives other batches.
  d.num_streams = 1
  d.num_workers = 0  # reader processes per stream; 0: in this one
  d.prune_fraction = 0.0  # share of traces with failed branches cut off
  d.max_attempts = 4  # of arm revisions, the right one included
  d.trained_attempts = 'all'  # of arm revisions: all | final (the right one)
  return d


def _optimizer():
  o = ml_collections.ConfigDict()
  o.learning_rate = 3e-3  # peak
  o.final_fraction = 0.05  # of the peak, at the end of the cosine
  o.warmup_steps = 50
  o.b1 = 0.9
  o.b2 = 0.98
  o.epsilon = 1e-8
  o.weight_decay = 0.05
  o.clip_norm = 1.0
  return o


def _train():
  t = ml_collections.ConfigDict()
  t.num_tokens = 4_000_000  # tokens per arm, padding not counted
  t.batch_size = 8  # packed rows per step, over all devices
  t.num_accumulation = 1  # micro-batches per step
  t.num_loss_chunks = 1  # pieces of a row whose logits exist one at a time
  t.log_every_steps = 50
  t.eval_every_steps = 200
  t.num_eval_batches = 8
  t.profile_steps = ()  # first and last step to trace; --profile=10:12 sets it
  return t


def _checkpoint():
  c = ml_collections.ConfigDict()
  c.save_every_steps = 250
  c.max_to_keep = placeholder(int)  # None: all (the learning curve reads them)
  return c


def _evaluation():
  e = ml_collections.ConfigDict()
  e.num_problems = 1_000  # at most so many of each test split
  e.num_curve_problems = 256  # validation: points of the learning curve
  e.batch_size = 256  # sequences decoded together
  e.max_new_tokens = 192
  e.num_samples = 64  # N of best-of-N for the solution-only arms
  e.num_trace_samples = 4  # the same for traces, on num_curve_problems
  e.temperature = 1.0  # of those samples
  e.top_k = placeholder(int)  # None: off
  e.top_p = placeholder(float)  # None: off
  return e


def _search():
  s = ml_collections.ConfigDict()
  s.arm = 'solution_only'  # whose newest checkpoint proposes the steps
  # beam | dvts | breadth_first | best_first | depth_first | mcts.
  s.strategies = ('beam', 'best_first', 'mcts')
  # What a step is: solution (an operation of a solution) | event (of a trace,
  # for arms that write searches) | episode (a whole attempt, for arms that
  # revise). The last two need max_depth.
  s.step = 'solution'
  s.num_problems = 200  # at most so many of the first test split
  s.num_slots = 32  # problems searched together
  s.chunk_steps = 2  # steps between two looks at what is finished
  # What guides a search: likelihood (of the path, per token) | head.
  s.value = 'likelihood'
  # What a finished step is worth: verifier (right or wrong) | value.
  s.outcome = 'verifier'
  s.branching = 4  # steps proposed at every node
  s.max_depth = placeholder(int)  # steps; None: those of a solution
  s.step_length = 16  # tokens of a step, at most
  s.max_tokens = placeholder(int)  # generated per problem; None: any
  s.beam_width = 4  # beam and breadth_first; subtrees of dvts
  s.num_expansions = 16  # best_first, depth_first
  s.num_simulations = 16  # mcts
  s.rule = 'uct'  # of mcts: uct | uct_paper | puct | gumbel
  s.exploration = 1.0  # c of the mcts rule
  s.temperature = 1.0  # of steps, and of the samples beside them
  s.top_k = placeholder(int)  # None: off
  s.top_p = placeholder(float)  # None: off
  s.num_samples = 64  # whole solutions drawn per problem, for best of N
  return s


def _rl():
  r = ml_collections.ConfigDict()
  r.start = 'revisions'  # the arm whose newest checkpoint is tuned
  # erl2 (the last episode) | rl2 (all) | single (one) | score (erl2, then rl2).
  r.objectives = ('erl2', 'rl2', 'single')  # each is trained
  r.seeds = (0,)  # and each with each of them
  r.num_iterations = 100
  r.eval_every = 20  # iterations
  r.num_eval_problems = 256
  r.num_eval_samples = 4  # trajectories of each
  r.save_every = 20  # iterations
  r.questions = _rl_questions()
  r.episodes = _rl_episodes()
  r.credit = _rl_credit()
  r.loss = _rl_loss()
  r.updates = _rl_updates()
  r.optimizer = _optimizer()
  r.optimizer.update(dict(
      learning_rate=1e-4, final_fraction=0.1, warmup_steps=5, weight_decay=0.0))
  return r


def _rl_questions():
  q = ml_collections.ConfigDict()
  q.num_questions = 32  # of an iteration
  q.num_samples = 8  # trajectories of a question
  q.num_slots = 256  # trajectories written together
  # A question solved as rarely, or as often, rests for some passes.
  q.min_success = 0.0
  q.max_success = 1.0
  q.rest = 1  # passes; 0: all questions in every pass
  return q


def _rl_episodes():
  e = ml_collections.ConfigDict()
  e.num_episodes = 3  # attempts of a trajectory; `single` has one
  # Who writes all but the last: policy, or a search by config.search, which has
  # outcome value then (beam | dvts | breadth_first | best_first | depth_first |
  # mcts).
  e.exploration = 'policy'
  e.episode_length = 24  # tokens of an attempt, at most
  e.max_tokens = placeholder(int)  # of a trajectory; None: any
  e.window = placeholder(int)  # earlier attempts in sight; None: all
  e.reset = ''  # text between two attempts
  e.give_up = placeholder(str)  # a token that ends an attempt; None: none
  e.temperature = 1.0
  e.top_k = placeholder(int)  # None: off
  e.top_p = placeholder(float)  # None: off
  return e


def _rl_credit():
  c = ml_collections.ConfigDict()
  c.score_hold = 0.5  # share of the run before score turns to rl2
  c.discounts = (1.0,)  # gamma; every question is asked with one of them
  c.discount_prompts = ('',)  # what stands before the question then
  # reinforce | rloo | step_rloo | grpo | grpo_no_std | vineppo | gae.
  c.advantage = 'rloo'
  c.whiten = False  # advantages to mean 0 and deviation 1
  c.num_rollouts = 4  # of vineppo, for every value
  c.num_steps = 2  # of an episode, that have values of their own in vineppo
  c.step_end = ','  # a token whose text ends so ends a step
  c.gae_gamma = 1.0
  c.gae_lambda = 0.95
  return c


def _rl_loss():
  o = ml_collections.ConfigDict()
  o.ratio_level = 'token'  # token | sequence
  o.clip_low = 0.2
  o.clip_high = 0.2
  # A mean over tokens | over each sequence first | a sum over a constant.
  o.token_weights = 'token'  # token | sequence | constant
  o.kl_in = 'loss'  # none | loss | reward
  o.kl_estimator = 'k3'  # k2, k3 in the loss; k1 in the reward
  o.kl_coefficient = 0.001
  o.kl_target = placeholder(float)  # nats a token; None: fixed coefficient
  o.kl_horizon = 10_000  # trajectories over which the coefficient adapts
  o.entropy_bonus = 0.0
  o.value_coefficient = 0.5  # of gae
  o.value_clip = placeholder(float)  # None: off
  return o


def _rl_updates():
  u = ml_collections.ConfigDict()
  u.num_epochs = 1  # over the trajectories of an iteration
  u.num_minibatches = 1  # of an epoch
  u.num_accumulation = 1  # micro-batches of a minibatch
  u.num_loss_chunks = 1  # pieces of a row whose logits exist one at a time
  return u
