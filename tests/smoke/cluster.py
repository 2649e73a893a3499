"""Stand-ins for a cluster's programs on one machine: every node is here, on a loopback address of its own."""

import os
from pathlib import Path

# What DeepSpeed calls: pdsh -S -f N -w HOST,HOST WORDS…, in which %n is the number of the host.
_PDSH = """#!/usr/bin/env bash
set -u
while [ $# -gt 0 ]; do
  case $1 in
  -S) shift ;;
  -f) shift 2 ;;
  -w) hosts=${2//,/ } && shift 2 ;;
  *) break ;;
  esac
done
number=0 code=0 pids=()
for host in $hosts; do
  "$(dirname "$0")/ssh" "$host" "${*//%n/$number}" &
  pids+=($!)
  number=$((number + 1))
done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
"""
# As over ssh, the command is given to a shell, and of the environment nothing but the essentials arrives.
_SSH = """#!/usr/bin/env bash
while [ $# -gt 0 ]; do
  case $1 in
  -o) shift 2 ;;
  *) break ;;
  esac
done
case $1 in 127.*) ;; *) echo "ssh: Could not resolve hostname $1" >&2 && exit 255 ;; esac
if [ "$2 ${3:-}" = "hostname -I" ]; then echo "$1" && exit; fi
shift
exec env -i HOME="$HOME" PATH="$PATH" bash -c "$*"
"""
_SRUN = """#!/usr/bin/env bash
if [ "$1" = --kill-on-bad-exit=1 ]; then shift; fi
code=0 pids=()
for number in 0 1; do
  SLURM_NODEID=$number "$@" &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
"""
_SCONTROL = """#!/usr/bin/env bash
printf '127.0.0.1\\n127.0.0.2\\n'
"""


def write_stand_ins(folder: Path) -> dict[str, str]:
    """Write pdsh, ssh, srun and scontrol into ``folder``; return a PATH on which they come first."""
    folder.mkdir()
    for name, text in {"pdsh": _PDSH, "ssh": _SSH, "srun": _SRUN, "scontrol": _SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def write_hostfile(folder: Path) -> Path:
    path = folder / "hosts"
    path.write_text("127.0.0.1 slots=1\n127.0.0.2 slots=1\n")
    return path
