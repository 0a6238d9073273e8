# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium by its DevTools protocol, over a pipe.

  with browser.opened() as page:
    page.open(path); page.click('a'); page.press('ArrowRight')

Nothing but the program is needed: messages are JSON that ends with a zero byte.
"""

import base64
from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time
from typing import Any

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
_SECONDS = 120.0
# Keys that are no letters.
_CODES = {'ArrowLeft': 37, 'ArrowUp': 38, 'ArrowRight': 39, 'ArrowDown': 40,
          'Enter': 13, 'Escape': 27, 'Tab': 9}


def find() -> str | None:
  """Finds the program; None where there is none."""
  return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def opened(size: tuple[int, int] = (1280, 900)) -> Iterator['Page']:
  """Runs a browser with one empty page of so many pixels."""
  there, mine = os.pipe(), os.pipe()  # to the browser, from it
  with tempfile.TemporaryDirectory() as profile:
    process = subprocess.Popen(
        ['bash', '-c', f'exec "$0" "$@" 3<&{there[0]} 4>&{mine[1]}', find(),
         '--headless=new', '--no-sandbox', '--disable-gpu',
         '--disable-dev-shm-usage', '--no-first-run',
         '--remote-debugging-pipe', f'--user-data-dir={profile}',
         f'--window-size={size[0]},{size[1]}', 'about:blank'],
        pass_fds=(there[0], mine[1]), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(there[0])
    os.close(mine[1])
    try:
      yield Page(there[1], mine[0], size)
    finally:
      os.killpg(process.pid, signal.SIGKILL)
      process.wait()
      os.close(there[1])
      os.close(mine[0])


class Page:
  """The page that is open, and what it asked for and complained of."""

  def __init__(self, to: int, of: int, size: tuple[int, int]):
    """Waits for the browser; `to` and `of` are its pipes."""
    self._to, self._of, self._rest, self._number = to, of, b'', 0
    self._session, self.events = None, []
    targets = self.call('Target.getTargets')['targetInfos']
    target = next(t for t in targets if t['type'] == 'page')
    self._session = self.call('Target.attachToTarget', dict(
        targetId=target['targetId'], flatten=True))['sessionId']
    for domain in ('Page', 'Runtime', 'Log', 'Network', 'Accessibility'):
      self.call(f'{domain}.enable')
    self.call('Emulation.setDeviceMetricsOverride', dict(
        width=size[0], height=size[1], deviceScaleFactor=1, mobile=False))

  def call(self, method: str, parameters: dict | None = None) -> dict:
    """Calls the protocol.

    Raises:
      RuntimeError: the browser says no; or it says nothing.
    """
    self._number += 1
    message = dict(
        id=self._number, method=method, params=parameters or {})
    if self._session:
      message['sessionId'] = self._session
    os.write(self._to, json.dumps(message).encode() + b'\0')
    while True:
      answer = self._next()
      if answer.get('id') == self._number:
        if 'error' in answer:
          raise RuntimeError(f'{method}: {answer["error"]}')
        return answer['result']
      self.events.append(answer)

  def _next(self) -> dict:
    end = time.monotonic() + _SECONDS
    while b'\0' not in self._rest:
      if not select.select([self._of], [], [], end - time.monotonic())[0]:
        raise RuntimeError(f'the browser was silent for {_SECONDS} seconds')
      self._rest += os.read(self._of, 1 << 20)
    line, _, self._rest = self._rest.partition(b'\0')
    return json.loads(line)

  def open(self, path: pathlib.Path, where: str = '') -> None:
    """Opens a file at an address, and waits until it has drawn itself."""
    self.call('Page.navigate', dict(url='about:blank'))
    self.events.clear()
    self.call('Page.navigate', dict(url=f'{path.as_uri()}{where}'))
    self.wait("document.readyState === 'complete' && "
              "document.getElementById('main').childNodes.length > 0")

  def run(self, script: str) -> Any:
    """Evaluates an expression; its JSON value.

    Raises:
      RuntimeError: it throws.
    """
    made = self.call('Runtime.evaluate', dict(
        expression=script, returnByValue=True, awaitPromise=True))
    if 'exceptionDetails' in made:
      raise RuntimeError(made['exceptionDetails'])
    return made['result'].get('value')

  def wait(self, script: str) -> None:
    """Waits until an expression is true.

    Raises:
      RuntimeError: it never is.
    """
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
      with contextlib.suppress(RuntimeError):
        if self.run(script):
          return
      time.sleep(0.05)
    raise RuntimeError(f'not true after {_SECONDS} seconds: {script}')

  def texts(self, selector: str) -> list[str]:
    """Reads the texts of elements."""
    return self.run(
        f'[...document.querySelectorAll({json.dumps(selector)})]'
        '.map(e => e.textContent)')

  def click(self, selector: str, number: int = 0) -> None:
    """Clicks an element, where it is."""
    x, y = self.run(
        f'(() => {{const e = document.querySelectorAll({json.dumps(selector)})'
        f'[{number}]; e.scrollIntoView({{block: "center"}}); '
        'const r = e.getBoundingClientRect(); '
        'return [r.x + r.width / 2, r.y + r.height / 2];})()')
    for kind in ('mousePressed', 'mouseReleased'):
      self.call('Input.dispatchMouseEvent', dict(
          type=kind, x=x, y=y, button='left', clickCount=1))
    self.settle()

  def press(self, key: str) -> None:
    """Presses a key."""
    code = _CODES.get(key, ord(key[0].upper()))
    about = dict(key=key, windowsVirtualKeyCode=code)
    if len(key) == 1:
      about['text'] = key
    self.call('Input.dispatchKeyEvent', about | dict(type='keyDown'))
    self.call('Input.dispatchKeyEvent', about | dict(type='keyUp'))
    self.settle()

  def settle(self) -> None:
    """Waits until the page has drawn what was asked for."""
    self.run('new Promise(f => setTimeout(f, 30))')

  @property
  def where(self) -> str:
    """The address behind the file's name."""
    return self.run('location.hash')

  def complaints(self) -> list[str]:
    """Lists errors and warnings of the console, and what was thrown."""
    self.settle()
    found = []
    for event in self.events:
      method, about = event.get('method'), event.get('params', {})
      if method == 'Runtime.exceptionThrown':
        found.append(json.dumps(about['exceptionDetails'])[:500])
      if method == 'Runtime.consoleAPICalled' and about['type'] in (
          'error', 'warning', 'assert'):
        found.append(json.dumps(about['args'])[:500])
      if method == 'Log.entryAdded' and about['entry']['level'] in (
          'error', 'warning'):
        found.append(about['entry']['text'])
    return found

  def requests(self) -> list[str]:
    """Lists the addresses that were asked for."""
    self.settle()
    return [
        event['params']['request']['url'] for event in self.events
        if event.get('method') == 'Network.requestWillBeSent']

  def controls(self) -> list[tuple[str, str]]:
    """Lists role and name of all controls, as a screen reader has them."""
    nodes = self.call('Accessibility.getFullAXTree')['nodes']
    roles = ('button', 'link', 'searchbox', 'slider', 'textbox', 'combobox')
    return [
        (node['role']['value'], node.get('name', {}).get('value', ''))
        for node in nodes if not node.get('ignored')
        and node.get('role', {}).get('value') in roles]

  def screenshot(self, path: pathlib.Path) -> None:
    """Writes what is seen as PNG."""
    made = self.call('Page.captureScreenshot', dict(format='png'))
    path.write_bytes(base64.b64decode(made['data']))
