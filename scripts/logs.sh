#!/usr/bin/env bash
# Show the log of a run, and follow it while the run goes on.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/logs.sh

Prints the last lines of a run's train.log, and more as they come, until the run ends. Ctrl-C ends the reading only.

Variables, as given to make:
  RUN               name of the run (default: the one started last)
  LINES             how many lines to begin with (default: 20)
  FOLLOW=0          print these only
END
}

main() {
  take_no_options "$@"
  local lines=${LINES:-20}
  case $lines in
  *[!0-9]*) die "$EX_USAGE" "LINES=$lines" "LINES is a number" ;;
  esac
  use_python

  local which=(--newest) folder
  if [ -n "${RUN:-}" ]; then which=("--run=$RUN"); fi
  folder=$(ask folder "${which[@]}")
  if [ -z "$folder" ]; then die "$EX_NOINPUT" "there are no runs yet" "" "make demo starts the first"; fi
  if [ ! -f "$folder/train.log" ]; then die "$EX_NOINPUT" "$folder has no train.log yet" "" "make status"; fi
  say "==> $folder/train.log"
  if [ "${FOLLOW:-1}" = 0 ] || [ "$(ask running --run="${folder##*/}")" != true ]; then
    tail -n "$lines" "$folder/train.log"
  else
    follow "$folder" "$lines"
  fi
}

ask() {
  "$PYTHON_BIN" python/status.py --field "$@"
}

TAIL_PID=""

follow() {
  local folder=$1 lines=$2
  trap stop_tail EXIT
  tail -n "$lines" -F "$folder/train.log" 2>/dev/null &
  TAIL_PID=$!
  while [ "$(ask running --run="${folder##*/}")" = true ] && kill -0 "$TAIL_PID" 2>/dev/null; do
    sleep 1
  done
  sleep 1 # let tail print the last lines
  say "==> run ${folder##*/} is $(ask state --run="${folder##*/}")"
}

stop_tail() {
  if [ -n "$TAIL_PID" ]; then kill "$TAIL_PID" 2>/dev/null || true; fi
}

main "$@"
