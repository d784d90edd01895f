# shellcheck shell=bash
# Shell functions that the recipes share; source it, do not run it. Needs bash 4.4 or later.
#
# A recipe is a list of stages. A stage writes only below its folder, $OUT/NAME or another, and its log is
# $OUT/logs/NAME.log. A finished stage is skipped when the recipe runs again. If its command, or a stage before it, is
# no longer what it was, its folder is emptied and it runs anew, unless ON_CHANGE says otherwise; if it was only
# interrupted, its folder is kept, so that a training goes on from its last checkpoint.

log() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

die() {
  log "error: $*" >&2
  exit 1
}

# start_recipe NAME OUT: the recipe's name for messages ("make demo") and its output folder; CLEAN=1 empties the folder.
start_recipe() {
  RECIPE=$1 OUT=$2 CHAIN='' MISSING='' START_OVER="\"$1 CLEAN=1\" starts over."
  [[ $DRY_RUN == 0 ]] || return 0
  # only what a recipe has made is ever written to or removed
  [[ ! -e $OUT || -d $OUT/.stages || (-d $OUT && -z $(ls -A "$OUT")) ]] \
    || die "$OUT is there and was not made by a recipe: choose another folder, or remove it yourself"
  [[ ${CLEAN:-0} != 1 ]] || rm -rf "$OUT"
  mkdir -p "$OUT/.stages" "$OUT/logs"
  trap interrupted INT TERM
  [[ $HELPS == 0 ]] || return 0
  # held by whatever a killed recipe has left running as well: two trainings in one folder would spoil both
  exec {LOCK}>"$OUT/.stages/lock"
  flock --nonblock "$LOCK" \
    || die "another run is at work in $OUT, or has left a process there (fuser $OUT/.stages/lock)"
}

interrupted() {
  [[ -z ${RUNNING:-} ]] || kill -- "-$RUNNING" 2>/dev/null || true
  log "interrupted; run \"$RECIPE\" again to go on where it stopped"
  exit 130
}

# What a recipe may set or define anew:
DRY_RUN=0      # 1: a stage prints what it would run and does not
HELPS=0        # 1: this recipe helps another run in the same folder, which keeps the books
ON_CHANGE=redo # a stage that ran with another command before: redo (empty its folder), keep (go on in it) or stop
ON_CHANGE_HELP='' # what to do when it stops
RESUMABLE='' # the stage whose files are worth keeping even if it has not finished
selected() { true; } # NAME: whether a stage is to run; the others are only checked
# COMMAND...: the text that a stage is known by. If it changes, the stage has changed.
text_of() { printf '%s\n' "$@" "$(declare -f "$1")"; }

