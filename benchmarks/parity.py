# SPDX-License-Identifier: Apache-2.0
"""A real checkpoint here against transformers on the same weights, float32.

  python -m benchmarks.parity --model=FOLDER|FILE.gguf --texts=gsm8k.jsonl
      [--policy=POLICY_FOLDER]

The model is imported, or read from POLICY_FOLDER, an earlier import. Prints
one JSON line a law and exits with 1 where one fails:

  forward     logits of texts read at once
  cached      the same of a prefill, a piece behind it, then single tokens
  long        `forward` of longer texts, behind a sliding window; long_cached
  greedy      texts written behind prompts of different lengths, token by token
  ids         tokens of every question and answer, those of the reference
  round_trip  every question and answer comes back from its tokens
  control     no text of a user becomes a control token

Texts are lines of JSON with `question` and `answer`.
"""

import argparse
from collections.abc import Iterator, Sequence
import functools
import json
import pathlib
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines import tokenizers as tokenizers_lib
from meta_cot import convert
from meta_cot import decode
from meta_cot import sharding
from meta_cot.model import cache as cache_lib
from meta_cot.model import transformer
from meta_cot.model.pretrained import gguf as gguf_lib
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.solvers import base
from meta_cot.training import policy as policy_lib

_SINGLE = 8  # tokens that are read one by one
_LIMIT = 5e-4  # of differences of logits


class Reference(NamedTuple):
  """The tokenizer that transformers makes of a checkpoint."""

  tokenizer: Any  # of the package tokenizers
  is_cut: bool  # digits are to be cut off first: GGUF has lost it


def read_tokenizer(path: pathlib.Path) -> Reference:
  """Reads that of a checkpoint's folder, or of a GGUF file."""
  if path.suffix != gguf_lib.SUFFIX:
    import tokenizers
    return Reference(
        tokenizers.Tokenizer.from_file(str(path / 'tokenizer.json')), False)
  import gguf
  import transformers
  pre = gguf.GGUFReader(path).fields.get('tokenizer.ggml.pre')
  return Reference(
      transformers.AutoTokenizer.from_pretrained(
          str(path.parent), gguf_file=path.name).backend_tokenizer,
      pre is not None and pre.contents() == 'smollm')


def read_model(path: pathlib.Path, is_tied: bool) -> Any:
  """Reads the model with transformers alone, float32."""
  import torch
  import transformers
  place = dict(pretrained_model_name_or_path=str(path))
  if path.suffix == gguf_lib.SUFFIX:
    place = dict(
        pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
  settings = transformers.AutoConfig.from_pretrained(**place)
  settings.tie_word_embeddings = is_tied
  return transformers.AutoModelForCausalLM.from_pretrained(
      **place, config=settings, dtype=torch.float32,
      attn_implementation='eager').eval()


def ours(policy: policy_lib.Policy) -> base.Policy:
  """Reads a policy whole, onto the first device."""
  mesh = sharding.make_mesh(sharding.MeshConfig(1, 1, 1), jax.devices()[:1])
  return base.Policy(
      '', policy.model, policy.params(mesh), policy.tokenizer(), policy.style)


def logits_of(
    mine: base.Policy, tokens_L: np.ndarray
) -> Iterator[tuple[int, int, np.ndarray]]:
  """Reads a text at once, then with a cache.

  Yields:
    0 or 1 (the cache), where the piece begins, and its logits [any, V]. All of
    them at once would take much memory.
  """
  model, length = mine.model, len(tokens_L)
  tokens_1xL = jnp.asarray(tokens_L, jnp.int32)[None]
  yield 0, 0, np.asarray(_forward(model, mine.params, tokens_1xL).logits[0])
  ends = [0, length // 2, length - _SINGLE, *range(
      length - _SINGLE + 1, length + 1)]
  cache = cache_lib.create(model, 1, length)
  for start, stop in zip(ends, ends[1:]):
    output = _decode(
        model, mine.params, tokens_1xL[:, start:stop], cache,
        positions_BxL=jnp.arange(start, stop, dtype=jnp.int32)[None],
        is_prefill=not start)
    cache = output.cache
    yield 1, start, np.asarray(output.logits[0])


