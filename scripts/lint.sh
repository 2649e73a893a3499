#!/usr/bin/env bash
# Check the style of Python and bash, or put it right; look for secrets.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/lint.sh [--fix | --secrets FILE …]

Checks with ruff, shellcheck and shfmt, and looks for secrets in every file; every finding is shown, of all of them.
With --fix, ruff and shfmt change what they can. With --secrets, only secrets are looked for, in the files named. A line
that is no secret says so in a comment: pragma: allowlist secret
END
}

main() {
  local fix="" secrets=""
  answer_help "$@"
  case ${1:-} in
  --fix) fix=1 ;;
  --secrets)
    secrets=1
    shift
    ;;
  ?*) unknown_option "$1" ;;
  esac
  set_up_python
  PATH=${PYTHON_BIN%/*}:$PATH
  if [ -n "$secrets" ]; then
    find_secrets "$@"
    return
  fi

  if [ -n "$fix" ]; then
    ruff check --fix --quiet . || true # what it cannot fix is shown below
    ruff format --quiet .
    shfmt -w -i 2 scripts .ci
  fi
  local failed=0
  ruff check . || failed=1
  ruff format --check . || failed=1
  shellcheck --external-sources scripts/*.sh scripts/*.slurm .ci/run || failed=1
  shfmt -d -i 2 scripts .ci || failed=1
  list_files | xargs -0 scripts/lint.sh --secrets || failed=1
  return "$failed"
}

# Hashes stand everywhere in this project, so entropy of hexadecimal digits says nothing here.
find_secrets() {
  detect-secrets-hook --disable-plugin HexHighEntropyString --plugin .ci/hub_token.py "$@"
}

# Every file that could be committed; the demo model's vocabulary and weights hold nothing anyone wrote.
list_files() {
  find . \( -name .git -o -name .venv -o -name runs -o -name '.*_cache' -o -name __pycache__ -o -name .hypothesis \
    -o -path ./recipes/demo/model \) -prune -o -type f -print0
}

main "$@"
