# SPDX-License-Identifier: Apache-2.0
"""The GRPO step in TRL on torch; started by `timing.peer`.

Runs under the interpreter of an environment with trl, so it imports nothing of
this project. `GRPOTrainer` in float32 with the library's own `generate`, fused
AdamW and no gradient checkpointing, which would cost time. Same shapes, random
weights; the tokenizer's texts are numbers, and no token ends a text.
"""

import importlib.metadata
import json
import sys
import tempfile
import time

import datasets
import tokenizers
import torch
import transformers
import trl


def make_tokenizer(settings: dict) -> transformers.PreTrainedTokenizerFast:
  """The text '3 1 4' is [3, 1, 4]; special tokens are not the model's."""
  specials = '<pad>', '<eos>', '<unk>'
  words = *map(str, range(settings['vocab_size'])), *specials
  tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {word: i for i, word in enumerate(words)}, unk_token='<unk>'))
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  return transformers.PreTrainedTokenizerFast(
      tokenizer_object=tokenizer, pad_token='<pad>', eos_token='<eos>',
      unk_token='<unk>', padding_side='left')


def save_model(settings: dict, folder: str) -> None:
  """A Llama of these shapes, where policy and reference find it."""
  torch.manual_seed(0)
  transformers.LlamaForCausalLM(transformers.LlamaConfig(
      vocab_size=settings['vocab_size'],
      hidden_size=settings['embed_dim'],
      intermediate_size=settings['mlp_dim'],
      num_hidden_layers=settings['num_layers'],
      num_attention_heads=settings['num_heads'],
      num_key_value_heads=settings['num_kv_heads'],
      head_dim=settings['head_dim'],
      rms_norm_eps=settings['norm_epsilon'],
      rope_parameters=dict(
          rope_type='default', rope_theta=settings['rope_theta']),
      tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
      pad_token_id=None)).save_pretrained(folder)


def make_config(settings: dict, folder: str) -> trl.GRPOConfig:
  """One update on all completions of a step."""
  return trl.GRPOConfig(
      output_dir=folder, use_cpu=True, bf16=False, gradient_checkpointing=False,
      model_init_kwargs=dict(dtype='float32'),
      per_device_train_batch_size=settings['questions'] * settings['samples'],
      gradient_accumulation_steps=1, num_generations=settings['samples'],
      max_completion_length=settings['new_tokens'], temperature=1.0,
      beta=settings['beta'], epsilon=settings['clip'],
      loss_type='grpo', scale_rewards='group', shuffle_dataset=False,
      pad_to_multiple_of=None, max_steps=10**9,
      learning_rate=settings['learning_rate'], lr_scheduler_type='constant',
      adam_beta1=settings['b1'], adam_beta2=settings['b2'],
      adam_epsilon=settings['epsilon'],
      weight_decay=settings['weight_decay'],
      max_grad_norm=settings['clip_norm'], optim='adamw_torch_fused',
      save_strategy='no', logging_strategy='no', report_to='none',
      disable_tqdm=True, dataloader_pin_memory=False)


class Turns(transformers.TrainerCallback):
  """A step for every line on stdin, answered with what it took."""

  def __init__(self, say, num_tokens: int):
    self._say, self._num_tokens = say, num_tokens
    self._start = self._cpu_start = 0.0
    self.num_drawn = 0

  def even(self, completion_ids: list[list[int]], **_) -> list[float]:
    """The reward: the share of even tokens."""
    self.num_drawn = sum(map(len, completion_ids))
    return [sum(t % 2 == 0 for t in x) / len(x) for x in completion_ids]

  def on_step_begin(self, args, state, control, **_):
    if not sys.stdin.readline():
      sys.exit()
    self._start, self._cpu_start = time.perf_counter(), time.process_time()

  def on_step_end(self, args, state, control, **_):
    cost = dict(
        seconds=time.perf_counter() - self._start,
        cpu_seconds=time.process_time() - self._cpu_start)
    assert self.num_drawn == self._num_tokens
    self._say(cost)


def main() -> None:
  """Prints versions, then answers every line on stdin with a cost."""
  answers, sys.stdout = sys.stdout, sys.stderr
  settings = json.loads(sys.argv[1])
  if settings['dtype'] != 'float32':
    sys.exit('error: dtype: this peer runs in float32; use --dtype=float32.')
  say = lambda value: print(json.dumps(value), file=answers, flush=True)
  turns = Turns(
      say, settings['questions'] * settings['samples'] * settings['new_tokens'])
  tokens_QxP = torch.randint(
      0, settings['vocab_size'], (settings['questions'], settings['prompt']))
  prompts = [' '.join(map(str, row)) for row in tokens_QxP.tolist()]
  with tempfile.TemporaryDirectory() as folder:
    save_model(settings, folder)
    trainer = trl.GRPOTrainer(
        model=folder, reward_funcs=turns.even,
        args=make_config(settings, folder),
        train_dataset=datasets.Dataset.from_dict(dict(prompt=prompts)),
        processing_class=make_tokenizer(settings), callbacks=[turns])
    say(dict(
        trl=importlib.metadata.version('trl'), torch=torch.__version__,
        transformers=transformers.__version__,
        threads=torch.get_num_threads()))
    trainer.train()


if __name__ == '__main__':
  main()
