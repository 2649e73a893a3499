#!/usr/bin/env bash
# Activate the project's environment in this shell, and say what it holds: source scripts/activate_env.sh

# Sourced, so it must not change the shell's options nor leave names behind; run, it could not activate anything.
# bash tells which file this is in BASH_SOURCE, zsh in $0, and that it is sourced in ZSH_EVAL_CONTEXT.
RECETARIO_SOURCED=""
if [ -n "${ZSH_VERSION:-}" ]; then
  case ${ZSH_EVAL_CONTEXT:-} in *:file) RECETARIO_SOURCED=$0 ;; esac
elif [ "${BASH_SOURCE[0]:-$0}" != "$0" ]; then
  RECETARIO_SOURCED=${BASH_SOURCE[0]}
fi
if [ -z "$RECETARIO_SOURCED" ]; then
  case ${1:-} in
  -h | --help)
    printf 'usage: scripts/activate_env.sh (to be sourced: source scripts/activate_env.sh)\n\nActivates .venv in this shell; prints versions and devices.\n'
    exit 0
    ;;
  ?*)
    printf "error: unknown option '%s' — see scripts/activate_env.sh --help\n" "$1" >&2
    exit 64
    ;;
  esac
  printf 'error: this script must be sourced — source scripts/activate_env.sh\n' >&2
  exit 64
fi

recetario_activate() {
  local root
  root=$(cd -- "$(dirname -- "$RECETARIO_SOURCED")/.." && pwd)
  if [ ! -f "$root/.venv/bin/activate" ]; then
    printf 'error: there is no environment in %s — make setup\n' "$root/.venv" >&2
    return 69
  fi
  # shellcheck disable=SC1091
  source "$root/.venv/bin/activate" || return
  python "$root/python/debug_model.py" --environment
}

if recetario_activate; then
  unset -v RECETARIO_SOURCED
  unset -f recetario_activate
else
  unset -v RECETARIO_SOURCED
  unset -f recetario_activate
  return 69
fi
