#!/usr/bin/env bash
# Train a recipe in the background: scripts/train.sh --background, under the name that says so.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

main() {
  exec scripts/train.sh --background "$@"
}

main "$@"
