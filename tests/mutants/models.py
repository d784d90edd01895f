"""Faults in models, generation and the hub that their tests must notice."""

RECORD = "srformer_plugin/models/schedule_record.py"
STATE = "srformer_plugin/models/checkpoint_state.py"
MODEL = "srformer_plugin/models/segmented_model.py"
DROPOUT = "srformer_plugin/attention/dropout.py"
DECODING = "srformer_plugin/compat/decoding.py"
SEARCH = "srformer_plugin/generation/beam_search.py"
FAST = "srformer_plugin/generation/fast_generator.py"
STATIC = "srformer_plugin/generation/static_decoder.py"
HUB = "srformer_plugin/models/hub.py"

STATE_TESTS = "tests/models/test_checkpoint_state.py"
GENERATION_TESTS = "tests/generation/test_fast_generator.py"
HUB_TESTS = "tests/convert/test_hub.py"
SOURCE_TESTS = "tests/models/test_source_projections.py"

MUTANTS = [
    {
        "file": RECORD,
        "old": "return (2 * bits - 1).flatten().float()",
        "new": "return (2 * bits - 1).flatten()",
        "tests": f"{STATE_TESTS} -k survives",
    },
    {
        "file": RECORD,
        "old": "SMALLEST_BIT = 0.9",
        "new": "SMALLEST_BIT = 0.0",
        "tests": f"{STATE_TESTS} -k different_schedules",
    },
    {
        "file": MODEL,
        "old": "super().load_state_dict(prune_layers(state_dict, model_cfg), strict, model_cfg)",
        "new": "super().load_state_dict(state_dict, strict, model_cfg)",
        "tests": f"{STATE_TESTS} -k pruned",
    },
    {
        "file": STATE,
        "old": "if text else sorted(present)",
        "new": "if text else []",
        "tests": f"{STATE_TESTS} -k pruned",
    },
    {
        "file": DROPOUT,
        "old": "(dropout.training or dropout.apply_during_inference)",
        "new": "dropout.training",
        "tests": f"{GENERATION_TESTS} -k retained",
    },
    {
        "file": MODEL,
        "old": "        name_dropouts(model)\n",
        "new": "",
        "tests": f"{GENERATION_TESTS} -k retained",
    },
    {
        "file": DECODING,
        "old": "if self.no_repeat_ngram_size == 1:",
        "new": "if False:",
        "tests": f"{GENERATION_TESTS} -k n_grams_of_one",
    },
    {
        "file": SEARCH,
        "old": "same = (last >= 1) & (last <= position)",
        "new": "same = last <= position",
        "tests": f"{GENERATION_TESTS} -k n_grams_of_one",
    },
    {
        "file": SEARCH,
        "old": "self.finished_tokens[:rows].clone(), self.finished_scores[:rows].clone()",
        "new": "self.finished_tokens, self.finished_scores",
        "tests": f"{GENERATION_TESTS} -k outlive",
    },
    {
        "file": STATIC,
        "old": "self.tables[name].copy_(table)",
        "new": "pass",
        "tests": f"{GENERATION_TESTS} -k weights_of_today",
    },
    {
        "file": FAST,
        "old": "key = (shape, length, self._settings(), weights)",
        "new": "key = (shape, length, weights)",
        "tests": f"{GENERATION_TESTS} -k options_of_today",
    },
    {
        "file": FAST,
        "old": "            if not self._searches:\n                raise\n",
        "new": "            raise\n",
        "tests": f"{GENERATION_TESTS} -k where_memory_is_full",
    },
    {
        "file": FAST,
        "old": "        self._searches.clear()\n",
        "new": "        pass\n",
        "tests": f"{GENERATION_TESTS} -k released",
    },
    {
        "file": HUB,
        "old": "max_tokens=None if limit is None else max([limit, *lengths]),",
        "new": "max_tokens=limit,",
        "tests": f"{HUB_TESTS} -k longer",
    },
    {
        "file": HUB,
        "old": "if _users[model] == 0:",
        "new": "if True:",
        "tests": f"{HUB_TESTS} -k threads",
    },
    {
        "file": "srformer_plugin/models/segmented_model.py",
        "old": "if flag in own and trained[flag] != own[flag]:",
        "new": "if False:",
        "tests": "tests/models/test_resumed_training.py",
    },
    {  # the host waits for the encoder
        "file": "srformer_plugin/models/segmented_decoder.py",
        "old": "if known is prev_output_tokens:",
        "new": "if False:",
        "tests": "tests/models/test_waits.py -k nothing_is_read",
    },
    {
        "file": "srformer_plugin/models/segmented_decoder.py",
        "old": "(padding.exists or self.training)",
        "new": "padding.exists",
        "tests": "tests/models/test_waits.py -k nothing_is_read",
    },
    {
        "file": "srformer_plugin/models/segmented_decoder.py",
        "old": 'and not hasattr(x, "precheckpoint_forward")',
        "new": "",
        "tests": f"{SOURCE_TESTS} -k project_for_themselves",
    },
    {
        "file": "srformer_plugin/models/segmented_decoder.py",
        "old": "isinstance(self.layers, LayerDropModuleList)",
        "new": "False",
        "tests": f"{SOURCE_TESTS} -k project_for_themselves",
    },
    {
        "file": "srformer_plugin/attention/source_context.py",
        "old": "zip(parts[::2], parts[1::2], strict=True)",
        "new": "zip(parts[1::2], parts[::2], strict=True)",
        "tests": f"{SOURCE_TESTS} -k one_by_one",
    },
    {
        "file": "srformer_plugin/attention/packed.py",
        "old": "places % length * batch + places // length",
        "new": "places",
        "tests": "tests/attention/test_packed.py -k unpacking",
    },
]
