#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# First process of a container: runs meta_cot.main with the arguments given.
#
# Among the pods of a JobSet the rank is slice * hosts per slice + index:
#   JOB_COMPLETION_INDEX        this pod in its slice; set by Kubernetes
#   META_COT_SLICE              the slice
#   META_COT_HOSTS_PER_SLICE    pods in a slice
# launch/tpu/jobset.sh sets the others (meta_cot/runtime/roll_call.py).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ -n ${JOB_COMPLETION_INDEX:-} && -n ${META_COT_HOSTS_PER_SLICE:-} ]]; then
  META_COT_PROCESS_ID=$((META_COT_SLICE * META_COT_HOSTS_PER_SLICE +
    JOB_COMPLETION_INDEX))
  export META_COT_PROCESS_ID
fi
[[ ! -f CODE_VERSION ]] || META_COT_CODE_VERSION=$(<CODE_VERSION)
export META_COT_CODE_VERSION=${META_COT_CODE_VERSION:-unknown}

# Nobody else passes on the SIGTERM of a pod that has to go.
child='' stop=''
pass_on() {
  stop=yes
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null || true
}
trap pass_on TERM INT
"${META_COT_PYTHON:-python}" -m meta_cot.main "$@" &
child=$!
[[ -z $stop ]] || pass_on
code=0
while true; do
  stop='' code=0
  wait "$child" || code=$?
  # A signal ends the wait, not the program.
  [[ -n $stop ]] || break
done
echo "[pod] ended with code $code at $(date +%s.%N)"
exit "$code"
