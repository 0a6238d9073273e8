# SPDX-License-Identifier: Apache-2.0
"""Runs the test files named on the command line; Bazel's entry to a test."""

import sys

import pytest

if __name__ == '__main__':
  sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))