# stage NAME[=FOLDER] WHAT COMMAND...: run COMMAND (a program or a function) once; WHAT says to the user what it does.
stage() {
  local name=${1%%=*} folder=${1#*=} what=$2 began=$SECONDS status=0 text
  local stamp=$OUT/.stages/$name
  shift 2
  text=$(text_of "$@")
  CHAIN=$(printf '%s\n' "$CHAIN" "$name" "$text" | cksum)
  if [[ $DRY_RUN == 1 ]]; then
    ! selected "$name" || dry_run "$name" "$what" "$@"
    return
  fi
  if [[ -f $stamp.finished && $(<"$stamp.finished") == "$CHAIN" ]]; then
    ! selected "$name" || log "$name: done before"
    return
  fi
  if ! selected "$name"; then
    MISSING=${MISSING:-$name}
    return
  fi
  [[ -z $MISSING ]] || die_of_missing "$name"
  if [[ -f $stamp.started && $(<"$stamp.started") != "$CHAIN" ]]; then
    # files that are whole, or that it could go on from
    [[ $ON_CHANGE != stop || (! -f $stamp.finished && $RESUMABLE != "$name") ]] || die_of_change "$name" "$text"
    [[ $ON_CHANGE != keep ]] || log "$name: goes on in $OUT/$folder with other settings"
  fi
  if [[ ! -f $stamp.started || ($(<"$stamp.started") != "$CHAIN" && $ON_CHANGE != keep) ]]; then
    rm -rf "${OUT:?}/$folder"
  fi
  rm -f "$stamp.finished"
  printf '%s\n' "$text" >"$stamp.command"
  printf '%s\n' "$CHAIN" >"$stamp.started"
  mkdir -p "$OUT/$folder"
  log "$name: $what"
  set +e # a function whose status is tested, as by ||, could not set it again
  run_logged "$OUT/logs/$name.log" "$@"
  status=$?
  set -e
  if ((status != 0)); then
    log "$name failed (exit status $status). Read $OUT/logs/$name.log, then run \"$RECIPE\" again:" >&2
    log "finished stages are skipped. $START_OVER" >&2
    exit "$status"
  fi
  printf '%s\n' "$CHAIN" >"$stamp.finished"
  log "$name: $((SECONDS - began)) s"
}

# run_logged FILE COMMAND...: run COMMAND, all that it prints in FILE and its progress on the terminal. A signal to the
# recipe alone, as `kill` sends one, ends the command as well: the shell would wait for it in the foreground.
run_logged() {
  local file=$1
  shift
  set -m # a process group of its own
  {
    (
      set -e
      "$@"
    ) 2>&1 | tee "$file" | show_progress
    exit "${PIPESTATUS[0]}"
  } </dev/null &
  RUNNING=$!
  set +m
  wait "$RUNNING"
}

die_of_missing() { # NAME
  if [[ -f $OUT/.stages/$MISSING.finished ]]; then
    die "$1 needs $MISSING, which ran in $OUT with other settings; run it again, or give the settings that it had"
  fi
  die "$1 needs $MISSING, which has not finished in $OUT: run that first"
}

die_of_change() { # NAME TEXT
  local changes
  changes=$(diff <(flag_a_line "$(<"$OUT/.stages/$1.command")") <(flag_a_line "$2") \
    | sed -n -e 's/^< /  before: /p' -e 's/^> /  now:    /p') || true
  log "error: $1 has run in $OUT with other settings, and its files are kept:" >&2
  printf '%s\n' "${changes:-  a stage before it has changed}" >&2
  die "$ON_CHANGE_HELP"
}

flag_a_line() { printf '%s\n' "${1// --/$'\n'--}"; }

dry_run() { # NAME WHAT COMMAND...
  printf '\n# %s: %s\n' "$1" "$2"
  shift 2
  "$@"
}

# run COMMAND...: run it, or with DRY_RUN=1 print it as it can be pasted into a shell.
run() {
  if [[ $DRY_RUN == 0 ]]; then
    "$@"
    return
  fi
  quoted "$@"
}

quoted() { # WORD...: as one line of shell
  local word line=
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+=" $word"
  done
  printf '%s\n' "${line# }"
}

# The lines of fairseq's JSON log as short ones; everything else passes, but for fairseq's pages of settings and, of
# commands that run side by side, what is in the log file.
show_progress() {
  sed -u -E \
    -e 's/^(\[\w+\])?.* \| INFO \| train_inner \| .*"ppl": "([^"]*)".*"num_updates": "([^"]*)".*"wall": "([^"]*)".*$/  \1 update \3  train ppl \2  \4 s/' \
    -e 's/^(\[\w+\])?.* \| INFO \| valid \| .*"valid_rouge1": "([^"]*)".*"valid_ppl": "([^"]*)".*"valid_num_updates": "([^"]*)".*$/  \1 update \4  VALID ppl \3  ROUGE-1 \2/' \
    -e 's/^(\[\w+\])?.* \| INFO \| valid \| .*"valid_ppl": "([^"]*)".*"valid_num_updates": "([^"]*)".*$/  \1 update \3  VALID ppl \2/' \
    -e '/^[0-9-]+ [0-9:]+ \| INFO \| /d' \
    -e '/^(INFO|DEBUG):/d' \
    -e '/^ *(\(\w+\): .*|\))$/d' \
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
