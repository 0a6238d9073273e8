# SPDX-License-Identifier: Apache-2.0
"""Reading any text: strict reading is tolerant reading without a fault."""

import dataclasses

import hypothesis
from hypothesis import strategies as st
import pytest

from meta_cot import traces
from meta_cot.tasks import countdown
from meta_cot.traces import arithmetic
from meta_cot.traces import format as format_lib
from meta_cot.traces.arithmetic import teacher

_STRATEGIES = (
    *(strategy for strategy, _ in teacher.STREAM_OF_SEARCH.values()),
    dataclasses.replace(teacher.COMPACT, max_value=60))


@hypothesis.given(st.text(alphabet='0123456789+-*/=,;x!S@>: ', max_size=60))
def test_parse_raises_only_value_errors(text):
  for prefix in ('', '20,1,9>28:', '20,1,9>28:9+1=10,20;'):
    for style in arithmetic.STYLES:
      try:
        events = traces.parse(prefix + text, style)
      except ValueError as e:
        assert '\n' not in str(e)
      else:
        assert traces.render(events, style) == prefix + text


_PIECES = (
    '0', '7', ',', ';', 'x', '!', 'S', '@0;', '@1;', 'x@1;', '+30', '9-1=8',
    '\n', ' ', 'No solution found.', 'Moving to Node #0,0\n',
    'Generated Node #2: [20, 8] from Operation: 9-1=8\n',
    '28,28 equal: Goal Reached\n', "Current State: 28:[20, 8], Operations: []")


@st.composite
def _texts(draw, style, max_changes=3):
  """A valid text and what becomes of it after some changes."""
  problem = countdown.make_problem(*draw(st.sampled_from([
      ([20, 1, 9], 28), ([4, 6], 24), ([4, 9, 3], 24), ([2, 2, 5], 60)])))
  strategy = dataclasses.replace(
      draw(st.sampled_from(_STRATEGIES)),
      operands='descending')
  events = traces.linearize(teacher.search(problem, strategy, 0))
  is_solved = isinstance(events[-1], traces.Answer)
  # With two numbers a solution reads like a search of one step.
  is_search = len(problem.data['numbers']) == 2 or draw(st.booleans())
  if is_solved and not is_search:
    events = (events[0], events[-1])
  valid = text = traces.render(events, style)
  for _ in range(draw(st.integers(1, max_changes))):
    start = draw(st.integers(0, len(text)))
    end = min(len(text), start + draw(st.sampled_from([0, 1, 2, 30, 9999])))
    piece = draw(st.sampled_from(('', *_PIECES)))
    text = text[:start] + piece + text[end:]
  return events, valid, text


@pytest.mark.parametrize('style', arithmetic.STYLES)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_strict_is_tolerant_without_a_fault(style, data):
  events, valid, text = data.draw(_texts(style))
  whole = format_lib.read(valid, style)
  assert not whole.faults
  if style.startswith('compact'):
    events = tuple(
        e for e in events if not isinstance(e, traces.Exhausted))
  assert whole.events == events
  is_solved = isinstance(events[-1], traces.Answer)
  assert whole.answer == (events[-1].text if is_solved else None)
  reading = format_lib.read(text, style)
  assert all(0 <= fault.position <= len(text) for fault in reading.faults)
  faults = [fault for fault in reading.faults if fault.is_grammar]
  try:
    events = traces.parse(text, style)
  except ValueError as e:
    assert str(e).startswith(f'position {faults[0].position} (line ')
  else:
    assert not faults and events == reading.events
    assert traces.render(events, style) == text


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_the_fault_of_a_sentence_is_found_there_or_in_the_next(data):
  _, valid, _ = data.draw(_texts('stream_of_search'))
  lines = valid.split('\n')
  line = data.draw(st.integers(1, len(lines) - 1))
  at = data.draw(st.integers(0, max(len(lines[line]) - 1, 0)))
  new = data.draw(st.sampled_from('0123456789,[x'))
  lines[line] = lines[line][:at] + new + lines[line][at + 1:]
  text = '\n'.join(lines)
  # What an operation is, only a later line may contradict.
  last = len(lines) if 'Operation: ' in lines[line] else line + 1
  try:
    traces.parse(text, 'stream_of_search')
  except ValueError as e:
    found = int(str(e).partition('(line ')[2].partition(')')[0])
    assert line <= found - 1 <= last, (str(e), line)
