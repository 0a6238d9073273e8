# SPDX-License-Identifier: Apache-2.0
"""Tree search driven from Python over transformers; started by `timing.peer`.

As the libraries for it do (LLM Reasoners, TS-LLM, OpenR, search-and-learn): a
node is an object that holds a text; an expansion is one call of the library's
own `generate` on the whole text, with its cache, for all children; their values
are another pass over the whole texts of the children, all in one batch. A beam
is one call for all its texts; best-first search and MCTS have one leaf at a
time, and all have one problem at a time.

Imports nothing of this project: its weights come in a file.
"""

import dataclasses
import heapq
import json
import math
import sys
import time

import numpy as np
import torch
import transformers


@dataclasses.dataclass
class Node:
  """A text, and what the search knows of it."""

  tokens: list[int]  # of the whole text
  depth: int
  value: float
  log_prob: float = 0.0  # of the last step
  index: int = 0  # order of creation
  parent: 'Node | None' = None
  children: 'list[Node]' = dataclasses.field(default_factory=list)
  visits: int = 0
  q_value: float = 0.0


class Model:
  """A Llama with a value head, as a policy and as a judge of texts."""

  def __init__(self, settings: dict):
    weights = {
        name: torch.from_numpy(array)
        for name, array in np.load(settings['weights']).items()}
    config = transformers.LlamaConfig(
        vocab_size=settings['vocab_size'], hidden_size=settings['embed_dim'],
        intermediate_size=settings['mlp_dim'],
        num_hidden_layers=settings['num_layers'],
        num_attention_heads=settings['num_heads'],
        num_key_value_heads=settings['num_kv_heads'],
        head_dim=settings['head_dim'], rms_norm_eps=settings['norm_epsilon'],
        max_position_embeddings=settings['max_length'],
        rope_parameters=dict(
            rope_type='default', rope_theta=settings['rope_theta']),
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
        pad_token_id=None)
    self._value_kernel = weights.pop('value.kernel')[:, 0]
    self._value_bias = weights.pop('value.bias')[0]
    self._model = transformers.LlamaForCausalLM(config)
    self._model.load_state_dict(
        weights | {'lm_head.weight': weights['model.embed_tokens.weight']})
    self._model.eval()

  def values(self, texts: list[list[int]]) -> list[float]:
    """Read from the last token of texts of equal length."""
    hidden = self._model.model(
        torch.tensor(texts), use_cache=False).last_hidden_state[:, -1]
    return torch.sigmoid(
        hidden @ self._value_kernel + self._value_bias).tolist()

  def continuations(
      self, texts: list[list[int]], number: int, length: int,
      has_log_probs: bool,
  ) -> tuple[list[list[int]], list[float]]:
    """`number` sampled steps behind every text, and their log-probs."""
    inputs = torch.tensor(texts)
    found = self._model.generate(
        inputs, attention_mask=torch.ones_like(inputs), do_sample=True,
        top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=length,
        min_new_tokens=length, num_return_sequences=number, pad_token_id=0,
        use_cache=True, return_dict_in_generate=True,
        output_scores=has_log_probs)
    steps = found.sequences[:, inputs.shape[1]:]
    log_probs = [0.0] * len(steps)
    if has_log_probs:
      log_probs = self._model.compute_transition_scores(
          found.sequences, found.scores,
          normalize_logits=True).sum(dim=1).tolist()
    return steps.tolist(), log_probs

  def log_prob(self, text: list[int], step: list[int]) -> float:
    """Of a step behind a text, from a pass over both."""
    logits = self._model(torch.tensor([text + step])).logits[0]
    log_probs = torch.log_softmax(logits[len(text) - 1:-1], dim=-1)
    return sum(log_probs[i, token].item() for i, token in enumerate(step))


class Search:
  """One problem: the tree of its texts."""

  def __init__(self, model: Model, settings: dict, prompt: list[int]):
    self._model, self._settings = model, settings
    self.root = Node(prompt, 0, model.values([prompt])[0])
    self.nodes = [self.root]

  def expand(self, leaves: list[Node], has_log_probs: bool = False) -> None:
    """Gives every leaf its children."""
    number = self._settings['branching']
    steps, log_probs = self._model.continuations(
        [leaf.tokens for leaf in leaves], number,
        self._settings['step_length'], has_log_probs)
    parents = [leaf for leaf in leaves for _ in range(number)]
    texts = [leaf.tokens + step for leaf, step in zip(parents, steps)]
    values = self._model.values(texts)
    for leaf, text, value, log_prob in zip(parents, texts, values, log_probs):
      child = Node(
          text, leaf.depth + 1, value, log_prob, len(self.nodes), leaf,
          q_value=value)
      leaf.children.append(child)
      self.nodes.append(child)

  def beam(self) -> None:
    """Level by level, the children with the highest values."""
    level = [self.root]
    for _ in range(self._settings['max_depth']):
      self.expand(level)
      children = [child for leaf in level for child in leaf.children]
      children.sort(key=lambda child: (-child.value, child.index))
      level = children[:self._settings['beam_width']]

  def best_first(self) -> None:
    """The leaf with the highest value, again and again."""
    frontier = [(-self.root.value, 0)]
    for _ in range(self._settings['expansions']):
      if not frontier:
        return
      leaf = self.nodes[heapq.heappop(frontier)[1]]
      self.expand([leaf])
      for child in leaf.children:
        if child.depth < self._settings['max_depth']:
          heapq.heappush(frontier, (-child.value, child.index))

  def puct(self) -> None:
    """MCTS: down by `_best_by_puct`, the leaf's value up."""
    for _ in range(self._settings['expansions']):
      node = self.root
      while node.children:
        node = _best_by_puct(node)
      if node.depth < self._settings['max_depth']:
        self.expand([node], has_log_probs=True)
      value = node.value
      while node is not None:
        node.visits += 1
        node.q_value += (value - node.q_value) / node.visits
        node = node.parent


def _best_by_puct(node: Node) -> Node:
  """The child with the highest Q + P sqrt(N) / (1 + n), the first of equals."""
  top = max(child.log_prob for child in node.children)
  weights = [math.exp(child.log_prob - top) for child in node.children]
  scale = math.sqrt(node.visits) / sum(weights)
  scores = [
      child.q_value + weight * scale / (1 + child.visits)
      for child, weight in zip(node.children, weights)]
  return node.children[scores.index(max(scores))]


def search(model: Model, settings: dict, prompt: list[int]) -> list[Node]:
  """All nodes of one search, in the order of their creation."""
  found = Search(model, settings, prompt)
  rules = dict(beam=found.beam, best_first=found.best_first, puct=found.puct)
  rules[settings['strategy']]()
  return found.nodes


def main() -> None:
  """Searches once, says what it found, then times a call per line on stdin."""
  answers, sys.stdout = sys.stdout, sys.stderr
  settings = json.loads(sys.argv[1])
  say = lambda value: print(json.dumps(value), file=answers, flush=True)
  with torch.inference_mode():
    model = Model(settings)
    prompts = np.load(settings['prompts']).tolist()
    num_nodes = len(search(model, settings, prompts[0])) - 1
    say(dict(
        torch=torch.__version__, transformers=transformers.__version__,
        threads=torch.get_num_threads(), children_per_problem=num_nodes,
        tokens_per_problem=num_nodes * settings['step_length']))
    for _ in sys.stdin:
      start, cpu_start = time.perf_counter(), time.process_time()
      for prompt in prompts:
        search(model, settings, prompt)
      say(dict(
          seconds=time.perf_counter() - start,
          cpu_seconds=time.process_time() - cpu_start))


if __name__ == '__main__':
  main()