_forward = jax.jit(transformer.forward, static_argnums=0)
_decode = jax.jit(
    transformer.decode, static_argnums=0, static_argnames='is_prefill')


def logits_rows(
    mine: base.Policy, theirs: Any, texts: Sequence[Sequence[int]],
    names: tuple[str, str],
) -> Iterator[dict[str, Any]]:
  """Compares all logits of texts of one length, at once and cached."""
  import torch
  largest, unequal = np.zeros(2), np.zeros(2, int)
  for text in texts:
    with torch.no_grad():
      want_LxV = theirs(torch.tensor([text])).logits[0].numpy()
    for i, start, got in logits_of(mine, np.array(text)):
      want = want_LxV[start:start + len(got)]
      largest[i] = np.maximum(largest[i], np.abs(got - want).max())  # or NaN
      unequal[i] += np.sum(got.argmax(-1) != want.argmax(-1))
  for name, difference, wrong in zip(names, largest, unequal):
    yield dict(
        law=name, texts=len(texts), tokens=len(texts[0]), limit=_LIMIT,
        largest_difference=float(difference), other_argmax=int(wrong),
        holds=bool(difference <= _LIMIT and not wrong))


def greedy_row(
    mine: base.Policy, theirs: Any, prompts: Sequence[Sequence[int]],
    num_new: int,
) -> dict[str, Any]:
  """Compares what both write behind prompts of different lengths."""
  import torch
  tokenizer, width = mine.tokenizer, max(map(len, prompts))
  padded = lambda is_left: np.array([
      [tokenizer.pad_id] * (width - len(p)) * is_left + [*p]
      + [tokenizer.pad_id] * (width - len(p)) * (not is_left)
      for p in prompts], np.int32)
  done = jax.jit(functools.partial(
      decode.generate, mine.model, max_new_tokens=num_new,
      sampling=decode.Sampling(0.0), eos_ids=tokenizer.eos_ids,
      pad_id=tokenizer.pad_id))(
          mine.params, padded(False), np.array([*map(len, prompts)], np.int32),
          jax.random.key(0))
  mask = np.array([
      [0] * (width - len(p)) + [1] * len(p) for p in prompts])
  with torch.no_grad():
    found = theirs.generate(
        torch.tensor(padded(True), dtype=torch.long),
        attention_mask=torch.tensor(mask), do_sample=False,
        max_new_tokens=num_new, eos_token_id=list(tokenizer.eos_ids),
        pad_token_id=tokenizer.pad_id).numpy()[:, width:]
  lengths = np.asarray(done.lengths)
  unequal = sum(
      got[:n].tolist() != want[:n].tolist()
      for got, want, n in zip(np.asarray(done.tokens), found, lengths))
  return dict(
      law='greedy', texts=len(prompts), tokens=int(lengths.sum()),
      shortest_prompt=min(map(len, prompts)), longest_prompt=width,
      other_texts=unequal, holds=not unequal)


def tokenizer_rows(
    tokenizer: tokenizers_lib.Tokenizer, theirs: Reference,
    texts: Sequence[str],
) -> Iterator[dict[str, Any]]:
  """Checks the laws of the tokenizer on texts."""
  ids = [tokenizer.encode(text) for text in texts]
  wrong = sum(
      found != _reference_ids(theirs, text) for found, text in zip(ids, texts))
  yield dict(law='ids', texts=len(texts), tokens=sum(map(len, ids)),
             other_texts=wrong, holds=not wrong)
  lost = sum(
      tokenizer.decode(found) != text for found, text in zip(ids, texts))
  yield dict(
      law='round_trip', texts=len(texts), other_texts=lost, holds=not lost)
  control = {
      i: token.content for i, token in
      theirs.tokenizer.get_added_tokens_decoder().items() if token.special}
  around = len(tokenizer.encode_prompt(''))
  injected = 0
  for name in control.values():
    said = f'{texts[0]}{name} {name}\n{name}{texts[-1]}'
    asked = tokenizer.encode_prompt(said)
    injected += bool(control.keys() & {*tokenizer.encode(said)}) or (
        tokenizer.decode(tokenizer.encode(said)) != said) or (
            len(asked) != around + len(tokenizer.encode(said)))
  caught = sum(
      i in theirs.tokenizer.encode(name, add_special_tokens=False).ids
      for i, name in control.items())
  yield dict(  # the reference takes names for tokens: there is what to refuse
      law='control', names=len(control), taken_by_reference=caught,
      injected=injected, holds=not injected and caught == len(control) > 0)


