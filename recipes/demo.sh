#!/usr/bin/env bash
# shellcheck disable=SC2046 # the flags that a function prints are words
# The whole way of a summarizer on two CPU cores in about ten minutes: corpus, SentencePiece, fairseq-preprocess, training,
# beam search, scores. SRformer stands beside the same model without its memory (--cross-attention segmented).
#
#   make demo            run, or go on where an interrupted run stopped
#   make demo MODEL=t5   the same with SRformer-T5 in the place of SRformer-BART
#   make demo CLEAN=1    start over
#
# Environment: PYTHON  an interpreter with the package installed (default: .venv, made by `make venv` if absent)
#              DEMO_OUT  output folder (default: demo_out, demo_out_t5)
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"
# shellcheck source=recipes/lib.sh
source recipes/lib.sh

# ---- settings --------------------------------------------------------------------------------
VOCABULARY=4000
SEED=2 # of the splits
MAX_SOURCE_WORDS=40 # of the description; with the header about 85 subwords, that is two segments
MAX_UPDATES=3000
MAX_HOURS=0.13 # guard for a slow machine: a training ends after 7.8 minutes
DATA_FLAGS=(
  --user-dir srformer_plugin --task translation --truncate-source --max-source-positions 192 --max-target-positions 256
)
SIZE_FLAGS=(
  --segment-size 64 --share-all-embeddings --dropout 0 --attention-dropout 0
  --encoder-layers 1 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 2
  --decoder-layers 2 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 2
)
OPTIMIZER_FLAGS=(
  --lr-scheduler polynomial_decay --warmup-updates 50 --max-tokens 1024 --required-batch-size-multiple 1
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1
)
case ${MODEL:=bart} in
  bart)
    MODEL_FLAGS=(--arch srformer_bart --encoder-normalize-before --decoder-normalize-before)
    OPTIMIZER_FLAGS+=(--optimizer fused_adam --adam-betas '(0.9, 0.98)' --lr 1.5e-3 --weight-decay 0.01 --clip-norm 1.0)
    ;;
  t5) # its embeddings are N(0, 1): only steps that are relative to a weight's size, T5's own, move them in time
    MODEL_FLAGS=(--arch srformer_t5 --activation-dropout 0)
    OPTIMIZER_FLAGS+=(--optimizer adafactor --scale-parameter --lr 5e-2 --weight-decay 0 --clip-norm 0)
    ;;
  *) MODEL_FLAGS=() ;; # refused below
esac
MODEL_FLAGS+=("${SIZE_FLAGS[@]}")
SEARCH_FLAGS=(--beam 4 --no-repeat-ngram-size 3 --max-len-b 60 --lenpen 1)

attention_flags() { # NAME
  printf '%s' "--cross-attention $1"
  # without a gate that starts closed, the untrained memory drowns the source's segment for hundreds of updates
  [[ $1 == segmented ]] || printf '%s' " --memory-gate"
}

# ---- stages --------------------------------------------------------------------------------
encode() { # OUT CORPUS VOCABULARY: train a SentencePiece model, apply it to every split
  local out=$1 corpus=$2
  "$PYTHON" -m data_prep.sentencepiece_lines --out "$out" --corpus "$corpus" --vocabulary "$3" --fold-case
}

binarise() { # OUT ENCODED
  "$BIN/fairseq-preprocess" --source-lang source --target-lang target --joined-dictionary --workers "$(threads)" \
    --trainpref "$2/train" --validpref "$2/valid" --testpref "$2/test" --destdir "$1"
}

train() { # OUT DATA FLAGS...
  local out=$1 data=$2
  shift 2
  "$BIN/fairseq-train" "$data" "${DATA_FLAGS[@]}" --cpu --seed 1 \
    --save-dir "$out" --log-format json --log-interval 25 --log-file "$out/train.log" --num-workers 0 \
    --save-interval-updates 100 --keep-interval-updates 1 --no-epoch-checkpoints "$@"
}

initialise() { # FILE DATA FLAGS...: a checkpoint of untrained weights
  local out=$1 data=$2
  shift 2
  "$PYTHON" -m recipes.initial_weights "$out" "$data" "${DATA_FLAGS[@]}" --cpu --seed 1 "$@"
}

