# SPDX-License-Identifier: Apache-2.0
"""The workloads in Tunix; started by `timing.peer`.

Runs under the interpreter of an environment with google-tunix, so it imports
nothing of this project. Training is the jitted step of its `PeftTrainer` with
every parameter trained; decoding is its `Sampler`; a step of reinforcement
learning is one of its `GRPOLearner`. Same shapes, random weights.
"""

from concurrent import futures
import importlib.metadata
import json
import queue
import sys
import time

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tunix.generate import sampler as sampler_lib
from tunix.models.llama3 import model as llama
from tunix.rl import rl_cluster
from tunix.rl.grpo import grpo_learner
from tunix.rl.rollout import base_rollout
from tunix.sft import peft_trainer

_PAD, _EOS, _BOS = 1_000_001, 1_000_000, None  # no token has these ids


class _Words:
  """A tokenizer whose texts are numbers: the prompt '3 1 4' is [3, 1, 4]."""

  def encode(self, text: str) -> list[int]:
    return [int(word) for word in text.split()]

  def decode(self, ids: list[int]) -> str:
    return ' '.join(map(str, ids))

  def bos_id(self) -> None:
    return _BOS

  def eos_id(self) -> int:
    return _EOS

  def pad_id(self) -> int:
    return _PAD


def make_model(settings: dict) -> llama.Llama3:
  """A Llama of these shapes; its feed-forward layers start at zero."""
  config = llama.ModelConfig(
      num_layers=settings['num_layers'],
      vocab_size=settings['vocab_size'],
      embed_dim=settings['embed_dim'],
      hidden_dim=settings['mlp_dim'],
      num_heads=settings['num_heads'],
      head_dim=settings['head_dim'],
      num_kv_heads=settings['num_kv_heads'],
      rope_theta=settings['rope_theta'],
      norm_eps=settings['norm_epsilon'],
      weight_tying=True)
  model = llama.Llama3(config, rngs=nnx.Rngs(0))
  noise = np.random.default_rng(0)
  dtype = settings['dtype'] if settings['workload'] == 'decode' else 'float32'
  state = jax.tree.map(
      lambda x: jnp.asarray(
          0.02 * noise.standard_normal(x.shape) if x.ndim > 1 else x, dtype),
      nnx.state(model))
  nnx.update(model, state)
  return model


def make_optimizer(settings: dict) -> optax.GradientTransformation:
  """AdamW with clipping."""
  if settings['dtype'] != 'float32':
    raise SystemExit('error: dtype: Tunix trains in the type of its '
                     'parameters; use --dtype=float32.')
  return optax.chain(
      optax.clip_by_global_norm(settings['clip_norm']),
      optax.adamw(
          settings['learning_rate'], b1=settings['b1'], b2=settings['b2'],
          eps=settings['epsilon'], weight_decay=settings['weight_decay']))


def train(settings: dict):
  """One AdamW update."""
  trainer = peft_trainer.PeftTrainer(
      make_model(settings), make_optimizer(settings),
      peft_trainer.TrainingConfig(eval_every_n_steps=10**9))
  shape = settings['rows'], settings['length']
  length = settings['length']
  tokens_BxL = np.random.default_rng(0).integers(
      0, settings['vocab_size'], shape)
  batch = jax.device_put(dict(
      input_tokens=tokens_BxL.astype(np.int32),
      input_mask=np.ones(shape, bool),
      positions=np.tile(np.arange(length, dtype=np.int32), (shape[0], 1)),
      attention_mask=np.tile(
          np.tril(np.ones((length, length), bool)), (shape[0], 1, 1))))
  # What `train` calls for every batch, without its logging.
  step, _ = trainer.jit_train_and_eval_step(cache_nnx_graph=True)

  def call():
    loss = step(batch)[0]
    # The loss is ready before the parameters are.
    jax.block_until_ready(nnx.state(trainer.model))
    return float(loss)

  return call