def _reference_ids(theirs: Reference, text: str) -> list[int]:
  pieces, encode = [text], functools.partial(
      theirs.tokenizer.encode, add_special_tokens=False)
  if theirs.is_cut:
    pieces = ''.join(
        f'\0{c}\0' if c.isnumeric() else c for c in text).split('\0')
  return [i for piece in pieces for i in encode(piece).ids]


def run(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
  """Imports the checkpoint where need be, and checks law by law.

  Raises:
    UserError: the checkpoint cannot be read, or texts are too few.
  """
  path = pathlib.Path(arguments.model)
  with open(arguments.texts, encoding='utf-8') as file:
    lines = [json.loads(line) for line in file]
  with tempfile.TemporaryDirectory() as folder:
    if not arguments.policy:
      convert.import_checkpoint(
          files.path(path), files.path(folder), style='prose', prompt='text',
          dtype='float32')
    policy = policy_lib.read(files.path(arguments.policy or folder))
    yield from tokenizer_rows(
        policy.tokenizer(), read_tokenizer(path), [
            line[name] for line in lines for name in ('question', 'answer')])
    mine = ours(policy)
  theirs = read_model(path, mine.model.tie_embeddings)
  encode = mine.tokenizer.encode_prompt
  number, tokens = arguments.num_texts, [
      encode(f'{line["question"]}\n{line["answer"]}\n\n') for line in lines]
  flat = [i for text in tokens for i in text]
  some = [text[:arguments.length] for text in tokens
          if len(text) >= arguments.length][:number]
  long = [flat[start:start + arguments.long_length]
          for start in range(0, len(flat), arguments.long_length)][:2]
  if len(some) < number or len(flat) < 2 * arguments.long_length:
    raise config_lib.UserError(
        f'--texts: {arguments.texts} has {len(some)} texts of '
        f'{arguments.length} tokens and {len(flat)} tokens in all; must have '
        f'{number}, and {2 * arguments.long_length}.')
  yield from logits_rows(mine, theirs, some, ('forward', 'cached'))
  yield from logits_rows(mine, theirs, long, ('long', 'long_cached'))
  yield greedy_row(
      mine, theirs, [encode(line['question']) for line in lines[:number]],
      arguments.new_tokens)


def _parser() -> argparse.ArgumentParser:
  flags = argparse.ArgumentParser(
      description=__doc__,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  flags.add_argument('--model', required=True, help='folder or GGUF file')
  flags.add_argument('--texts', required=True, help='questions and answers')
  flags.add_argument('--policy', help='an import of the model')
  flags.add_argument('--num-texts', type=int, default=20)
  flags.add_argument('--length', type=int, default=128, help='tokens of a text')
  flags.add_argument('--long-length', type=int, default=700)
  flags.add_argument('--new-tokens', type=int, default=40)
  return flags


def main(argv: list[str] | None = None) -> int:
  """Prints the rows; returns 1 where a law fails, else 0."""
  arguments, holds = _parser().parse_args(argv), True
  for row in run(arguments):
    holds &= row['holds']
    print(json.dumps(dict(model=pathlib.Path(arguments.model).name) | row),
          flush=True)
  return int(not holds)


if __name__ == '__main__':
  sys.exit(main())
