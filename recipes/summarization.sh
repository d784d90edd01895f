# shellcheck shell=bash
# The stages of a summarization experiment, which all data sets share. Source it, do not run it.
#
# A recipe sets NAME, TITLE and FORMAT (of data_prep.prepare), calls `read_table`, gives its `defaults` and a function
# `download_raw`, and calls `main "$@"`. It may set OPTIONS (of its own, as in options.sh) and READER_ARGS (of its
# reader, an array), and define `configure`, which runs as soon as the command line has been read.
#
# The experiment's folder: settings.json, corpus/, encoded/, data/, train/, generate/, score/, logs/.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PROGRAM=$0
PROGRAM_PATH=$(realpath "$0")
# shellcheck source=recipes/lib.sh
source "$ROOT/recipes/lib.sh"
# shellcheck source=recipes/options.sh
source "$ROOT/recipes/options.sh"
# shellcheck source=recipes/derived.sh
source "$ROOT/recipes/derived.sh"
# shellcheck source=recipes/download.sh
source "$ROOT/recipes/download.sh"

READER_ARGS=()
IDENTITY=0 # 1: only what a stage is known by is asked for
configure() { true; }

# ---- stages --------------------------------------------------------------------------------

# What a stage is known by: its commands, but for how many processes and machines do the work, and where.
text_of() {
  local text
  text=$(DRY_RUN=1 IDENTITY=1 "$@")
  text=${text//"$OUT"/OUT}
  printf '%s\n' "${text//"$ROOT"/ROOT}"
}

# how FLAG...: left out of that text.
how() { [[ $IDENTITY == 1 ]] || HOW=("$@"); }

download() {
  if given raw && [[ -d ${OPT[raw]} && -n $(ls -A "${OPT[raw]}") ]]; then
    ((DRY_RUN)) || echo "${OPT[raw]} has files: nothing is fetched into it"
  else
    download_raw
  fi
  fetch_model
}

prepare() {
  local HOW=()
  split_words prepare-args
  how --workers "${OPT[workers]}"
  run "$PYTHON" -m data_prep.prepare "$FORMAT" "${OPT[raw]}" "$OUT/corpus" "${READER_ARGS[@]}" \
    --splits "${SPLITS[@]}" "${HOW[@]}" "${WORDS[@]}"
}

encode() {
  local HOW=() vocabulary
  split_words encode-args
  how --workers "${OPT[workers]}"
  if [[ ${OPT[bpe]} == gpt2 ]]; then
    vocabulary=(--gpt2-files "${OPT[gpt2-files]}")
  elif [[ -n ${OPT[spiece]} ]]; then
    vocabulary=(--model "${OPT[spiece]}")
  else
    vocabulary=(--vocabulary "${OPT[vocabulary]}")
  fi
  [[ -n ${OPT[sentence-marks]} ]] || vocabulary+=(--leave-out-separator)
  run "$PYTHON" -m data_prep.encode "$OUT/corpus" "$OUT/encoded" --bpe "${OPT[bpe]}" "${vocabulary[@]}" \
    --max-source "${OPT[max-source]}" --max-target "${OPT[max-target]}" "${HOW[@]}" "${WORDS[@]}"
}

binarise() {
  local HOW=() dictionary=(--joined-dictionary) split files=()
  split_words binarise-args
  how --workers "${OPT[workers]}"
  if [[ -n ${OPT[dict]} ]]; then
    dictionary+=(--srcdict "${OPT[dict]}")
  elif [[ -n ${OPT[spiece]} && ${OPT[model]} == t5 ]]; then
    run "$PYTHON" -m srformer_plugin.tools.t5_dictionary "${OPT[spiece]}" "$OUT/data/t5.dict.txt"
    dictionary+=(--srcdict "$OUT/data/t5.dict.txt")
  fi
  for split in "${SPLITS[@]}"; do files+=("--${split}pref" "$OUT/encoded/$split"); done
  run fairseq-preprocess --source-lang source --target-lang target "${dictionary[@]}" "${files[@]}" \
    --destdir "$OUT/data" "${HOW[@]}" "${WORDS[@]}"
}

# The flags that turn tokens into text again, with a prefix: "--" (fairseq-generate) or "--eval-rouge-".
text_flags() {
  local encoder=${OPT[gpt2-files]}/encoder.json merges=${OPT[gpt2-files]}/vocab.bpe
  if [[ ${OPT[bpe]} != gpt2 ]]; then
    TEXT_FLAGS=("${1}remove-bpe" sentencepiece)
  elif [[ $1 == -- ]]; then
    TEXT_FLAGS=(--bpe gpt2 --gpt2-encoder-json "$encoder" --gpt2-vocab-bpe "$merges")
  else
    TEXT_FLAGS=("${1}bpe" gpt2 "${1}bpe-args" "{\"gpt2_encoder_json\": \"$encoder\", \"gpt2_vocab_bpe\": \"$merges\"}")
  fi
}

# The number of updates in the array UPDATES, or where the data are not there yet the way to it.
count_updates() {
  local lines=$DATA/encoded/train.source
  if [[ -n ${OPT[max-update]} ]]; then
    UPDATES=${OPT[max-update]}
  elif [[ -f $lines ]]; then
    UPDATES=$((OPT[epochs] * (($(wc -l <"$lines") + OPT[batch-size] - 1) / OPT[batch-size])))
  else
    UPDATES=UPDATES
    ((IDENTITY)) || echo "# UPDATES: ${OPT[epochs]} epochs of $lines in batches of ${OPT[batch-size]}"
  fi
}

train() {
  local HOW=() UPDATES TEXT_FLAGS model=(--arch "${OPT[arch]}") command=(fairseq-train) name
  split_words train-args
  text_flags --eval-rouge-
  count_updates
  for name in cross-attention segment-size; do [[ -z ${OPT[$name]} ]] || model+=("--$name" "${OPT[$name]}"); done
  [[ ${OPT[init]} == scratch ]] || model+=(--finetune-from-model "${OPT[init]}")
  [[ ${OPT[precision]} == fp32 ]] || model+=("--${OPT[precision]}")
  [[ -z ${OPT[cpu]} ]] || model+=(--cpu)
  how --batch-size "$PER_GPU" --update-freq "$PASSES"
  if ((WORLD > 1)); then
    launcher
    [[ $IDENTITY == 1 ]] || command=("${LAUNCHER[@]}")
  elif [[ $IDENTITY == 0 ]]; then
    HOW+=(--distributed-world-size 1) # fairseq would take every GPU it sees
  fi
  [[ $IDENTITY == 0 ]] || HOW=(--batch-size "${OPT[batch-size]}")
  # --finetune-from-model is for the first start: afterwards the last checkpoint in --save-dir goes before it
  run "${command[@]}" "$DATA/data" --user-dir srformer_plugin --task summarization "${model[@]}" \
    --max-source-positions "${OPT[max-source]}" --dropout "${OPT[dropout]}" --attention-dropout "${OPT[dropout]}" \
    --criterion label_smoothed_cross_entropy --label-smoothing "${OPT[label-smoothing]}" \
    --optimizer fused_adam --adam-betas '(0.9, 0.999)' --adam-eps 1e-08 --weight-decay 0.01 --lr "${OPT[lr]}" \
    --clip-norm "${OPT[clip-norm]}" --lr-scheduler polynomial_decay --warmup-updates "${OPT[warmup-updates]}" \
    --total-num-update "$UPDATES" --max-update "$UPDATES" --required-batch-size-multiple 1 "${HOW[@]}" \
    --eval-rouge --eval-rouge-args "{\"beam\": 1, \"max_len_b\": ${OPT[max-target]}}" "${TEXT_FLAGS[@]}" \
    --best-checkpoint-metric rouge1 --maximize-best-checkpoint-metric --no-epoch-checkpoints \
    --validate-interval-updates "${OPT[validate-every]}" --save-interval-updates "${OPT[validate-every]}" \
    --keep-interval-updates 1 --save-dir "$OUT/train" --log-format json --log-interval 50 \
    --log-file "$OUT/train/train.log" --seed "${OPT[seed]}" "${WORDS[@]}"
  # the last and the best checkpoint stay
  run find "$OUT/train" -name 'checkpoint_*_*.pt' -delete
}

# The command that starts one process a GPU, in the array LAUNCHER.
launcher() {
  LAUNCHER=(torchrun --nproc-per-node "${OPT[gpus]}")
  if ((OPT[nodes] > 1)); then
    LAUNCHER+=(--nnodes "${OPT[nodes]}" --node-rank "${OPT[node-rank]}")
    LAUNCHER+=(--master-addr "${OPT[master]%:*}" --master-port "${OPT[master]##*:}")
  else
    LAUNCHER+=(--standalone)
  fi
  LAUNCHER+=(-m srformer_plugin.tools.distributed_train)
}

generate() {
  local TEXT_FLAGS machine=()
  split_words generate-args
  text_flags --
  [[ ${OPT[precision]} != fp16 ]] || machine+=(--fp16)
  [[ -z ${OPT[cpu]} ]] || machine+=(--cpu)
  run fairseq-generate "$DATA/data" --user-dir srformer_plugin --task summarization --gen-subset "$EVALUATED" \
    --path "$OUT/train/checkpoint_${OPT[checkpoint]}.pt" --results-path "$OUT/generate" "${machine[@]}" \
    --max-source-positions "${OPT[max-source]}" --beam "${OPT[beam]}" --lenpen "${OPT[lenpen]}" \
    --min-len "${OPT[min-len]}" --max-len-a 0 --max-len-b "${OPT[max-len]}" --no-repeat-ngram-size "${OPT[no-repeat]}" \
    --batch-size "${OPT[generate-batch-size]}" "${TEXT_FLAGS[@]}" --seed "${OPT[seed]}" --log-format simple \
    "${WORDS[@]}"
}

score() { # its table is shown at the end, also when this stage was done before
  split_words score-args
  ((DRY_RUN)) || exec >/dev/null
  run srformer-score "$OUT/generate/generate-$EVALUATED.txt" "$DATA/corpus/$EVALUATED.target" \
    --source "$DATA/corpus/$EVALUATED.source" --save "$OUT/score" \
    --per-example "$OUT/score/examples.jsonl" "${WORDS[@]}"
}

# ---- run --------------------------------------------------------------------------------

main() {
  parse "$@"
  [[ -z ${OPT[dry-run]} ]] || DRY_RUN=1
  PYTHON=${PYTHON:-python}
  BIN=$(dirname "$("$PYTHON" -c 'import sys; print(sys.executable)')") \
    || die "there is no $PYTHON: run \"make venv\" and \". .venv/bin/activate\""
  PATH=$BIN:$PATH PYTHON=python
  command -v fairseq-train >/dev/null \
    || die "$BIN has no fairseq-train: \". .venv/bin/activate\", or point PYTHON at an interpreter that has it"
  configure
  derive
  ON_CHANGE=${OPT[changed]}
  RESUMABLE=train
  ON_CHANGE_HELP="choose another --out, or give --changed redo (start over) or --changed keep (go on with what is there)"
  local command
  mapfile -t command < <(command_line)
  cd "$ROOT"
  export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH} PYTHONWARNINGS=${PYTHONWARNINGS-ignore}
  check
  ((OPT[node-rank] == 0)) || HELPS=1
  start_recipe "$(quoted "${command[@]}")" "${OPT[out]}"
  START_OVER="\"--changed redo\" redoes a stage, and another --out starts over."
  if ((OPT[node-rank] > 0)); then
    run_other_node
    return
  fi
  if ((DRY_RUN)); then
    printf '%s\n' "cd $ROOT" "export PYTHONPATH=$ROOT PATH=$BIN:\$PATH"
  else
    printf '%s\n' "${command[@]}" | write_settings
  fi
  run_stages
  ((DRY_RUN)) || ! selected score || cat "$OUT/score/score.txt"
}

