#!/usr/bin/env bash
# Create .venv in the project's root with the pinned packages of requirements/*.lock. Linux, no GPU needed.
#
#   cluster/setup.sh                       for NVIDIA GPUs where this machine has some, else for CPUs; a .venv stays what
#                                          it was made for
#   cluster/setup.sh --gpu                 torch and vLLM for CUDA; refused without a GPU and a driver that runs them
#   cluster/setup.sh --gpu --force         the same anyway, to make an image or a shared folder for other machines
#   cluster/setup.sh --cpu                 torch and vLLM for CPUs, also where there is a GPU
#   PYTHON=python3.12 cluster/setup.sh     another interpreter (3.11 or newer, with headers)
#
# Safe to run again at any time: a stamp marks a finished environment, which is left as it is, and an unfinished one is
# created anew. A .venv that something else made is never removed. pip installs packages from its configured index;
# torch's CPU build comes from PyTorch's own index when the configured one does not offer it. All CUDA packages are on
# pip's index: 4.4 GB to download, 9.5 GB on disk. Wherever a file comes from, pip refuses it unless its SHA-256 is in a
# lock file.
set -euo pipefail
cd "${BASH_SOURCE[0]%/*}/.."

pip_lock=requirements/pip.lock
torch_lock=requirements/torch.lock
driver_needed=580 # of CUDA 13, which the torch of gpu.lock is built with
made_for_gpu=.venv/.rft-gpu
torch=$(grep -o '^torch==[^ ]*' "$torch_lock")
torch_index=https://download.pytorch.org/whl/cpu
venv_python=$PWD/.venv/bin/python
unfinished=.venv/.rft-unfinished
log=.venv/setup.log

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$@" >&2; exit 1; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

usage() { die "unknown option $1. Use --gpu, --gpu --force or --cpu, or none of them."; }

# The major version of the NVIDIA driver; empty where no driver or no GPU is visible.
driver() {
  local root=${RFT_NVIDIA_ROOT-} version
  compgen -G "$root/dev/nvidia[0-9]*" >/dev/null || return 0
  version=$(cat "$root/proc/driver/nvidia/version" 2>/dev/null) || return 0
  [[ $version =~ \ ([0-9]+)\.[0-9]+ ]] && printf '%s' "${BASH_REMATCH[1]}" || true
}

# Why this machine cannot run the packages of gpu.lock; nothing where it can.
gpu_obstacle() {
  local version
  [[ $HOSTTYPE == x86_64 ]] || { printf 'gpu.lock is for x86_64, and this is %s' "$HOSTTYPE"; return; }
  version=$(driver)
  if [[ -z $version ]]; then
    printf 'no NVIDIA driver with a GPU is visible (/proc/driver/nvidia/version, /dev/nvidia0)'
  elif ((version < driver_needed)); then
    printf 'the NVIDIA driver is version %s, and the packages need %s or newer (CUDA 13)' "$version" "$driver_needed"
  fi
}

# Sets `device`: what the options say, or what .venv was made for, or what this machine has.
choose_device() {
  local option obstacle force=
  device=
  for option in "$@"; do
    case $option in
      --gpu | --cpu) [[ -z $device ]] || usage "$option"; device=${option#--} ;;
      --force) force=1 ;;
      *) usage "$option" ;;
    esac
  done
  [[ -z $force || $device == gpu ]] || usage --force
  if [[ $device == gpu && -z $force ]]; then
    obstacle=$(gpu_obstacle)
    [[ -z $obstacle ]] || die "--gpu: $obstacle." \
      'Install a newer driver, leave --gpu out for the CPU packages, or add --force to install for another machine.'
  elif [[ -z $device && -d .venv ]]; then
    [[ -e $made_for_gpu ]] && device=gpu || device=cpu
  elif [[ -z $device ]]; then
    obstacle=$(gpu_obstacle)
    [[ -z $obstacle ]] && device=gpu || device=cpu
    [[ -z $obstacle || -z $(driver) ]] || say "for CPUs, although there is a GPU: $obstacle"
  fi
  lock=requirements/$device.lock
  locks=("$lock")
  [[ $device == gpu ]] || locks=("$torch_lock" "$lock")
}

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

# Without it vLLM's kernels for CPUs are not loaded, which shows only when an engine opens.
check_numa() {
  "$python" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
    die 'libnuma is needed by vLLM on CPUs and was not found. Debian, Ubuntu: apt-get install libnuma1'
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
  sum=$({ cat "$pip_lock" "${locks[@]}" cluster/setup.sh pyproject.toml; "$python" -VV; pwd; } | sha256sum)
  printf '.venv/.rft-lock-%s' "${sum:0:16}"
}

make_venv() {
  local was=cpu
  [[ ! -e .venv ]] || compgen -G '.venv/.rft-*' >/dev/null ||
    die '.venv was not made by this set-up.' 'Move it away (mv .venv .venv.old), then run this again.'
  [[ ! -e $made_for_gpu ]] || was=gpu
  if [[ -e $unfinished || $was != "$device" ]] || ! "$venv_python" -m pip --version >/dev/null 2>&1; then
    if [[ -x $venv_python && ! -e $unfinished && $was != "$device" ]]; then
      say "replacing .venv, which has the packages for ${was^^}s"
    elif [[ -e .venv ]]; then
      say 'the last set-up was interrupted: starting again'
    fi
    [[ -L .venv ]] || rm -rf .venv/* # the files that say who made it last, should this be interrupted
    rm -rf .venv
    say "creating .venv with $("$python" -V)"
    mkdir .venv
    : >"$unfinished"
    : >".venv/.rft-$device"
    "$python" -m venv .venv
    rm "$unfinished"
  fi
  : >".venv/.rft-$device" # which an earlier version of this script did not write
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
        Collecting* | Processing*) ((++count % 40)) || say "  $count packages found" ;;
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
  local how_long='one or two minutes'
  [[ $device == cpu ]] || how_long='4.4 GB to download'
  say "installing the $(grep -c '^[^# ]' "$lock") packages of $lock ($how_long)"
  # DeepSpeed is built from source, with pip's build isolation: where its build sees torch, it wraps a command of
  # setuptools and fails. The constraint pins that isolated setuptools, with its hashes.
  pip_install --require-hashes --build-constraint "$lock" -r "$lock" || fail
  say 'installing this project'
  pip_install --no-build-isolation -e . || fail
}

# A driver that torch cannot use shows here, not in the middle of a run.
check_gpu() {
  "$venv_python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >>"$log" 2>&1 ||
    say 'note: torch sees no GPU now. nvidia-smi says whether the driver works.'
}

fail() {
  tail -n 15 "$log" >&2
  die "the packages could not be installed; the whole log: $log. Then run this again."
}

check_tools
find_python
exec 9<.
flock 9 # a second set-up in this folder waits for the first
choose_device "$@"
stamp=$(stamp)
if [[ -e $stamp && ! -e $unfinished && -x $venv_python ]]; then
  exit 0
fi
check_python
[[ $device == gpu ]] || check_numa
make_venv
: >"$log"
install_pip
[[ $device == gpu ]] || install_torch
install_rest
"$venv_python" -c 'import torch, ray, deepspeed, vllm' >>"$log" 2>&1 || fail
[[ $device == cpu ]] || check_gpu
: >"$stamp"
say "done in $SECONDS s"
