#!/usr/bin/env bash
# Check the style of Python and bash, or put it right.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/lint.sh [--fix]

Checks with ruff, shellcheck and shfmt; every finding is shown, of all of them. With --fix, ruff and shfmt change what
they can.
END
}

main() {
  local fix=""
  case ${1:-} in
  -h | --help)
    usage
    return
    ;;
  --fix) fix=1 ;;
  ?*) unknown_option "$1" ;;
  esac
  set_up_python
  PATH=${PYTHON_BIN%/*}:$PATH

  if [ -n "$fix" ]; then
    ruff check --fix --quiet . || true # what it cannot fix is shown below
    ruff format --quiet .
    shfmt -w -i 2 scripts .ci
  fi
  local failed=0
  ruff check . || failed=1
  ruff format --check . || failed=1
  shellcheck --external-sources scripts/*.sh .ci/run || failed=1
  shfmt -d -i 2 scripts .ci || failed=1
  return "$failed"
}

main "$@"