def decode(settings: dict):
  """One call of the sampler; no row ends early."""
  sampler = sampler_lib.Sampler(
      make_model(settings), _Words(), sampler_lib.CacheConfig(
          cache_size=settings['prompt'] + settings['new_tokens'],
          num_layers=settings['num_layers'],
          num_kv_heads=settings['num_kv_heads'],
          head_dim=settings['head_dim']))
  prompts_BxP = np.random.default_rng(0).integers(
      0, settings['vocab_size'], (settings['rows'], settings['prompt']))
  texts = [' '.join(map(str, row)) for row in prompts_BxP]

  def call():
    output = sampler(
        texts, max_generation_steps=settings['new_tokens'],
        max_prompt_length=settings['prompt'], temperature=1.0, top_p=1.0,
        seed=1)
    assert all(len(t) == settings['new_tokens'] for t in output.tokens)

  return call


def make_learner(settings: dict, reward) -> grpo_learner.GRPOLearner:
  """GRPO with one update on all completions of a step."""
  questions, prompt = settings['questions'], settings['prompt']
  mesh = jax.make_mesh(
      (1, 1), ('fsdp', 'tp'), devices=jax.devices()[:1],
      axis_types=(jax.sharding.AxisType.Auto,) * 2)
  roles = rl_cluster.Role
  cluster = rl_cluster.RLCluster(
      actor=make_model(settings),
      reference=make_model(settings) if settings['beta'] else None,
      tokenizer=_Words(),
      cluster_config=rl_cluster.ClusterConfig(
          role_to_mesh=dict.fromkeys(
              (roles.ACTOR, roles.REFERENCE, roles.ROLLOUT), mesh),
          training_config=rl_cluster.RLTrainingConfig(
              actor_optimizer=make_optimizer(settings),
              eval_every_n_steps=10**9, max_steps=10**9,
              mini_batch_size=questions, train_micro_batch_size=questions),
          rollout_config=base_rollout.RolloutConfig(
              max_tokens_to_generate=settings['new_tokens'],
              max_prompt_length=prompt,
              kv_cache_size=prompt + settings['new_tokens'],
              temperature=1.0, top_p=1.0)))
  return grpo_learner.GRPOLearner(
      cluster, grpo_learner.GRPOConfig(
          num_generations=settings['samples'], beta=settings['beta'],
          kl_loss_mode='low_var_kl', epsilon=settings['clip']),
      reward)


def rl(settings: dict):
  """One GRPO step: the learner asks for a batch once it is done with one."""
  turns, done = queue.SimpleQueue(), queue.SimpleQueue()
  num_drawn = 0

  def even(prompts, completions: list[str], **_) -> list[float]:
    """The reward: the share of even tokens."""
    nonlocal num_drawn
    rows = [list(map(int, text.split())) for text in completions]
    num_drawn = sum(map(len, rows))
    return [sum(t % 2 == 0 for t in row) / len(row) for row in rows]

  learner = make_learner(settings, even)
  tokens_QxP = np.random.default_rng(0).integers(
      0, settings['vocab_size'], (settings['questions'], settings['prompt']))

  prompts_Q = np.array([' '.join(map(str, row)) for row in tokens_QxP])

  def batches():
    while True:
      turns.get()
      yield dict(prompts=prompts_Q)
      jax.block_until_ready(nnx.state(learner.rl_cluster.actor_trainer.model))
      done.put(None)

  running = futures.ThreadPoolExecutor(1).submit(learner.train, batches())

  running.add_done_callback(done.put)

  def call():
    turns.put(None)
    if done.get() is not None:  # it should never end
      running.result()
      raise SystemExit('error: the learner stopped.')
    assert num_drawn == (
        settings['questions'] * settings['samples'] * settings['new_tokens'])

  return call


def main() -> None:
  """Prints versions, then answers every line on stdin with a cost."""
  answers, sys.stdout = sys.stdout, sys.stderr
  settings = json.loads(sys.argv[1])
  make = dict(train=train, decode=decode, rl=rl)[settings['workload']]
  call = make(settings)
  say = lambda value: print(json.dumps(value), file=answers, flush=True)
  say(dict(
      tunix=importlib.metadata.version('google-tunix'), jax=jax.__version__))
  for _ in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    call()
    say(dict(
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start))


if __name__ == '__main__':
  main()
