#!/usr/bin/env bash
# Make the project's Python environment, .venv, or bring it up to date.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/setup.sh [--quiet]

Installs requirements.txt, at the versions of requirements.lock, into .venv. Returns at once when that is done
already; interrupted, it starts over the next time. Several at once wait for each other.

  --quiet           say nothing when there is nothing to do

Variables:
  PYTHON            the Python to make .venv with, 3.11 or newer (default: the first of python3.11, python3, python)
  TORCH_INDEX_URL   another package index for torch alone, as PyTorch offers one of builds for the CPU; an environment
                    keeps to it until another is named, or none (TORCH_INDEX_URL=), and is then made anew
END
}

readonly STAMP=.venv/recetario-installed UNFINISHED=.venv/recetario-unfinished

main() {
  local quiet=""
  while [ $# -gt 0 ]; do
    case $1 in
    -h | --help)
      usage
      return
      ;;
    --quiet) quiet=1 ;;
    *) unknown_option "$1" ;;
    esac
    shift
  done

  keep_torch_index
  if is_ready; then
    if [ -z "$quiet" ]; then say "the environment in .venv is ready"; fi
    return
  fi
  local python
  python=$(find_python)
  wait_for_turn "$python"
  if is_ready; then return; fi # somebody else has just made it

  make_environment "$python" "$quiet"
  install_packages
  wanted_stamp >"$STAMP.new"
  mv "$STAMP.new" "$STAMP"
  rm -f "$UNFINISHED"
  say "the environment in .venv is ready"
}

# Where nothing is said of it, torch goes on coming from where this environment has it, also one that is unfinished.
keep_torch_index() {
  if [ -z "${TORCH_INDEX_URL+said}" ]; then TORCH_INDEX_URL=$(torch_index_here); fi
}

# The index of its own that torch was, or was to be, installed from here; nothing for the default one.
torch_index_here() {
  sed -n -e 's/^torch from the index //p' -e 's/^torch from \([a-z]*:\)/\1/p' "$UNFINISHED" "$STAMP" 2>/dev/null | head -n 1 || true
}

# Everything the environment depends on; written into it last, so it is there only when all the rest is.
wanted_stamp() {
  cksum requirements.txt requirements.lock
  torch_source
  .venv/bin/python -c 'import sys; print("python", *sys.version_info[:3])'
}

torch_source() { printf 'torch from the %s\n' "${TORCH_INDEX_URL:+index }${TORCH_INDEX_URL:-default index}"; }

is_ready() {
  [ -f "$STAMP" ] && [ ! -e "$UNFINISHED" ] && [ -x .venv/bin/python ] || return 1
  local wanted
  wanted=$(wanted_stamp 2>/dev/null) && [ "$wanted" = "$(cat "$STAMP")" ]
}

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
  local name
  PATH=${PATH//"$PWD/.venv/bin:"/} # an activated .venv is not to make itself anew
  if [ -n "${PYTHON:-}" ]; then
    case $PYTHON in
    .venv/* | "$PWD"/.venv/*)
      die "$EX_UNAVAILABLE" "PYTHON=$PYTHON is the environment's own" "" "name the Python that it was made with"
      ;;
    esac
    if ! is_new_enough "$PYTHON"; then
      die "$EX_UNAVAILABLE" "PYTHON=$PYTHON is no Python 3.11 or newer" "" "name another with PYTHON=/path/to/python3.11"
    fi
    printf '%s\n' "$PYTHON"
    return
  fi
  for name in python3.11 python3 python; do
    if command -v "$name" >/dev/null && is_new_enough "$name"; then
      command -v "$name"
      return
    fi
  done
  die "$EX_UNAVAILABLE" "no Python 3.11 or newer was found (tried python3.11, python3, python)" "" \
    "install one, or name it with PYTHON=/path/to/python3.11"
}

# A lock that the kernel frees when this script ends, however it ends. It belongs to the open file, which Python
# shares with us; flock(1) is not on every system.
wait_for_turn() {
  exec 9<requirements.txt
  if ! "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    say "another setup is under way: waiting for it"
    "$1" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  fi
}

make_environment() {
  local python=$1 quiet=$2 reason=""
  if [ -e "$UNFINISHED" ] || { [ -f .venv/pyvenv.cfg ] && ! is_new_enough .venv/bin/python; }; then
    reason="the environment in .venv is unfinished or broken"
  elif [ -f "$STAMP" ] && [ "$(torch_index_here)" != "${TORCH_INDEX_URL:-}" ]; then
    reason="torch comes from elsewhere now" # of which pip would keep the build that is installed
    if [ -n "$quiet" ]; then                # a training may be using what is there
      die "$EX_UNAVAILABLE" "TORCH_INDEX_URL=${TORCH_INDEX_URL:-} is not where .venv has torch from" "" \
        "leave it out, or stop what runs and make setup TORCH_INDEX_URL=…"
    fi
  fi
  if [ -n "$reason" ]; then
    say "$reason: making it anew"
    if [ ! -L .venv ]; then torch_source >"$UNFINISHED"; fi # behind a link it is another's, and only the link goes
    rm -rf .venv
  fi
  if [ -d .venv ]; then rmdir .venv 2>/dev/null || true; fi # an empty one is no loss
  if [ -e .venv ] && [ ! -f .venv/pyvenv.cfg ]; then
    die "$EX_UNAVAILABLE" "$PWD/.venv is not a Python environment" "" "move it away, then make setup"
  fi
  if [ ! -e .venv ]; then
    say "making .venv with $("$python" --version) ($python)"
    mkdir .venv
    torch_source >"$UNFINISHED"
    if ! "$python" -m venv .venv >&2; then
      die "$EX_UNAVAILABLE" "$python cannot make an environment" "" "on Debian and Ubuntu: apt install python3-venv"
    fi
  fi
  torch_source >"$UNFINISHED"
  rm -f "$STAMP"
}

install_packages() {
  local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input install)
  if [ ! -t 2 ]; then pip+=(--quiet); fi # a terminal gets the progress, a log does not
  say "installing packages (a few minutes the first time; interrupt it if you like, make setup starts over)"
  if [ -n "${TORCH_INDEX_URL:-}" ]; then
    local torch
    torch=$(grep '^torch==' requirements.lock) || die "$EX_UNAVAILABLE" "requirements.lock names no torch version"
    run_pip "${pip[@]}" --no-deps --index-url "$TORCH_INDEX_URL" "$torch"
  fi
  run_pip "${pip[@]}" -r requirements.txt -c requirements.lock
}

run_pip() {
  if ! "$@" >&2 9<&-; then
    die "$EX_UNAVAILABLE" "the packages could not be installed" "pip's own words are above" \
      "check network and free disk, then make setup"
  fi
}

main "$@"
