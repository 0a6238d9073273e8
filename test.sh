#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lint, structure, tests: what CI runs. Arguments go to pytest.
#
#   ./test.sh                 everything but the slow tests
#   ./test.sh -k masks        some of it
#   ./test.sh -m slow         the slow tests
#
# META_COT_VENV: the environment to create or reuse (.venv).
# META_COT_TEST_WORKERS: test processes (2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source launch/environment.sh
export JAX_PLATFORMS=cpu

prepare_environment '[test]'
"$PYTHON" -m ruff check .
"$PYTHON" -m pytest -q tests/structure_test.py
"$PYTHON" -m pytest -q -n "${META_COT_TEST_WORKERS:-2}" -m 'not slow' "$@"
