#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole loop on a laptop: problems, search traces, training, evaluation.
#
#   launch/quickstart.sh [WORKDIR] [--config.KEY=VALUE ...]
#
# WORKDIR is runs/quickstart by default. The same command continues a run that
# was interrupted. META_COT_VENV: the environment to create or reuse (.venv).
set -euo pipefail
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/environment.sh

workdir=runs/quickstart
if (($#)) && [[ $1 != -* ]]; then
  workdir=$1
  [[ $workdir == /* ]] || workdir=$start/$workdir
  shift
fi

prepare_environment ''
# Two devices on a CPU: the step is really sharded, and two cores are used better
# than by one program. On an accelerator this has no effect.
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-2}
"$PYTHON" -m meta_cot.main --config=configs/countdown.py:tiny \
  --workdir="$workdir" "$@"

report=$workdir/evaluate/report.md
if [[ -f $report ]]; then
  echo
  # The result stands before the first section.
  awk '/^## / {exit} {print}' "$report"
  echo "report: $report"
fi
