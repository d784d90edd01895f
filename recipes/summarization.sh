# What the recipes of all data sets share: settings and their flags, the stages, the commands. Source it, do not run it.
#
# A recipe names its settings with `setting`, then calls `run_recipe "$@"`. Stages: download prepare encode binarise
# train generate score. What a stage is and how it resumes: recipes/lib.sh.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=recipes/lib.sh
source "$ROOT/recipes/lib.sh"

STAGES=(download prepare encode binarise train generate score)
declare -A SETTINGS=() HELP=()
ORDER=()

# setting NAME DEFAULT HELP: a setting that --NAME VALUE overrides.
setting() {
  [[ -n ${SETTINGS[$1]+set} ]] || ORDER+=("$1")
  SETTINGS[$1]=$2
  HELP[$1]=$3
}

# default NAME VALUE: another default for a setting that exists.
default() { SETTINGS[$1]=$2; }

# ---- settings of every data set; the paper's where it states them ---------------------------------------
setting raw "" "folder with the data set's raw files; see the stage download"
setting out "" "folder for everything the recipe writes (default: recipes_out/DATASET)"
setting model bart "bart or t5"
setting arch "" "fairseq architecture (default: srformer_bart or srformer_t5)"
setting cross-attention srformer "srformer, segmented or full"
setting segment-size 64 "source tokens per segment"
setting segment-schedule fixed "fixed or target"
setting max-source 1024 "source tokens, longer sources are cut"
setting max-target 1024 "target positions; the schedule's length is the mean training target"
setting bpe auto "auto, gpt2 (BART's, needs --gpt2-bpe) or sentencepiece (needs --spiece, or trains one of --vocabulary)"
setting gpt2-bpe "" "folder with encoder.json, vocab.bpe and dict.txt of GPT-2's BPE"
setting spiece "" "SentencePiece model to use, such as T5's spiece.model"
setting vocabulary 32000 "subwords of a SentencePiece model trained on the training split"
setting restore "" "checkpoint to start from, such as bart.base/model.pt (default: from scratch)"
setting lr 5e-5 "peak learning rate"
setting batch-size 8 "sentences per GPU and step"
setting update-freq 1 "steps per update"
setting max-epoch 10 "epochs"
setting max-update 0 "updates; 0: no limit"
setting warmup-updates 500 "updates until the peak learning rate"
setting total-num-update 100000 "updates over which the learning rate decays to 0"
setting precision fp16 "fp16, bf16 or fp32"
setting seed 1 "random seed"
setting beam 4 "beam size"
setting lenpen 2.0 "length penalty"
setting min-len 55 "least tokens of a summary"
setting max-len 140 "most tokens of a summary"
setting no-repeat 3 "length of n-grams that may not repeat"
setting generate-batch 16 "sentences per decoding batch"
setting gpus 1 "GPUs per node; 0: CPU"
setting nodes 1 "nodes; more than 1 prints what to start on each"
setting train-args "" "more flags for fairseq-train, in one string; the last one wins"
setting generate-args "" "more flags for fairseq-generate, in one string"

usage() {
  printf 'usage: bash recipes/%s.sh [--raw DIR] [--SETTING VALUE ...] [--from STAGE] [--to STAGE] [--only STAGE] [--dry-run]\n\n' "$DATASET"
  printf '%s\n\nstages: %s\n\n' "$WHAT" "${STAGES[*]}"
  printf '  %-28s %s\n' "--from, --to, --only STAGE" "run these stages only" "--dry-run" "print every command and run none"
  local name
  for name in "${ORDER[@]}"; do
    printf '  %-28s %s\n' "--$name" "${HELP[$name]}${SETTINGS[$name]:+ (default: ${SETTINGS[$name]})}"
  done
}

