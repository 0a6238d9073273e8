# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Sourced by the scripts: variables of a run, and its Python environment.

# XLA on a CPU gets its large buffers from malloc and gives them back at every
# step; huge pages that are kept save a third of a training step.
if [[ "$(uname -s)" == Linux && -z "${GLIBC_TUNABLES:-}" ]]; then
  export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
  GLIBC_TUNABLES+=:glibc.malloc.mmap_threshold=1000000000000
  GLIBC_TUNABLES+=:glibc.malloc.trim_threshold=1000000000000
fi

fail() {
  echo "error: $*" >&2
  exit 1
}

# Prints the first Python >= 3.11 of this machine.
find_python() {
  local name
  for name in ${META_COT_PYTHON:-python3.11 python3.12 python3.13 python3}; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        2>/dev/null; then
      echo "$name"
      return
    fi
  done
  fail "no Python >= 3.11 found (tried ${META_COT_PYTHON:-python3.11, python3.12,\
 python3.13, python3}); install one or set META_COT_PYTHON to it."
}

# Creates the environment, or brings it up to date, and sets PYTHON to its
# interpreter. $1: extras to install with the project, such as '[test]'.
prepare_environment() {
  local extras=${1:-} venv=${META_COT_VENV:-.venv} found wanted stamp
  PYTHON=$venv/bin/python
  if [[ ! -x $PYTHON ]]; then
    found=$(find_python)
    echo "creating $venv with $found"
    "$found" -m venv "$venv" || fail "'$found -m venv $venv' failed; on Debian \
and Ubuntu install the package python3-venv."
  fi
  stamp=$venv/.meta_cot${extras//[^a-z]/-}
  wanted=$(cat setup.py constraints.txt meta_cot/version.py | cksum)
  wanted+=" $PWD"
  if [[ ! -f $stamp || "$(<"$stamp")" != "$wanted" ]]; then
    echo "installing meta-cot$extras into $venv (once)"
    "$PYTHON" -m pip install --quiet --disable-pip-version-check \
      -c constraints.txt -e ".$extras" ||
      fail "pip could not install meta-cot$extras; see its messages above."
    # Last, so that an interrupted installation is started again.
    echo "$wanted" >"$stamp"
  fi
}