run_stages() {
  if selected download; then
    ((DRY_RUN)) || rm -f "$OUT/.stages/download".* # it looks anew at what is there
    stage download "raw files and published weights" download
    ((DRY_RUN)) || rmdir "$OUT/download"
    CHAIN='' # the data are what they are, wherever they came from
  fi
  if [[ -z ${OPT[data-from]} ]]; then
    stage prepare=corpus "$FORMAT -> a document a line" prepare
    stage encode=encoded "texts -> ${OPT[bpe]} subwords, cut to ${OPT[max-source]} and ${OPT[max-target]}" encode
    stage binarise=data "fairseq-preprocess" binarise
  elif [[ -f $DATA/.stages/binarise.finished ]]; then
    CHAIN=$(<"$DATA/.stages/binarise.finished")
  fi
  stage train "${OPT[arch]}: an update is ${OPT[batch-size]} documents = $WORLD processes x $PER_GPU x $PASSES passes" train
  stage generate "beam search over $EVALUATED, checkpoint_${OPT[checkpoint]}.pt" generate
  stage score "ROUGE against the raw references" score
}

# Node 0 prepares, decodes and keeps the books; the others only train with it.
run_other_node() {
  local log=$OUT/logs/train.node${OPT[node-rank]}.log status
  selected train || return 0
  if ((DRY_RUN)); then
    dry_run train "node ${OPT[node-rank]}" train
    return
  fi
  [[ ! -f $OUT/.stages/train.finished ]] || return 0
  [[ -f $DATA/.stages/binarise.finished ]] \
    || die "the data in $DATA are not finished: run \"--to binarise\" on one node first"
  log "train: node ${OPT[node-rank]} of ${OPT[nodes]}; its log is $log"
  set +e
  run_logged "$log" train
  status=$?
  set -e
  ((status == 0)) || die "train failed on node ${OPT[node-rank]}: read $log"
}

write_settings() {
  local name settings=()
  for name in "${!OPT[@]}"; do settings+=(--setting "$name=${OPT[$name]}"); done
  "$PYTHON" -m recipes.settings "$OUT/settings.json" --recipe "$NAME" --seed "${OPT[seed]}" "${settings[@]}"
}
