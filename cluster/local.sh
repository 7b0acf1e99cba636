#!/usr/bin/env bash
# A multi-node Ray cluster on this machine, on loopback, for trying what needs more than one node.
#
#   cluster/local.sh up 2          a head and two worker nodes (or as many more as are missing)
#   eval "$(cluster/local.sh env)" point `ray` at it, then e.g.
#   ray job submit -- python jobs/rft_pipeline.py --config jobs/configs/demo.yaml
#   cluster/local.sh status
#   cluster/local.sh down          end it, by pid
set -euo pipefail
root=$(unset CDPATH && cd "${BASH_SOURCE[0]%/*}/.." && pwd)
python=$root/.venv/bin/python
[[ -x $python ]] || { echo 'No .venv yet: run `make setup` first.' >&2; exit 1; }

verb=${1:-help}
case $verb in
  up) exec "$python" "$root/cluster/demo.py" up --workers "${2:-1}" "${@:3}" ;;
  env | status | down) exec "$python" "$root/cluster/demo.py" "$@" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [[ $verb == help ]] ;;
esac
