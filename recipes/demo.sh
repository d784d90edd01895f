#!/usr/bin/env bash
# The whole way of a summarizer on two CPU cores in about eight minutes: corpus, SentencePiece, fairseq-preprocess,
# training, beam search, scores. The paper's SRformer, the same without its memory, and segments chosen by content.
#
#   make demo            run, or go on where an interrupted run stopped
#   make demo MODEL=t5   the same with SRformer-T5 in the place of SRformer-BART
#   make demo CLEAN=1    start over
#
# Environment: PYTHON  an interpreter with the package installed; DEMO_OUT  output folder (demo_out, demo_out_t5);
#              DRY_RUN=1  print the commands and do nothing; UPDATES  of each training
# shellcheck source=recipes/recipe.sh
source "$(dirname "${BASH_SOURCE[0]}")/recipe.sh"
python_of_the_environment

# Without a gate that starts closed, the untrained memory drowns the source's segment for hundreds of updates.
declare -A SYSTEMS=([srformer]="--cross-attention srformer --memory-gate" [segmented]="--cross-attention segmented"
  [content]="--cross-attention segmented --segment-schedule content --segments-per-query 2")
ORDER=(srformer segmented content) UPDATES=${UPDATES:-1000}
TASK=(--user-dir srformer_plugin --task translation --truncate-source --max-source-positions 192
  --max-target-positions 256)
SIZE=(--segment-size 16 --share-all-embeddings --dropout 0 --attention-dropout 0
  --encoder-layers 1 --encoder-embed-dim 128 --encoder-ffn-embed-dim 512 --encoder-attention-heads 2
  --decoder-layers 2 --decoder-embed-dim 128 --decoder-ffn-embed-dim 512 --decoder-attention-heads 2)
case ${MODEL:=bart} in
  bart)
    OUT=${DEMO_OUT:-demo_out} AGAIN="make demo"
    MODEL_FLAGS=(--arch srformer_bart --encoder-normalize-before --decoder-normalize-before "${SIZE[@]}")
    STEPS=(--optimizer fused_adam --adam-betas '(0.9, 0.98)' --lr 1.5e-3 --weight-decay 0.01 --clip-norm 1.0)
    ;;
  t5) # its embeddings are N(0, 1): only steps that are relative to a weight's size, T5's own, move them in time
    OUT=${DEMO_OUT:-demo_out_t5} AGAIN="make demo MODEL=t5"
    MODEL_FLAGS=(--arch srformer_t5 --activation-dropout 0 "${SIZE[@]}")
    STEPS=(--optimizer adafactor --scale-parameter --lr 5e-2 --weight-decay 0 --clip-norm 0)
    ;;
  *) die "MODEL=$MODEL: there is no such demo; choose bart or t5" ;;
esac
OUT=$(realpath --canonicalize-missing "$OUT")
book out="$OUT" again="$AGAIN" changed=redo clean="${CLEAN:-}" remedy="\"$AGAIN CLEAN=1\" starts over"

stage corpus "docstrings of what is installed -> description and summary line"
# with the header 40 words are about 85 subwords, that is five or six segments
run python -m data_prep.docstring_corpus --out "$OUT/corpus" --max-source 40 --add-short --seed 2

stage encoded "SentencePiece model of 4,000 subwords, applied to the corpus"
run python -m data_prep.encode "$OUT/corpus" "$OUT/encoded" --bpe sentencepiece --vocabulary 4000 --fold-case

stage data "fairseq-preprocess"
run fairseq-preprocess --source-lang source --target-lang target --joined-dictionary [ --workers "$(nproc)" ] \
  --trainpref "$OUT/encoded/train" --validpref "$OUT/encoded/valid" --testpref "$OUT/encoded/test" --destdir "$OUT/data"

START=()
if [[ $MODEL == bart ]]; then # its own initial values suit wider models; T5's suit any width
  stage initial "untrained weights"
  for name in "${ORDER[@]}"; do
    read -ra attention <<<"${SYSTEMS[$name]}"
    run python -m recipes.initial_weights "$OUT/initial/$name.pt" "$OUT/data" "${TASK[@]}" --cpu --seed 1 \
      "${attention[@]}" "${MODEL_FLAGS[@]}"
  done
fi

stage training "${ORDER[*]}: $UPDATES updates, one core each" --at-once 2 --resumable
for name in "${ORDER[@]}"; do
  read -ra attention <<<"${SYSTEMS[$name]}"
  [[ $MODEL != bart ]] || START=(--finetune-from-model "$OUT/initial/$name.pt")
  run_as "$name" env OMP_NUM_THREADS=1 fairseq-train "$OUT/data" "${TASK[@]}" --cpu --seed 1 "${attention[@]}" \
    "${MODEL_FLAGS[@]}" "${STEPS[@]}" "${START[@]}" --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --lr-scheduler polynomial_decay --warmup-updates 50 --total-num-update "$UPDATES" --max-update "$UPDATES" \
    --stop-time-hours 0.1 --max-tokens 1024 --required-batch-size-multiple 1 --num-workers 0 \
    --save-interval-updates 100 --keep-interval-updates 1 --no-epoch-checkpoints --save-dir "$OUT/training/$name" \
    --log-format json --log-interval 25 --log-file "$OUT/training/$name.log"
done

REPORT=()
for name in "${ORDER[@]}"; do
  stage "$name" "beam search over the test split" --after training
  run fairseq-generate "$OUT/data" "${TASK[@]}" --cpu --gen-subset test --remove-bpe sentencepiece --max-tokens 8000 \
    --path "$OUT/training/$name/checkpoint_last.pt" --results-path "$OUT/$name" --log-format tqdm \
    --beam 4 --no-repeat-ngram-size 3 --max-len-b 60 --lenpen 1
  REPORT+=(--system "${name/srformer/SRformer}" "$OUT/$name/generate-test.txt" "$OUT/training/$name.log")
done
stage report "scores, learning curves, examples" --after "${ORDER[@]}"
run python -m recipes.report.demo --out "$OUT/report" --source "$OUT/corpus/test.source" \
  --reference "$OUT/corpus/test.target" "${REPORT[@]}"

carry_out "$OUT/report/table.md"
