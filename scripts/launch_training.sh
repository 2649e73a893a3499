#!/usr/bin/env bash
# Train a DeepSpeed recipe: environment, data, then GPUs, model and settings checked, and a rank on each GPU.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/lib.sh
source scripts/lib.sh

usage() {
  cat <<'END'
usage: scripts/launch_training.sh [option of python/main.py …]

Trains frida-h100 on the GPUs of this node, or of several. Makes the sample data where none is. Everything is checked
before a model is loaded; the exit code is the training's.

Variables, as given to make:
  NUM_GPUS          GPUs on each node (default: the recipe's 8)
  BACKGROUND=1      train in the background: make status, logs, stop, resume
  SMOKE=1           the demo model, a few steps, two ranks on the CPU
  HOSTFILE          several nodes, started from here over ssh with pdsh: one line a node, HOST slots=N
  NODE_RANK         with HOSTFILE, MASTER_ADDR and MASTER_PORT: this node only; start the same on every node
  RUN, OUTPUT       name of the run; another folder for it
  TRAIN, VAL        data files (default: sample data)
  MODEL, REVISION   a model folder, or a name that was downloaded
  RECIPE            another DeepSpeed recipe

  scripts/launch_training.sh --epochs 3 --learning-rate 5e-5
  make train-h100 NUM_GPUS=4 BACKGROUND=1
END
}

main() {
  case ${1:-} in
  -h | --help)
    usage
    return
    ;;
  esac
  local place=(--foreground) recipe=${RECIPE:-frida-h100}
  case ${BACKGROUND:-0} in
  1) place=() ;;
  0) ;;
  *) die "$EX_USAGE" "BACKGROUND=$BACKGROUND" "BACKGROUND is 1 or 0" ;;
  esac
  read_variables RUN=--run OUTPUT=--output SMOKE=--smoke! TRAIN=--data VAL=--validation MODEL=--model \
    NUM_GPUS=--num-gpus HOSTFILE=--hostfile NODE_RANK=--node-rank MASTER_ADDR=--master-addr MASTER_PORT=--master-port
  if [ -n "${REVISION:-}" ]; then OPTIONS+=(--set "model.revision=$REVISION"); fi

  stage "environment"
  set_up_python
  if [ "${SMOKE:-0}" != 1 ] && [ -z "${TRAIN:-}" ] && [ "$recipe" = frida-h100 ]; then make_data; fi
  stage "checks, then training"
  exec "$PYTHON_BIN" python/start_run.py ${place[@]+"${place[@]}"} --recipe "$recipe" \
    ${OPTIONS[@]+"${OPTIONS[@]}"} "$@"
}

# Sources, then Mistral's format, then splits: each step only where its result is missing.
make_data() {
  local folder=${RECETARIO_RUNS:-runs}/data/frida-h100
  if [ -f "$folder/train.jsonl" ] && [ -f "$folder/validation.jsonl" ]; then return; fi
  stage "data"
  if [ ! -f "$folder/formatted_data.jsonl" ]; then
    if [ ! -d "$folder/raw" ]; then "$PYTHON_BIN" python/make_data.py --recipe frida-h100; fi
    "$PYTHON_BIN" python/format.py --input "$folder/raw" --output "$folder/formatted_data.jsonl"
  fi
  "$PYTHON_BIN" python/prepare_dataset.py --input_data "$folder/formatted_data.jsonl" --output_dir "$folder"
}

stage() {
  say "$(date -u +%Y-%m-%dT%H:%M:%SZ) $1"
}

main "$@"
