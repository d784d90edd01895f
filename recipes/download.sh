# shellcheck shell=bash
# Downloads of the recipes. Source it, do not run it. Whatever is there already is kept and not fetched again.

# fetch FILE URL [SHA256]: download to FILE, which appears whole and with the right checksum, or not at all.
fetch() {
  local file=$1 url=$2 sha256=${3:-}
  if [[ $DRY_RUN == 0 && -e $file ]]; then
    echo "$file is there"
    return
  fi
  run mkdir -p "$(dirname "$file")"
  run curl --fail --location --retry 3 --continue-at - --output "$file.partial" "$url" \
    || by_hand "$file" "$url" "$sha256"
  [[ -z $sha256 ]] || check_sha256 "$file.partial" "$sha256"
  run mv "$file.partial" "$file"
}

check_sha256() { # FILE SHA256
  local found
  if [[ $DRY_RUN == 1 ]]; then
    echo "echo '$2  $1' | sha256sum --check"
    return
  fi
  found=$(sha256sum "$1" | cut -d' ' -f1)
  if [[ $found != "$2" ]]; then
    rm -f "$1"
    die "${1%.partial} is not the published file: its sha256 is $found, not $2; run this again to fetch it anew"
  fi
}

# fetch_archive FOLDER ENTRY URL [SHA256]: download an archive and unpack it in FOLDER, where it brings ENTRY.
fetch_archive() {
  local folder=$1 entry=$2 url=$3 sha256=${4:-} archive
  archive=$folder/$(basename "$url")
  if [[ $DRY_RUN == 0 && -e $folder/$entry ]]; then
    echo "$folder/$entry is there"
    return
  fi
  fetch "$archive" "$url" "$sha256"
  unpack "$archive" "$folder" "$entry"
  run rm "$archive"
}

# unpack ARCHIVE FOLDER ENTRY: by way of another folder, so that what is in FOLDER is whole.
unpack() {
  run rm -rf "$2/unpacking"
  run mkdir -p "$2/unpacking"
  case $1 in
    *.zip) run "$PYTHON" -m zipfile -e "$1" "$2/unpacking" ;;
    *) run tar --extract --no-same-owner --file "$1" --directory "$2/unpacking" ;;
  esac
  run mv "$2/unpacking/$3" "$2/$3"
  run rm -r "$2/unpacking"
}

# by_hand FILE URL [SHA256]: say what to fetch and where to put it, and fail.
by_hand() {
  log "error: $1 is missing and cannot be fetched from here." >&2
  printf '  fetch   %s\n  put it  %s\n' "$2" "$1" >&2
  [[ -z ${3:-} ]] || printf '  sha256  %s\n' "$3" >&2
  die "then run this again; nothing after the download needs the network"
}

# What the model needs besides the data: BPE files and published weights, unless others were named.
fetch_model() {
  local base=https://dl.fbaipublicfiles.com/fairseq
  if [[ ${OPT[bpe]} == gpt2 && ${OPT[gpt2-files]} == "${OPT[pretrained]}/gpt2_bpe" ]]; then
    fetch "${OPT[gpt2-files]}/encoder.json" $base/gpt2_bpe/encoder.json "$(gpt2_sha256 ENCODER)"
    fetch "${OPT[gpt2-files]}/vocab.bpe" $base/gpt2_bpe/vocab.bpe "$(gpt2_sha256 MERGES)"
    [[ ${OPT[dict]} != "${OPT[gpt2-files]}/dict.txt" ]] || fetch "${OPT[dict]}" $base/gpt2_bpe/dict.txt \
      2c31c5b236661067fe8626775eb995ef5fe808ac87d2ad4a6ddbef68550f5cc6
  fi
  case ${OPT[init]} in
    "${OPT[pretrained]}"/bart.*/model.pt)
      local name
      name=$(basename "$(dirname "${OPT[init]}")")
      fetch_archive "${OPT[pretrained]}" "$name" "$base/models/$name.tar.gz"
      ;;
    "${OPT[pretrained]}"/t5-*/model.pt) fetch_t5 "$(basename "$(dirname "${OPT[init]}")")" ;;
  esac
}

fetch_t5() { # NAME: from Hugging Face, and converted
  local name=$1 file
  if [[ $DRY_RUN == 0 && -e ${OPT[pretrained]}/$name ]]; then
    echo "${OPT[pretrained]}/$name is there"
    return
  fi
  for file in config.json generation_config.json spiece.model model.safetensors; do
    fetch "${OPT[pretrained]}/$name-hf/$file" "https://huggingface.co/google-t5/$name/resolve/main/$file"
  done
  run srformer-convert hf-to-fairseq "${OPT[pretrained]}/$name-hf" "${OPT[pretrained]}/$name"
}

gpt2_sha256() { # ENCODER or MERGES: as data preparation checks it
  "$PYTHON" -c 'import sys; from data_prep import gpt2_bpe as g; print(g.SHA256[getattr(g, sys.argv[1])])' "$1"
}
