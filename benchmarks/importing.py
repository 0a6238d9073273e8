# SPDX-License-Identifier: Apache-2.0
"""Peak host memory of `python -m meta_cot.convert import`.

  python -m benchmarks.importing --layers=6 --width=1024 --shards=6

Makes a checkpoint of a Llama of random numbers in files of equal size, imports
it in a process of its own on CPU devices, and reads that process's memory from
/proc (Linux) until it ends. CPU devices are host memory, so what devices would
hold (`parameter_bytes`) and what the process has before it reads anything
(`base_bytes`) are taken off: `over_bytes` is what an import takes of a host
besides. Pages of the mapped files, which the system takes back whenever it
wants, are counted apart. Prints one JSON line; docs/models.md says what was
measured.
"""

import argparse
from collections.abc import Iterator
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tokenizers

from benchmarks import timing
from configs import models
from meta_cot.model import config as model_config
from meta_cot.model.pretrained import families
from meta_cot.model.pretrained import names
from meta_cot.model.pretrained import shards
from meta_cot.runtime import files
from meta_cot.settings import config as config_lib
from meta_cot.training import policy

_CODE = '''
import sys
from meta_cot import convert
import jax
jax.device_put(0)
print(flush=True)
sys.stdin.readline()
convert.main(sys.argv[1:])
'''


def model(layers: int, width: int) -> model_config.ModelConfig:
  """Makes a Llama with 8,192 tokens and untied embeddings."""
  return config_lib.parse(model_config.ModelConfig, models.get('llama32_1b') | {
      'vocab_size': 8192, 'num_layers': layers, 'embed_dim': width,
      'num_heads': width // 64, 'num_kv_heads': width // 64, 'head_dim': 64,
      'mlp_dim': 4 * width, 'max_length': 1024, 'tie_embeddings': False,
      'value_head': 'none'})


def make(
    folder: pathlib.Path, of: model_config.ModelConfig, num_shards: int
) -> None:
  """Writes a checkpoint of random numbers in float32."""
  raw = families.to_theirs(of)
  rng = np.random.default_rng(0)

  def arrays() -> Iterator[tuple[str, np.ndarray]]:
    for entry in names.entries(of):
      shape = [of.vocab_size if axis == 'V' else dict(
          D=of.embed_dim, N=of.num_heads, H=of.head_dim, M=of.mlp_dim)[axis]
               for axis in entry.axes]
      for layer in range(of.num_layers if '{}' in entry.theirs else 1):
        made = rng.standard_normal(shape, np.float32)
        yield entry.theirs.format(layer), names.to_theirs(entry, made)

  made = files.path(folder)
  shards.write(made, arrays(), max_bytes=4 * of.num_params() // num_shards)
  files.write_json(made / 'config.json', raw | dict(eos_token_id=0))
  vocabulary = tokenizers.Tokenizer(tokenizers.models.BPE())
  vocabulary.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
      add_prefix_space=False)
  vocabulary.decoder = tokenizers.decoders.ByteLevel()
  vocabulary.add_special_tokens(['<|end|>'])
  vocabulary.train_from_iterator([], tokenizers.trainers.BpeTrainer(
      special_tokens=['<|end|>'], show_progress=False,
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
  vocabulary.save(str(folder / 'tokenizer.json'))


def watch(argv: list[str]) -> tuple[dict[str, int], dict[str, int]]:
  """Imports; returns the process's memory before, and its peaks, in bytes.

  Raises:
    UserError: the import failed; its messages are above.
  """
  process = subprocess.Popen(
      [sys.executable, '-c', _CODE, 'import', *argv], text=True,
      stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      env=os.environ | dict(JAX_PLATFORMS='cpu'))
  with process:
    process.stdout.readline()
    before = _memory(process.pid)
    peaks = dict(before)
    process.stdin.write('\n')
    process.stdin.flush()
    while process.poll() is None:
      found = _memory(process.pid)
      peaks = {name: max(x, found.get(name, 0)) for name, x in peaks.items()}
      time.sleep(0.002)
  if process.returncode:
    raise config_lib.UserError(
        f'convert import stopped with exit code {process.returncode}; its '
        'messages are above.')
  return before, peaks


def _memory(process: int) -> dict[str, int]:
  """Bytes of a process's own memory, and of the files it has mapped."""
  lines = pathlib.Path(f'/proc/{process}/status').read_text().splitlines()
  found = dict(line.split(':', 1) for line in lines if ':' in line)
  return {ours: 1024 * int(found[theirs].split()[0]) for ours, theirs in (
      ('own', 'RssAnon'), ('mapped', 'RssFile')) if theirs in found}


def main(argv: list[str] | None = None) -> None:
  """Measures one import and prints its line."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--layers', type=int, default=6)
  parser.add_argument('--width', type=int, default=1024)
  parser.add_argument('--shards', type=int, default=6)
  arguments = parser.parse_args(argv)
  of = model(arguments.layers, arguments.width)
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    make(folder / 'in', of, arguments.shards)
    sizes = [x.stat().st_size for x in (folder / 'in').glob('*.safetensors')]
    before, peaks = watch([
        f'--source={folder / "in"}', f'--output={folder / "policy"}'])
    policy.read(files.path(folder / 'policy'))
  num_bytes = 4 * of.num_params()
  over = peaks['own'] - before['own'] - num_bytes
  print(json.dumps(dict(
      workload='import', parameters=of.num_params(), parameter_bytes=num_bytes,
      files=len(sizes), largest_file_bytes=max(sizes),
      base_bytes=before['own'], peak_bytes=peaks['own'], over_bytes=over,
      mapped_bytes=peaks['mapped'],
      over_per_file=over / max(sizes), **timing.machine())), flush=True)


if __name__ == '__main__':
  main()
