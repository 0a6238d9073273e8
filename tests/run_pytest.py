# SPDX-License-Identifier: Apache-2.0
"""Runs the test files named on the command line; Bazel's entry to a test.

Slow tests wait for `-m slow`, as everywhere.
"""

import sys

import pytest

if __name__ == '__main__':
  sys.exit(pytest.main(
      ['-q', '-p', 'no:cacheprovider', '-m', 'not slow', *sys.argv[1:]]))
