# Shell functions that the recipes share; source it, do not run it. Needs bash 4 or later.
#
# A recipe is a list of stages. A stage writes only below its folder $OUT/NAME and its log is $OUT/logs/NAME.log.
# A finished stage is skipped when the recipe runs again. If its command, or a stage before it, is no longer what
# it was, its folder is emptied and it runs anew; if it was only interrupted, its folder is kept, so that
# a training goes on from its last checkpoint.

log() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

die() {
  log "error: $*" >&2
  exit 1
}

# start_recipe NAME OUT: the recipe's name for messages ("make demo") and its output folder; CLEAN=1 empties the folder.
start_recipe() {
  RECIPE=$1 OUT=$2 CHAIN=
  if [[ ${CLEAN:-0} == 1 ]]; then
    # only what a recipe has made is ever removed
    [[ ! -e $OUT || -d $OUT/.stages || -z $(ls -A "$OUT") ]] || die "CLEAN=1: $OUT was not made by a recipe; remove it yourself"
    rm -rf "$OUT"
  fi
  mkdir -p "$OUT/logs" "$OUT/.stages"
  trap 'log "interrupted; run \"$RECIPE\" again to go on where it stopped"; exit 130' INT TERM
}

# stage NAME WHAT COMMAND...: run COMMAND (a program or a function) once; WHAT says to the user what it does.
stage() {
  local name=$1 what=$2 began=$SECONDS status=0 started=$OUT/.stages/$1.started finished=$OUT/.stages/$1.finished
  shift 2
  CHAIN=$(printf '%s\n' "$CHAIN" "$name" "$@" "$(declare -f "$1")" | cksum)
  if [[ -f $finished && $(<"$finished") == "$CHAIN" ]]; then
    log "$name: done before"
    return
  fi
  rm -f "$finished"
  if [[ ! -f $started || $(<"$started") != "$CHAIN" ]]; then
    rm -rf "${OUT:?}/$name"
    printf '%s\n' "$CHAIN" >"$started"
  fi
  mkdir -p "$OUT/$name"
  log "$name: $what"
  # errexit is off in a command whose status is tested: the subshell turns it on again
  set +e
  (
    set -e
    "$@"
  ) 2>&1 | tee "$OUT/logs/$name.log" | show_progress
  status=${PIPESTATUS[0]}
  set -e
  if ((status != 0)); then
    log "$name failed (exit status $status). Read $OUT/logs/$name.log, then run \"$RECIPE\" again:" >&2
    log "finished stages are skipped. \"$RECIPE CLEAN=1\" starts over." >&2
    exit "$status"
  fi
  printf '%s\n' "$CHAIN" >"$finished"
  log "$name: $((SECONDS - began)) s"
}

# The lines of fairseq's JSON log as short ones; everything else passes, but for fairseq's page of settings and, of
# commands that run side by side, what is in the log file.
show_progress() {
  sed -u -E \
    -e 's/^(\[\w+\])?.* \| INFO \| train_inner \| .*"ppl": "([^"]*)".*"num_updates": "([^"]*)".*"wall": "([^"]*)".*$/  \1 update \3  train ppl \2  \4 s/' \
    -e 's/^(\[\w+\])?.* \| INFO \| valid \| .*"valid_ppl": "([^"]*)".*"valid_num_updates": "([^"]*)".*$/  \1 update \3  VALID ppl \2/' \
    -e '/^[0-9-]+ [0-9:]+ \| INFO \| /d' \
    -e '/^\[\w+\] /d' \
    -e '/^usage:/d'
}

# side_by_side FUNCTION NAME...: run "FUNCTION NAME" for every name at once, lines marked by name. If one fails, or on
# an interruption, the others are stopped.
side_by_side() {
  local function=$1 name pid pids=() status=0
  shift
  for name in "$@"; do
    # a process group of its own, so that the whole pipeline can be stopped
    set -m
    (set -e -o pipefail; "$function" "$name" 2>&1 | sed -u "s/^/[$name] /") &
    pids+=($!)
    set +m
  done
  trap 'kill -- "${pids[@]/#/-}" 2>/dev/null; exit 130' INT TERM
  # Polled: `wait -n` forgets the second of two that end at the same moment.
  local running=("${pids[@]}") left
  while ((${#running[@]} > 0 && status == 0)); do
    left=()
    for pid in "${running[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then left+=("$pid"); else wait "$pid" || status=$?; fi
    done
    running=("${left[@]}")
    sleep 0.2
  done
  ((status == 0)) || kill -- "${pids[@]/#/-}" 2>/dev/null || true
  trap - INT TERM
  return "$status"
}

# threads: how many CPU cores this process may use.
threads() { nproc 2>/dev/null || echo 2; }
