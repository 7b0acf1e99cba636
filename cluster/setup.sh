#!/usr/bin/env bash
# Create .venv in the project's root with the pinned packages of requirements/*.lock. Linux, no GPU needed.
#
#   PYTHON=python3.12 cluster/setup.sh     another interpreter (3.11 or newer, with headers)
#
# Safe to run again at any time: a stamp marks a finished environment, which is left as it is, and an unfinished one is
# created anew. pip installs packages from its configured index; torch's CPU build comes from PyTorch's own index when
# the configured one does not offer it. Wherever a file comes from, pip refuses it unless its SHA-256 is in a lock file.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

pip_lock=requirements/pip.lock
torch_lock=requirements/torch.lock
lock=requirements/cpu.lock
torch=$(grep -o '^torch==[^ ]*' "$torch_lock")
torch_index=https://download.pytorch.org/whl/cpu
venv_python=$PWD/.venv/bin/python
unfinished=.venv/.rft-unfinished
log=.venv/setup.log

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  if [[ -n ${PYTHON:-} ]]; then
    recent "$PYTHON" || die "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
    python=$PYTHON
    return
  fi
  for python in python3 python3.11 python3.12 python3.13 python3.14; do
    recent "$python" && return
  done
  die 'Python 3.11 or newer is needed and was not found.' \
    'Install it (Debian, Ubuntu: apt-get install python3 python3-dev python3-venv), or name one: PYTHON=/path/to/python3 make setup'
}

check_tools() {
  [[ $OSTYPE == linux* ]] || die "this set-up is for Linux (found $OSTYPE): vLLM and torch have CPU builds for it only."
  for tool in make g++; do
    command -v "$tool" >/dev/null || die "$tool is needed and was not found. Debian, Ubuntu: apt-get install make g++"
  done
}

check_python() {
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    die "$python lacks the module venv. Debian, Ubuntu: apt-get install python3-venv"
  "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
    die "$python has no headers (Python.h): DeepSpeed compiles an extension with them. Debian, Ubuntu: apt-get install python3-dev"
}

# The stamp's name is a hash of all that the environment depends on: lock files, this script, project metadata, interpreter.
stamp() {
  local sum
  sum=$({ cat "$pip_lock" "$torch_lock" "$lock" cluster/setup.sh pyproject.toml; "$python" -VV; pwd; } | sha256sum)
  printf '.venv/.rft-lock-%s' "${sum:0:16}"
}

make_venv() {
  if [[ -e $unfinished ]] || ! "$venv_python" -m pip --version >/dev/null 2>&1; then
    [[ ! -e .venv ]] || say 'the last set-up was interrupted: starting again'
    rm -rf .venv
    say "creating .venv with $("$python" -V)"
    mkdir .venv
    : >"$unfinished"
    "$python" -m venv .venv
    rm "$unfinished"
  fi
  rm -f .venv/.rft-lock-*
}

# Run pip install, with its output in the log and a line of progress every 40 packages. The file $unfinished exists
# while pip unpacks: if that is interrupted, pip would later treat a partly unpacked package as installed.
pip_install() {
  local line count=0
  PYTHONUNBUFFERED=1 "$venv_python" -m pip install --no-deps --no-input --disable-pip-version-check \
    --progress-bar off "$@" 2>&1 |
    while IFS= read -r line; do
      printf '%s\n' "$line" >>"$log"
      case $line in
        Collecting*) ((++count % 40)) || say "  $count packages found" ;;
        'Installing collected packages'*)
          : >"$unfinished"
          ((count < 40)) || say '  unpacking'
          ;;
      esac
    done || return
  rm -f "$unfinished"
}

# The interpreter's own pip may be older than the option that checks what DeepSpeed's build needs.
install_pip() {
  pip_install --require-hashes -r "$pip_lock" || fail
}

install_torch() {
  say "installing $torch"
  pip_install --require-hashes -r "$torch_lock" && return
  say "pip's own configuration does not offer it: asking $torch_index"
  pip_install --require-hashes --index-url "$torch_index" --retries 1 --timeout 20 -r "$torch_lock" && return
  tail -n 5 "$log" >&2
  die "$torch could not be installed: neither pip's own configuration nor $torch_index offers a file" \
    "of it for this Python whose hash is in $torch_lock (log: $log)." \
    'Without a network, put the wheel into a folder and call: PIP_FIND_LINKS=/that/folder make setup'
}

install_rest() {
  say "installing the $(grep -c '^[^# ]' "$lock") packages of $lock (one or two minutes)"
  # DeepSpeed is built from source, with pip's build isolation: where its build sees torch, it wraps a command of
  # setuptools and fails. The constraint pins that isolated setuptools, with its hashes.
  pip_install --require-hashes --build-constraint "$lock" -r "$lock" || fail
  say 'installing this project'
  pip_install --no-build-isolation -e . || fail
}

fail() {
  tail -n 15 "$log" >&2
  die "the packages could not be installed; the whole log: $log. Then run this again."
}

check_tools
find_python
exec 9<.
flock 9 # a second set-up in this folder waits for the first
stamp=$(stamp)
if [[ -e $stamp && ! -e $unfinished && -x $venv_python ]]; then
  exit 0
fi
check_python
make_venv
: >"$log"
install_pip
install_torch
install_rest
"$venv_python" -c 'import torch, ray, deepspeed, vllm' >>"$log" 2>&1 || fail
: >"$stamp"
say "done in $SECONDS s"