parse_arguments() {
  FROM=${STAGES[0]} TO=${STAGES[-1]} DRY_RUN=0
  local given=()
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --dry-run) DRY_RUN=1 ;;
      --from | --to | --only)
        [[ " ${STAGES[*]} " == *" ${2:-} "* ]] || die "$1 ${2:-}: no such stage; the stages are ${STAGES[*]}"
        [[ $1 == --to ]] || FROM=$2
        [[ $1 == --from ]] || TO=$2
        shift
        ;;
      --*)
        [[ -n ${SETTINGS[${1#--}]+set} ]] || die "unknown flag $1; bash recipes/$DATASET.sh --help lists them"
        (($# > 1)) || die "$1 needs a value"
        SETTINGS[${1#--}]=$2
        given+=("${1#--}")
        shift
        ;;
      *) die "unexpected argument $1; bash recipes/$DATASET.sh --help lists the flags" ;;
    esac
    shift
  done
  GIVEN=" ${given[*]-} "
  check_settings
}

# Everything that can be wrong is said before anything long begins.
check_settings() {
  local name
  [[ ${SETTINGS[model]} == bart || ${SETTINGS[model]} == t5 ]] || die "--model ${SETTINGS[model]}: choose bart or t5"
  [[ ${SETTINGS[precision]} =~ ^(fp16|bf16|fp32)$ ]] || die "--precision ${SETTINGS[precision]}: choose fp16, bf16 or fp32"
  for name in segment-size max-source max-target batch-size update-freq beam generate-batch nodes vocabulary; do
    [[ ${SETTINGS[$name]} =~ ^[1-9][0-9]*$ ]] || die "--$name ${SETTINGS[$name]}: must be a whole number of at least 1"
  done
  [[ ${SETTINGS[gpus]} =~ ^[0-9]+$ ]] || die "--gpus ${SETTINGS[gpus]}: must be a whole number; 0 means CPU"
  if [[ ${SETTINGS[bpe]} == auto ]]; then
    SETTINGS[bpe]=sentencepiece
    [[ ${SETTINGS[model]} == t5 || -z ${SETTINGS[gpt2-bpe]} ]] || SETTINGS[bpe]=gpt2
  fi
  case ${SETTINGS[bpe]} in
    gpt2)
      for name in encoder.json vocab.bpe dict.txt; do
        [[ -f ${SETTINGS[gpt2-bpe]}/$name ]] || die "--bpe gpt2 needs $name: --gpt2-bpe ${SETTINGS[gpt2-bpe]:-(not given)} has none. \
The three files are at https://dl.fbaipublicfiles.com/fairseq/gpt2_bpe/"
      done
      ;;
    sentencepiece) [[ -z ${SETTINGS[spiece]} || -f ${SETTINGS[spiece]} ]] || die "--spiece ${SETTINGS[spiece]}: no such file" ;;
    *) die "--bpe ${SETTINGS[bpe]}: choose auto, gpt2 or sentencepiece" ;;
  esac
  [[ -z ${SETTINGS[restore]} || -f ${SETTINGS[restore]} ]] || die "--restore ${SETTINGS[restore]}: no such file"
  : "${SETTINGS[arch]:=srformer_${SETTINGS[model]}}"
  : "${SETTINGS[out]:=recipes_out/$DATASET}"
}

# selected STAGE: whether --from, --to and --only leave it in.
selected() {
  local name inside=0
  for name in "${STAGES[@]}"; do
    [[ $name != "$FROM" ]] || inside=1
    if [[ $name == "$1" ]]; then
      return $((1 - inside))
    fi
    [[ $name != "$TO" ]] || inside=0
  done
  return 1
}

# run COMMAND...: in a dry run print it, quoted so that it can be pasted; else run it.
run() {
  if ((DRY_RUN)); then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# step STAGE WHAT FUNCTION: run a stage if it is selected.
step() {
  local name=$1 what=$2
  shift 2
  selected "$name" || return 0
  if ((DRY_RUN)); then
    printf '\n# %s: %s\n' "$name" "$what"
    "$@"
  else
    stage "$name" "$what" "$@"
  fi
}

# ---- stages; each is given everything it depends on, so that a change makes it run anew -----------------
prepare() { # OUT RAW FLAGS...
  local out=$1 raw=$2
  shift 2
  run "$PYTHON" -m data_prep.prepare "$FORMAT" "$raw" "$out" "$@"
}

encode() { # OUT CORPUS FLAGS...
  local out=$1 corpus=$2
  shift 2
  run "$PYTHON" -m data_prep.encode --corpus "$corpus" --out "$out" --workers "$(threads)" "$@"
}

binarise() { # OUT ENCODED DICTIONARY ("" makes one of both sides)
  local out=$1 encoded=$2 dictionary=(--joined-dictionary)
  [[ -z $3 ]] || dictionary=(--srcdict "$3" --tgtdict "$3")
  run "$BIN/fairseq-preprocess" --source-lang source --target-lang target --workers "$(threads)" --destdir "$out" \
    --trainpref "$encoded/train" --validpref "$encoded/valid" --testpref "$encoded/test" "${dictionary[@]}"
}

train() { # OUT DATA FLAGS...
  local out=$1 data=$2 launch=("$BIN/fairseq-train") devices=${SETTINGS[gpus]}
  shift 2
  if ((SETTINGS[nodes] > 1)); then
    # torchrun alone would train independent models: fairseq must be told the world size (docs/platform.md)
    launch=("$BIN/torchrun" --nnodes "${SETTINGS[nodes]}" --nproc-per-node "$devices" --rdzv-backend c10d
      --rdzv-endpoint "${RENDEZVOUS:-HOST:29500}" -m fairseq_cli.train)
    set -- "$@" --distributed-world-size $((SETTINGS[nodes] * devices))
    if ((!DRY_RUN)) && [[ -z ${RENDEZVOUS:-} ]]; then
      die "--nodes ${SETTINGS[nodes]}: set RENDEZVOUS=HOST:PORT of the first node and start this recipe on every node, \
for example: RENDEZVOUS=\$(hostname):29500 srun --nodes ${SETTINGS[nodes]} --ntasks-per-node 1 --gpus-per-node $devices \
bash recipes/$DATASET.sh --only train ..."
    fi
  elif ((devices == 0)); then
    set -- "$@" --cpu
  else
    set -- "$@" --distributed-world-size "$devices"
  fi
  run "${launch[@]}" "$data" --user-dir srformer_plugin --task summarization --save-dir "$out" "$@"
}

generate() { # OUT DATA CHECKPOINTS FLAGS...
  local out=$1 data=$2 checkpoint=$3/checkpoint_best.pt
  shift 3
  ((SETTINGS[gpus] > 0)) || set -- "$@" --cpu
  run "$BIN/fairseq-generate" "$data" --user-dir srformer_plugin --task summarization --gen-subset test \
    --path "$checkpoint" --results-path "$out" "$@"
}

score() { # OUT DECODED CORPUS
  local out=$1
  run "$PYTHON" -m srformer_plugin.scoring "$2/generate-test.txt" "$3/test.target" --source "$3/test.source" \
    --also chrf --per-example "$out/examples.jsonl" --json-file "$out/scores.json"
}

# ---- the recipe ---------------------------------------------------------------------------------------
run_recipe() {
  parse_arguments "$@"
  cd "$ROOT"
  if ((DRY_RUN)); then
    OUT=${SETTINGS[out]}
  else
    start_recipe "bash recipes/$DATASET.sh" "${SETTINGS[out]}"
  fi
  find_interpreter

  local text=("--bpe" "${SETTINGS[bpe]}" --max-source "${SETTINGS[max-source]}") dictionary="" remove=sentencepiece
  case ${SETTINGS[bpe]} in
    gpt2)
      text+=(--gpt2-bpe "${SETTINGS[gpt2-bpe]}")
      dictionary=${SETTINGS[gpt2-bpe]}/dict.txt
      remove=gpt2
      ;;
    sentencepiece)
      if [[ -n ${SETTINGS[spiece]} ]]; then text+=(--spiece "${SETTINGS[spiece]}"); else text+=(--vocabulary "${SETTINGS[vocabulary]}"); fi
      ;;
  esac
}
