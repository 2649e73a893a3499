#!/usr/bin/env bash
# Write the sample data of a recipe, or of all, in the files that its training reads.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/make_data.sh

Generates the rows with python/make_data.py. frIdA's are sources first: they are brought into Mistral's format and
split as well. Those of the medical recipes are one file, which make pipeline splits, or prepare_dataset.py.

Variables, as given to make:
  RECIPE            one recipe (default: all)
  FORCE=1           replace what holds other data
END
}

main() {
  take_no_options "$@"
  read_variables RECIPE=--recipe FORCE=--force!
  use_python
  if ! has_sources; then "$PYTHON_BIN" python/make_data.py ${OPTIONS[@]+"${OPTIONS[@]}"}; fi
  case ${RECIPE:-all} in all | frida-h100) split_frida ;; esac
}

# Sources for frIdA that lie there already, perhaps your own, are not mixed with generated ones.
has_sources() {
  local folder=${RECETARIO_RUNS:-runs}/data/frida-h100
  if [ "${RECIPE:-all}" != frida-h100 ] || is_on FORCE; then return 1; fi
  [ -d "$folder/raw" ] || [ -f "$folder/formatted_data.jsonl" ]
}

# Mistral's format, then splits: each step only where its result is missing, or is to be replaced.
split_frida() {
  local folder=${RECETARIO_RUNS:-runs}/data/frida-h100 force=()
  if is_on FORCE; then force=(--force); fi
  if [ ! -f "$folder/formatted_data.jsonl" ] || is_on FORCE; then
    "$PYTHON_BIN" python/format.py ${force[@]+"${force[@]}"}
  fi
  if [ ! -f "$folder/train.jsonl" ] || [ ! -f "$folder/validation.jsonl" ] || is_on FORCE; then
    "$PYTHON_BIN" python/prepare_dataset.py --input_data "$folder/formatted_data.jsonl" --output_dir "$folder" \
      ${force[@]+"${force[@]}"}
  fi
}

main "$@"
