# SPDX-License-Identifier: Apache-2.0
"""The kinds of stages, every setting with its meaning and a small default.

A function makes the group of one stage; its arguments override. What a stage
reads it names: `STAGE` or `STAGE/PART` of the same workdir, or a folder
anywhere (an absolute path, a bucket).
"""

from typing import Any

import ml_collections

from configs import evaluate_groups
from configs import rl_groups
from configs import train_groups

placeholder = ml_collections.config_dict.placeholder


def problems(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that writes the problems of the task."""
  p = ml_collections.ConfigDict()
  p.kind = 'problems'
  p.num_shards = 4  # files per split
  p.num_processes = 1  # that work on them
  p.update(changes)
  return p


def traces(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage in which the task's teacher solves problems by search."""
  t = ml_collections.ConfigDict()
  t.kind = 'traces'
  t.problems = 'problems'
  # compact (one DFS) | stream_of_search (all 12) | threads (the same DFS, first
  # steps at a time: 2, 4, 8 or 24).
  t.strategies = 'compact'
  t.num_shards = 4  # files per split
  t.num_processes = 2
  t.update(changes)
  return t


def tokenizer(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that learns a vocabulary from texts, or reuses one."""
  t = ml_collections.ConfigDict()
  t.kind = 'tokenizer'
  t.records = 'traces'
  t.style = placeholder(str)  # of the texts; None: config.style
  t.vocabulary = _sentencepiece()
  t.update(changes)
  return t


def _sentencepiece():
  v = ml_collections.ConfigDict()
  v.kind = 'sentencepiece'  # data_pipelines/tokenizers; the rest is its own
  v.vocab_size = 128  # at most
  v.number_tokens = placeholder(int)  # n: 0..n one token each; None: digits
  v.path = placeholder(str)  # tokenizer.model to reuse; None: train one
  v.pieces = ()  # texts of one token each, such as ' plan'; longest first
  return v


def train(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that trains a policy on records, one for each arm."""
  t = ml_collections.ConfigDict()
  t.kind = 'train'
  # What is learned from records: sft | value (a number for states, from a stage
  # label) | verdict (the same in words) | dpo (the better of two steps, by the
  # same).
  t.objective = 'sft'
  t.records = 'traces'
  t.tokenizer = 'tokenizer'
  t.style = placeholder(str)  # of what is written; None: config.style
  t.start = placeholder(str)  # a policy to go on from; None: a new model
  # What a policy learns to write: traces | solution_only |
  # solution_only_permuted | revisions | revisions_kept | episodes |
  # verified_traces | visited | relabelled; of style compact_drafts too
  # backtracks | resets | attempts | attempts_kept | checked; of style
  # compact_threads threads.
  t.arms = ('traces', 'solution_only')
  # Every arm is trained with each, as ARM/seedN; (): with config.seed, as ARM.
  t.seeds = ()
  t.num_tokens = 4_000_000  # tokens per run, padding not counted; or None, and
  t.num_examples = placeholder(int)  # sequences per run
  t.batch_size = 8  # packed rows per step, over all devices
  t.num_accumulation = 1  # micro-batches per step
  t.num_loss_chunks = 1  # pieces of a row whose logits exist one at a time
  t.log_every_steps = 50
  t.eval_every_steps = 200
  t.num_eval_batches = 8
  t.profile_steps = ()  # first and last step to trace; --profile=10:12 sets it
  t.save_every_steps = 250
  t.max_to_keep = placeholder(int)  # None: all (the learning curve reads them)
  t.data = train_groups.data()
  t.optimizer = _optimizer()
  t.update(changes)
  return t


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
  o.trained = _trained()
  return o


def _trained():
  t = ml_collections.ConfigDict()
  # all | value_head | lora (adapters of all projections, and the value head).
  # Of the last two the rest stays as it is in `start`, and is not saved again.
  t.part = 'all'
  t.rank = 8  # of lora
  t.alpha = 16.0  # of lora: what it adds counts alpha / rank
  return t


def _samples(**changes):
  s = ml_collections.ConfigDict()
  s.batch_size = 256  # texts written together, at most
  s.max_new_tokens = 192  # at most; and twice the longest text it was taught
  s.num_samples = 64  # of every problem, in a round
  s.temperature = 1.0  # of samples; greedy texts are another solver
  s.top_k = placeholder(int)  # None: off
  s.top_p = placeholder(float)  # None: off
  # Policies whose value heads say what finished samples are worth, or that say
  # it in words (objective verdict), and how value heads do:
  # the value at the end (last), or of those at the ends of steps the least one
  # (min) or all of them multiplied (product).
  s.judges = ()
  s.judge_reading = 'last'
  s.num_verdicts = 1  # of a judge in words, of every sample, averaged
  s.update(changes)
  return s


def _search(**changes):
  s = ml_collections.ConfigDict()
  # What a step is: solution (an operation of a solution) | sentence (of a
  # solution, or a line) | event (of a trace, for policies that write whole
  # searches) | episode (an attempt). All but solution need max_depth.
  s.step = 'solution'
  s.num_slots = 32  # problems searched together
  s.chunk_steps = 2  # steps between two looks at what is finished
  # What guides a search (docs/values.md): likelihood (of the path, per token) |
  # head (of the policy) | model (another one's head) | verdicts (another one's
  # words) | rollouts (completions) | oracle (the task itself) | mixture.
  s.value = 'likelihood'
  # What a finished step is worth: verifier (right or wrong) | value.
  s.outcome = 'verifier'
  # Steps proposed at every node; or, such as (32, 8, 1), of the root, of nodes
  # of depth 1, and of all that are deeper.
  s.branching = ml_collections.FieldReference(4, field_type=object)
  s.max_depth = placeholder(int)  # steps; None: those of a solution
  s.step_length = 16  # tokens of a step, at most
  s.max_tokens = placeholder(int)  # generated per problem; None: any
  s.beam_width = 4  # beam and breadth_first; subtrees of dvts; particles
  s.num_expansions = 16  # best_first, depth_first
  s.num_simulations = 16  # mcts
  s.rule = 'uct'  # of mcts: uct | uct_paper | puct | gumbel
  s.exploration = 1.0  # c of the mcts rule
  s.temperature = 1.0
  s.top_k = placeholder(int)  # None: off
  s.top_p = placeholder(float)  # None: off
  # Children of a node: independent | without_replacement (all different).
  s.siblings = 'independent'
  s.tree = _tree()
  s.valuing = _valuing()
  s.update(changes)
  return s


def _valuing():
  v = ml_collections.ConfigDict()
  v.model = placeholder(str)  # of model and verdicts: the policy that judges
  v.num_rollouts = 4  # of rollouts and verdicts: of every child
  v.rollout_length = 32  # tokens of one, at most
  v.sources = ('head', 'likelihood')  # of mixture: any of the others
  v.weights = (1.0, 0.5)  # of each
  v.mixing = 'product'  # product (of powers) | mean
  return v


def _tree():
  t = ml_collections.ConfigDict()
  # Who says that a step is none: none | task (false arithmetic, a wall).
  t.step_check = 'none'
  # What becomes one node: none | steps (equal ones of a node) | states (equal
  # ones of a tree too).
  t.merging = 'steps'
  t.goal_test = 'push'  # of best_first: push (any child that is one) | pop
  t.backup = 'leaf'  # of mcts: leaf | max_child | mean_child
  # When a search is over before its budget: never | verdict (a right answer) |
  # value (a finished text worth more than stop_value). None: as it is usual:
  # beam, dvts and particles never, mcts by verdict, others as the outcome is.
  t.early_stop = placeholder(str)
  t.stop_value = 0.5
  # Of mcts and best_first, alpha: nodes are expanded again. In mcts those of n
  # visits while they have fewer than widening_scale * n^alpha children; in
  # best_first expanded nodes go back, after m expansions with a priority that
  # is less by widening_scale * m^alpha. None: every node is expanded once.
  t.widening = placeholder(float)
  t.widening_scale = 1.0
  # Particles are drawn anew when their weights are worth fewer than this share.
  t.resample_below = 1.0
  # Half of the rows go on alone once the others have ended their step.
  t.compaction = False
  return t


def search(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that leaves a policy's answers as records."""
  s = ml_collections.ConfigDict()
  s.kind = 'search'
  s.policy = 'sft/solution_only'
  s.problems = 'problems'
  # greedy | samples | beam | dvts | breadth_first | best_first | depth_first |
  # mcts | particles.
  s.solver = 'samples'
  s.num_train = 1_000  # problems of the split train
  s.num_validation = 200
  # Of samples: answers (all) | first_text | shortest_text (the search that the
  # first or the shortest right text tells).
  s.kept = 'answers'
  s.samples = _samples(num_samples=4)
  s.search = _search()
  s.update(changes)
  return s


def label(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that says what states are worth, to train a value on."""
  s = ml_collections.ConfigDict()
  s.kind = 'label'
  s.policy = 'sft/solution_only'  # that completes; records have its tokens
  s.records = 'search'  # answers, or searches
  # monte_carlo (share of right completions) | math_shepherd (is any right) |
  # progress (its change by a step) | outcome (of the attempts themselves) |
  # td (lambda, on the trees of a search) | oracle (the task's own answer).
  s.source = 'monte_carlo'
  s.num_train = placeholder(int)  # records of train; None: all
  s.num_validation = placeholder(int)
  s.num_rollouts = 16  # completions of a state
  s.num_validation_rollouts = 128
  s.td_lambda = 1.0  # of td
  s.num_states = 32  # completed together
  s.num_slots = placeholder(int)  # completions written together; None: all
  s.max_new_tokens = 32  # of a completion, and of the steps before it, at most
  s.temperature = 1.0
  s.top_k = placeholder(int)  # None: off
  s.top_p = placeholder(float)  # None: off
  s.update(changes)
  return s


def quality(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that says how good values are, beside labels."""
  q = ml_collections.ConfigDict()
  q.kind = 'quality'
  q.judges = ('value',)  # policies with a value head
  q.records = 'labels'  # of a stage label; its validation split
  q.policy = 'sft/solution_only'  # whose likelihood is shown beside
  q.num_records = placeholder(int)  # None: all
  q.max_tokens = 32  # of the steps of a state; longer ones are left out
  q.batch_size = 256  # texts read together
  q.update(changes)
  return q


def evaluate(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that asks policies test problems, and reports."""
  e = ml_collections.ConfigDict()
  e.kind = 'evaluate'
  e.policies = ('sft',)  # a whole stage stands for all that it leaves
  e.problems = 'problems'
  # Test splits, or validation to compare settings; (): all test splits.
  e.splits = ()
  # greedy | samples | revisions | threads | beam | dvts | breadth_first |
  # best_first | depth_first | mcts | particles, and for pretrained models, who
  # are told how to answer, baseline | cot | think | think_3_shot |
  # think_verify; all but greedy see the first split only.
  e.solvers = ('greedy', 'samples')
  e.reference = placeholder(str)  # the policy that others are compared with
  e.start = placeholder(str)  # where reinforcement learning started
  e.teacher = placeholder(str)  # strategies of the teacher, shown beside
  e.num_problems = 1_000  # at most so many of each split
  e.num_curve_problems = 256  # of validation, at every checkpoint; 0: none
  e.curve_solvers = ('greedy',)  # that answer them: greedy, samples
  # Validation problems with whose samples is chosen how best of N goes best by
  # every judge (docs/evaluation.md); 0: nothing is chosen.
  e.num_choice_problems = 0
  e.num_rounds = 1  # of samples; more add to those there are
  # Gammas, such as (1.0, 0.995, 0.99): best of N with the reward gamma to the
  # power of all tokens drawn, times success.
  e.discounts = ()
  # Numbers of tokens, such as (32, 64, 128): success within so many, and the
  # regret; (): neither.
  e.token_grid = ()
  # Who writes all but the last episode of `revisions`: policy, or a search.
  e.exploration = 'policy'
  e.budget = evaluate_groups.budget()
  e.samples = _samples()
  e.search = _search()
  e.episodes = evaluate_groups.revisions()
  e.prompting = evaluate_groups.prompting()
  e.update(changes)
  return e


def figure(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that draws what others left (docs/evaluation.md)."""
  f = ml_collections.ConfigDict()
  f.kind = 'figure'
  # training | verifiers | nodes | compute | questions | values | guides |
  # discounted | within | turns | revised | unsolved | difficulty | attempts |
  # votes | depth | lookahead | table | window | sequential | total.
  f.figure = 'verifiers'
  # Of kind evaluate, or quality. Those of one label whose names differ in their
  # last number alone are seeds of the same.
  f.stages = ('evaluate',)
  f.labels = ()  # of the stages; (): their names
  f.title = ''
  f.update(changes)
  return f


def rl(**changes: Any) -> ml_collections.ConfigDict:
  """Makes a stage that tunes a policy on episodes of its own."""
  r = ml_collections.ConfigDict()
  r.kind = 'rl'
  r.start = 'sft/revisions'  # the policy that is tuned
  r.problems = 'problems'
  # erl2 (the last episode) | rl2 (all) | weighted (between them) | myopic (each
  # for itself) | single (one) | score (erl2, then rl2) | star (imitates what is
  # right) | apa (erl2 by regression on advantages) | qstar (makes the data's
  # solutions likely, without a verifier).
  r.objectives = ('erl2', 'rl2', 'single')  # each is trained
  r.seeds = (0,)  # and each with each of them
  r.num_iterations = 100
  # Iterations that what is learned is behind the policy: 0 | 1 (drawn before
  # the updates before it: the host judges while devices update).
  r.lag = 0
  r.eval_every = 20  # iterations
  r.num_eval_problems = 256
  r.num_eval_samples = 4  # trajectories of each
  r.save_every = 20  # iterations
  r.max_to_keep = placeholder(int)  # checkpoints; None: all
  r.num_kept_rollouts = 8  # of an iteration, in rollouts.jsonl; 0: none
  r.search = _search(outcome='value')  # that explores, if one does
  r.questions = rl_groups.questions()
  r.episodes = rl_groups.episodes()
  r.credit = rl_groups.credit()
  r.loss = rl_groups.loss()
  r.updates = rl_groups.updates()
  r.optimizer = _optimizer()
  r.optimizer.update(dict(
      learning_rate=1e-4, final_fraction=0.1, warmup_steps=5, weight_decay=0.0))
  r.update(changes)
  return r