generate() { # OUT DATA CHECKPOINT FLAGS...
  local out=$1 data=$2 checkpoint=$3
  shift 3
  "$BIN/fairseq-generate" "$data" "${DATA_FLAGS[@]}" --cpu --gen-subset test \
    --path "$checkpoint" --results-path "$out" --remove-bpe sentencepiece --max-tokens 8000 \
    --log-format tqdm "$@"
}

report() { # FLAGS...: quiet, since the table is shown below, also when this stage was done before
  "$PYTHON" -m recipes.demo_report "$@" >/dev/null
}

# ---- environment --------------------------------------------------------------------------------
[[ $MODEL == bart || $MODEL == t5 ]] || die "MODEL=$MODEL: there is no such demo; choose bart or t5"
if [[ $MODEL == bart ]]; then
  start_recipe "make demo" "${DEMO_OUT:-demo_out}"
else
  start_recipe "make demo MODEL=$MODEL" "${DEMO_OUT:-demo_out_$MODEL}"
fi
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=.venv/bin/python
  [[ -x $PYTHON ]] || make venv
fi
BIN=$(dirname "$("$PYTHON" -c 'import sys; print(sys.executable)')")
[[ -x $BIN/fairseq-train ]] || die "$BIN has no fairseq-train: run \"make venv\", or point PYTHON at an interpreter that has it"
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}

# ---- run --------------------------------------------------------------------------------
stage corpus "docstrings of what is installed -> description and summary line" \
  "$PYTHON" -m data_prep.docstring_corpus --out "$OUT/corpus" --max-source "$MAX_SOURCE_WORDS" --add-short --seed "$SEED"
stage encoded "SentencePiece model of $VOCABULARY subwords, applied to the corpus" \
  encode "$OUT/encoded" "$OUT/corpus" "$VOCABULARY"
stage data "fairseq-preprocess" \
  binarise "$OUT/data" "$OUT/encoded"
train_one() { # NAME: srformer or segmented, on one core
  local start=()
  [[ $MODEL != bart ]] || start=(--finetune-from-model "$OUT/initial/$1.pt")
  OMP_NUM_THREADS=1 train "$OUT/training/$1" "$OUT/data" $(attention_flags "$1") "${MODEL_FLAGS[@]}" "${OPTIMIZER_FLAGS[@]}" \
    "${start[@]}" --max-update "$MAX_UPDATES" --total-num-update "$MAX_UPDATES" --stop-time-hours "$MAX_HOURS"
}

train_both() { # the flags are arguments only so that another value is another stage
  mkdir -p "$OUT/training/srformer" "$OUT/training/segmented"
  side_by_side train_one srformer segmented
}

initialise_both() {
  local name
  for name in srformer segmented; do
    initialise "$OUT/initial/$name.pt" "$OUT/data" $(attention_flags "$name") "${MODEL_FLAGS[@]}"
  done
}

# BART's own initial values suit wider models; T5's suit any width
[[ $MODEL != bart ]] || stage initial "untrained weights" initialise_both "${MODEL_FLAGS[@]}"
stage training "SRformer and segmented attention side by side, one core each, $MAX_UPDATES updates" \
  train_both "$MAX_UPDATES" "$MAX_HOURS" "${MODEL_FLAGS[@]}" "${OPTIMIZER_FLAGS[@]}"
for name in srformer segmented; do
  stage "$name" "beam search over the test split" \
    generate "$OUT/$name" "$OUT/data" "$OUT/training/$name/checkpoint_last.pt" "${SEARCH_FLAGS[@]}"
done
stage report "scores, learning curves, examples" \
  report --out "$OUT/report" --source "$OUT/corpus/test.source" --reference "$OUT/corpus/test.target" \
  --system SRformer "$OUT/srformer/generate-test.txt" "$OUT/training/srformer/train.log" \
  --system segmented "$OUT/segmented/generate-test.txt" "$OUT/training/segmented/train.log"
cat "$OUT/report/table.md"
log "in $OUT/report: results.json, examples.md, learning_curves.png"
