# shellcheck shell=bash
# shellcheck disable=SC2004,SC2034,SC2153,SC2154 # variables of the recipe, of options.sh and of summarization.sh
# What follows from the options of a recipe, and the errors that would show only after hours. Source it, do not run it.

given() { [[ " ${GIVEN[*]} " == *" $1 "* ]]; } # NAME: whether the command line has it

# set_default NAME VALUE: for an option that was not given.
set_default() { [[ -n ${OPT[$1]} ]] || OPT[$1]=$2; }

# The settings that the data of --data-from were made with.
inherit() {
  local name value file=${OPT[data-from]}/settings.json
  [[ -n ${OPT[data-from]} && -f $file ]] || return 0
  for name in bpe gpt2-files spiece dict splits max-source max-target sentence-marks; do
    value=$(sed -n "s/^  \"$name\": \"\(.*\)\",\{0,1\}$/\1/p" "$file") # as recipes/settings.py writes it
    if ! given "$name"; then
      OPT[$name]=$value
    elif [[ $name == bpe && ${OPT[bpe]} != "$value" ]]; then
      die "--bpe ${OPT[bpe]}, but the data of --data-from are in $value"
    fi
  done
}

derive() {
  local published=scratch pretrained beside
  inherit
  pretrained=$(realpath --canonicalize-missing "${OPT[pretrained]}")
  OPT[pretrained]=$pretrained
  set_default out "$PWD/experiments/$NAME-${OPT[model]}"
  set_default raw "$PWD/raw/$NAME"
  set_default workers "$(threads)"
  if [[ ${OPT[model]} == bart ]]; then
    set_default arch srformer_bart_base
    set_default bpe gpt2
  else
    set_default arch srformer_t5_small
    set_default bpe sentencepiece
  fi
  case ${OPT[arch]} in
    srformer_bart | srformer_bart_base) published=$pretrained/bart.base/model.pt ;;
    srformer_bart_large) published=$pretrained/bart.large/model.pt ;;
    srformer_t5 | srformer_t5_small) published=$pretrained/t5-small/model.pt ;;
    srformer_t5_base | srformer_t5_large) published=$pretrained/${OPT[arch]/srformer_t5_/t5-}/model.pt ;;
    *)
      [[ -n ${OPT[init]} ]] \
        || die "--arch ${OPT[arch]}: no published weights are known; name some with --init FILE, or say --init scratch"
      ;;
  esac
  set_default init "$published"
  set_default gpt2-files "$pretrained/gpt2_bpe"
  if [[ ${OPT[init]} != scratch ]]; then
    beside=$(dirname "${OPT[init]}")
    if [[ -f $beside/dict.source.txt || $beside == "$pretrained"/t5-* ]]; then
      set_default dict "$beside/dict.source.txt"
    else
      set_default dict "$beside/dict.txt"
    fi
    [[ ${OPT[bpe]} == gpt2 ]] || set_default spiece "$beside/spiece.model"
  elif [[ ${OPT[bpe]} == gpt2 ]]; then
    set_default dict "${OPT[gpt2-files]}/dict.txt"
  fi
  [[ -z ${OPT[cpu]} ]] || OPT[precision]=fp32
  if [[ -n ${OPT[only]} ]]; then
    OPT[from]=${OPT[only]} OPT[to]=${OPT[only]}
  elif [[ -n ${OPT[data-from]} ]] && ! given from; then
    OPT[from]=train
  fi
  read -ra SPLITS <<<"${OPT[splits]}"
  EVALUATED=${SPLITS[-1]}
  DATA=${OPT[data-from]:-${OPT[out]}}
  share_batch
  find_node
}

position() { # STAGE: its number
  local before=" $STAGES "
  before=${before%% "$1" *}
  wc -w <<<"$before"
}

selected() { (($(position "${OPT[from]}") <= $(position "$1") && $(position "$1") <= $(position "${OPT[to]}"))); }

# One update takes --batch-size documents, however many GPUs there are.
share_batch() {
  local batch=${OPT[batch-size]}
  WORLD=$((OPT[gpus] * OPT[nodes]))
  ((WORLD >= 1)) || die "--gpus and --nodes must be at least 1; without a GPU say --cpu"
  ((batch >= 1 && OPT[gpu-batch-size] >= 1)) || die "--batch-size and --gpu-batch-size must be at least 1"
  ((batch % WORLD == 0)) || die "--batch-size $batch cannot be shared by $WORLD GPUs: choose a multiple of $WORLD"
  PASSES=$(((batch / WORLD + OPT[gpu-batch-size] - 1) / OPT[gpu-batch-size]))
  while ((batch % (WORLD * PASSES))); do PASSES=$((PASSES + 1)); done
  PER_GPU=$((batch / WORLD / PASSES))
}

# Which of the nodes this is, and where the first one listens.
find_node() {
  local tasks=${SLURM_STEP_NUM_TASKS:-${SLURM_NTASKS:-1}}
  if ((OPT[nodes] == 1)); then
    # every task would train a model of its own in the same folder
    [[ -z ${SLURM_STEP_ID:-} || $tasks == 1 ]] \
      || die "srun has started this $tasks times: say --nodes $tasks, with one task a node"
    OPT[node-rank]=0
    return
  fi
  set_default node-rank "${SLURM_NODEID:-}"
  [[ -n ${OPT[node-rank]} ]] \
    || die "--nodes ${OPT[nodes]}: say which one this is with --node-rank (0 to $((OPT[nodes] - 1)))"
  ((OPT[node-rank] < OPT[nodes])) || die "--node-rank ${OPT[node-rank]}: there are ${OPT[nodes]} nodes, from 0"
  if [[ -z ${OPT[master]} && -n ${SLURM_JOB_NODELIST:-} ]]; then
    OPT[master]=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 20000))
  fi
  [[ ${OPT[master]} == *:* ]] || die "--nodes ${OPT[nodes]}: say where node 0 listens with --master HOST:PORT"
}

# Errors that would show only after hours.
check() {
  local found name
  for name in "${!OPT[@]}"; do [[ $name != *-args ]] || split_words "$name"; done
  (($(position "${OPT[from]}") <= $(position "${OPT[to]}"))) || die "--from ${OPT[from]} comes after --to ${OPT[to]}"
  if [[ -n ${OPT[data-from]} ]]; then
    ! selected binarise || die "--data-from: its data are ready; begin with --from train"
    [[ -f $DATA/.stages/binarise.finished || $DRY_RUN == 1 ]] || die "--data-from $DATA has no finished data"
  fi
  [[ ${OPT[arch]} == *"${OPT[model]}"* ]] || die "--arch ${OPT[arch]} is no --model ${OPT[model]}"
  [[ $DRY_RUN == 0 ]] || return 0
  if selected prepare && ! selected download && [[ ! -d ${OPT[raw]} ]]; then
    die "--raw ${OPT[raw]}: there is no such folder"
  fi
  if selected train && [[ ! -f ${OPT[init]} && ${OPT[init]} != scratch ]] && ! selected download; then
    die "--init ${OPT[init]} is missing: run the download stage, or name a checkpoint, or say --init scratch"
  fi
  if [[ -z ${OPT[cpu]} ]] && { selected train || selected generate; }; then
    found=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
    ((found > 0)) || die "PyTorch sees no GPU: run this where there is one, or say --cpu (slow)"
    ((found >= OPT[gpus])) || die "--gpus ${OPT[gpus]}, but PyTorch sees $found"
  fi
}
