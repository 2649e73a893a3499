#!/usr/bin/env bash
# Run a Python command with what the user gave to make, as options.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/call.sh COMMAND [VARIABLE=--option …] [-- option …]

Runs python/COMMAND.py in the project's environment. Each VARIABLE that is set becomes its option with the
variable's value; an option that ends in "!" is a switch, on when the variable is 1; with nothing after "=" the value stands alone.
Options after "--" are passed on.

  RUN=demo scripts/call.sh status RUN=--run          runs python/status.py --run=demo
END
}

main() {
  local command pairs=()
  answer_help "$@"
  case ${1:-} in
  -*) unknown_option "$1" ;;
  "") die "$EX_USAGE" "no command given" "" "see scripts/call.sh --help" ;;
  esac
  command=python/$1.py
  shift
  if [ ! -f "$command" ]; then die "$EX_NOINPUT" "there is no $command" "a file in python/, without .py" "make help"; fi
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    pairs+=("$1")
    shift
  done
  if [ $# -gt 0 ]; then shift; fi
  read_variables ${pairs[@]+"${pairs[@]}"}
  use_python
  exec "$PYTHON_BIN" "$command" ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
}

main "$@"
