#!/usr/bin/env bash
# Run the tests.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/test.sh [pytest option …]

Runs the tests in tests/, or those in TESTS. Options go to pytest: scripts/test.sh -k lock -x
END
}

main() {
  answer_help "$@"
  set_up_python
  export HF_HUB_OFFLINE=1 # nothing a test does may reach the hub
  exec "$PYTHON_BIN" -m pytest "$@" ${TESTS:+"$TESTS"}
}

main "$@"
