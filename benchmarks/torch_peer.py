# SPDX-License-Identifier: Apache-2.0
"""The workloads in transformers on torch; started by `timing.peer`.

Runs under the interpreter of an environment that has both, so it imports
nothing of this project. Same shapes, random weights, AdamW fused and clipped;
sampling from the whole distribution with the library's own `generate`.
"""

import json
import sys
import time

import torch
import transformers


def make_model(settings: dict) -> transformers.LlamaForCausalLM:
  """A Llama of these shapes."""
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
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
      pad_token_id=None)
  return transformers.LlamaForCausalLM(config)


def train(settings: dict):
  """One AdamW update."""
  model = make_model(settings)
  model.train()
  update = torch.optim.AdamW(
      model.parameters(), lr=settings['learning_rate'],
      betas=(settings['b1'], settings['b2']), eps=settings['epsilon'],
      weight_decay=settings['weight_decay'], fused=True)
  tokens = torch.randint(
      0, settings['vocab_size'], (settings['rows'], settings['length']))
  is_half = settings['dtype'] == 'bfloat16'

  def call():
    with torch.autocast('cpu', torch.bfloat16, enabled=is_half):
      loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings['clip_norm'])
    update.step()
    update.zero_grad(set_to_none=True)
    return loss.item()

  return call


def decode(settings: dict):
  """One call of the sampler; no row ends early."""
  model = make_model(settings).to(getattr(torch, settings['dtype'])).eval()
  new_tokens, samples = settings['new_tokens'], settings['samples']
  prompts = torch.randint(
      0, settings['vocab_size'],
      (settings['rows'] // samples, settings['prompt']))

  def call():
    with torch.inference_mode():
      tokens = model.generate(
          prompts, attention_mask=torch.ones_like(prompts), do_sample=True,
          top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=new_tokens,
          min_new_tokens=new_tokens, num_return_sequences=samples,
          pad_token_id=0)
    assert tokens.shape == (
        settings['rows'], settings['prompt'] + new_tokens)

  return call


def main() -> None:
  """Prints versions, then answers every line on stdin with a cost."""
  answers, sys.stdout = sys.stdout, sys.stderr
  settings = json.loads(sys.argv[1])
  call = dict(train=train, decode=decode)[settings['workload']](settings)
  say = lambda value: print(json.dumps(value), file=answers, flush=True)
  say(dict(
      torch=torch.__version__, transformers=transformers.__version__,
      threads=torch.get_num_threads()))
  for _ in sys.stdin:
    start, cpu_start = time.perf_counter(), time.process_time()
    call()
    say(dict(
        seconds=time.perf_counter() - start,
        cpu_seconds=time.process_time() - cpu_start))


if __name__ == '__main__':
  main()
