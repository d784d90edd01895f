# shellcheck shell=bash
# The options of the recipes: one table, from which the parser and --help both come. Source it, do not run it.

STAGES="download prepare encode binarise train generate score"

# A line: name|value|default|help. The value is what may be given: N (a whole number), X (a number), FILE (there
# already), FOLDER, TEXT, a comma-separated list of choices, or nothing for a switch. A line without | is a heading.
OPTION_TABLE="Stages
from|${STAGES// /,}|download|the first stage to run
to|${STAGES// /,}|score|the last stage to run
only|${STAGES// /,}||run this stage alone
dry-run|||print every command and do nothing
changed|stop,redo,keep|stop|a finished stage with other settings: stop and say so, redo it, or keep its folder and go on in it
Folders and files
out|FOLDER|@out|the experiment: all that is made
raw|FOLDER|@raw|the raw files; if it is named and not empty, nothing is downloaded into it
data-from|FOLDER||another experiment, whose corpus, encoded and data are used instead of making them again
pretrained|FOLDER|pretrained|where published weights are kept
init|FILE|@init|a fairseq checkpoint to start from, or \"scratch\"
dict|FILE|@dict|its dictionary
gpt2-files|FOLDER|@gpt2-files|encoder.json and vocab.bpe of GPT-2's BPE, and dict.txt
spiece|FILE|@spiece|a SentencePiece model
Data
splits|TEXT|train valid test|the splits there are; the last one is scored
bpe|gpt2,sentencepiece|@bpe|how texts become subwords
vocabulary|N|32000|subwords of a SentencePiece model that is trained here
max-source|N|1024|tokens of a source, the end of sentence included; longer ones are cut
max-target|N|128|tokens of a target in training and validation; references are never cut
sentence-marks|||train on the mark <q> between sentences of targets, which is left out otherwise
Model
model|bart,t5|bart|the family
arch|TEXT|@arch|fairseq's architecture
cross-attention|srformer,segmented,full||(of the architecture: srformer)
segment-size|N||source tokens per segment (of the architecture: 64)
Training
batch-size|N|16|documents an update takes in, on all GPUs together
gpu-batch-size|N|16|documents one GPU takes at once; an update has as many passes as that needs
epochs|N|10|how long
max-update|N||updates, instead of --epochs
lr|X|5e-5|highest learning rate of Adam, reached after the warm-up, then falling in a line to 0
warmup-updates|N|500|updates until --lr is reached
dropout|X|0.1|of layers and of attention weights
label-smoothing|X|0.1|weight of a uniform distribution over words in the loss
clip-norm|X|0.1|largest norm of the gradients
precision|bf16,fp16,fp32|bf16|of training on a GPU (fp16: generation as well); fp32 with --cpu
validate-every|N|2000|updates between validations with ROUGE, each followed by a checkpoint
seed|N|1|of weights, order of batches and dropout
Decoding
checkpoint|best,last|best|best: by ROUGE-1 of 1,000 validation documents, decoded greedily
beam|N|4|
lenpen|X|1|a score is divided by the length to this power; above 1 favours long ones
min-len|N|1|tokens
max-len|N|128|tokens
no-repeat|N|3|no n-gram of this length twice; 0: any
generate-batch-size|N|32|documents at once
Machine
gpus|N|1|GPUs of each node (CUDA_VISIBLE_DEVICES says which), or processes with --cpu
nodes|N|1|machines; the recipe runs on each (see docs/recipes.md)
node-rank|N||number of this machine, from 0 (in SLURM: SLURM_NODEID)
master|TEXT||HOST:PORT of node 0 (in SLURM: the first host of the job)
cpu|||train and decode on the processor
workers|N|@workers|processes that prepare data
More flags of the tools, put last, so that they win (quotes within as in a shell)
prepare-args|TEXT||of python -m data_prep.prepare, such as \"--max-malformed 0.05\"
encode-args|TEXT||of python -m data_prep.encode
binarise-args|TEXT||of fairseq-preprocess
train-args|TEXT||of fairseq-train, such as \"--memory-gate --adam-betas '(0.9, 0.98)'\"
generate-args|TEXT||of fairseq-generate
score-args|TEXT||of srformer-score"

# Defaults that depend on other options, as --help puts it; `derive` in derived.sh computes them.
declare -A DERIVED=(
  [out]="experiments/NAME-MODEL" [raw]="raw/NAME" [init]="the published weights of --arch, in --pretrained"
  [dict]="dict.txt or dict.source.txt beside --init" [gpt2-files]="PRETRAINED/gpt2_bpe"
  [spiece]="beside --init, or trained on the training split" [bpe]="gpt2 for bart, sentencepiece for t5"
  [arch]="srformer_bart_base or srformer_t5_small" [workers]="one a core"
)

declare -A OPT=() KIND=()  # values, and what may be given
declare -a GIVEN=()        # names in the order of the command line

# Read OPTION_TABLE, and the recipe's own OPTIONS in the same form: defaults and kinds.
read_table() {
  local name kind default help
  while IFS='|' read -r name kind default help; do
    [[ -n $kind$default$help ]] || continue
    KIND[$name]=$kind
    [[ $default == @* ]] && default=
    OPT[$name]=$default
  done <<<"${OPTIONS:-}"$'\n'"$OPTION_TABLE"
}

# defaults --NAME VALUE...: the recipe's own defaults.
defaults() {
  while (($#)); do
    check_name "$1"
    OPT[${1#--}]=$2
    shift 2
  done
}

check_name() { # --NAME
  [[ $1 == --?* && -v KIND[${1#--}] ]] || die "unknown option $1: \"bash $PROGRAM --help\" lists what there is"
}

# parse ARGUMENTS...: the command line into OPT and GIVEN. Both "--name value" and "--name=value" are taken.
parse() {
  local name value
  while (($#)); do
    case $1 in
      -h | --help)
        show_help
        exit 0
        ;;
      --*=*)
        name=${1%%=*} value=${1#*=}
        check_name "$name"
        [[ -n ${KIND[${name#--}]} ]] || die "$name takes no value"
        shift
        ;;
      *)
        name=$1
        check_name "$name"
        if [[ -z ${KIND[${name#--}]} ]]; then
          value=1
        else
          (($# >= 2)) || die "$name needs a value: ${KIND[${name#--}]}"
          value=$2
          shift
        fi
        shift
        ;;
    esac
    name=${name#--}
    check_value "$name" "$value"
    [[ " ${GIVEN[*]} " == *" $name "* ]] || GIVEN+=("$name")
    case ${KIND[$name]} in
      FILE | FOLDER) [[ $name == init && $value == scratch ]] || value=$(realpath --canonicalize-missing "$value") ;;
    esac
    OPT[$name]=$value
  done
}

check_value() { # NAME VALUE
  local kind=${KIND[$1]}
  case $kind in
    N) [[ $2 =~ ^[0-9]+$ ]] || die "--$1 $2: a whole number is needed" ;;
    X) [[ $2 =~ ^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$ ]] || die "--$1 $2: a number is needed" ;;
    FILE) [[ -f $2 || ($1 == init && $2 == scratch) ]] || die "--$1 $2: there is no such file" ;;
    FOLDER) [[ -n $2 ]] || die "--$1 needs the name of a folder" ;;
    *,*) [[ ",$kind," == *",$2,"* && $2 != *,* ]] || die "--$1 $2: choose one of ${kind//,/, }" ;;
  esac
}

# Every line of the table, with the default of this recipe.
show_help() {
  local name kind default help left
  printf '%s\n\n  bash %s [options]\n' "$TITLE" "$PROGRAM"
  while IFS='|' read -r name kind default help; do
    [[ -n $name ]] || continue
    if [[ ! -v KIND[$name] ]]; then
      printf '\n%s\n' "$name"
      continue
    fi
    [[ $default == @* && -z ${OPT[$name]} ]] && default=${DERIVED[$name]} || default=${OPT[$name]}
    left="--$name ${kind//,/|}"
    # the choices of a stage would fill the line
    [[ $kind != *,*,*,*,* ]] || left="--$name STAGE"
    help="$help${default:+ (default: $default)}"
    help=${help# }
    printf '%s\n' "$help" | fold -s -w 80 | while IFS= read -r help; do
      printf '  %-36s %s\n' "$left" "$help"
      left=
    done
  done <<<"${OPTIONS:+This recipe$'\n'$OPTIONS$'\n'}$OPTION_TABLE"
  printf '\nStages: %s\n' "$STAGES"
}

# shellcheck disable=SC2034 # WORDS is for the caller
# split_words NAME: the words of option NAME in the array WORDS, quotes as in a shell, nothing else expanded.
split_words() {
  local words
  words=$(xargs -r printf '%s\n' <<<"${OPT[$1]}" 2>/dev/null) || die "--$1 ${OPT[$1]}: a quote is not closed"
  WORDS=()
  [[ -z $words ]] || mapfile -t WORDS <<<"$words"
}

# command_line: the command that repeats this run, of what was given, but for what only chooses the part to run.
command_line() {
  local name
  printf '%s\n' bash "$PROGRAM_PATH"
  for name in "${GIVEN[@]}"; do
    [[ " from to only dry-run changed node-rank master " != *" $name "* ]] || continue
    printf '%s\n' "--$name"
    [[ -z ${KIND[$name]} ]] || printf '%s\n' "${OPT[$name]}"
  done
}
