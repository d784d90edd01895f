"""Faults in srformer-summarize that its tests must notice."""

FOLDER = "srformer_plugin/summarize"
TESTS = "tests/summarize"

MUTANTS = [
    {
        "file": f"{FOLDER}/model.py",
        "old": "if found and (len(found[-1]) + 1) * longest <= max_tokens:",
        "new": "if found and (len(found[-1]) + 1) * lengths[number] <= max_tokens:",
        "tests": f"{TESTS}/test_model.py -k batches_hold",
    },
    {
        "file": f"{FOLDER}/model.py",
        "old": "                for number, summary in zip(batch, found):",
        "new": "                for number, summary in zip(sorted(batch), found):",
        "tests": f"{TESTS}/test_model.py -k come_in_order",
    },
    {
        "file": f"{FOLDER}/model.py",
        "old": "            if len(sources) > 1:",
        "new": "            if False:",
        "tests": f"{TESTS}/test_model.py -k take_the_others_along",
    },
    {
        "file": f"{FOLDER}/model.py",
        "old": "        for chosen in (False, True):",
        "new": "        fits = dict.fromkeys(fits, False)\n        for chosen in (False, True):",
        "tests": f"{TESTS}/test_long_sources.py -k share_no_batch",
    },
    {
        "file": f"{FOLDER}/tokens.py",
        "old": 'self.hub.apply_bpe(word if first else f" {word}")',
        "new": "self.hub.apply_bpe(word)",
        "tests": f"{TESTS}/test_model.py -k those_of_the_line",
    },
    {
        "file": f"{FOLDER}/cache.py",
        "old": "{state.st_size} {state.st_mtime_ns}",
        "new": "{state.st_size}",
        "tests": f"{TESTS}/test_cache.py -k again_when_it_changes",
    },
    {
        "file": f"{FOLDER}/cache.py",
        "old": "        fcntl.flock(file, fcntl.LOCK_EX)\n",
        "new": "",
        "tests": f"{TESTS}/test_cache.py -k two_at_once",
    },
    {
        "file": f"{FOLDER}/decoding.py",
        "old": '"min_len": ("min_length", int, 0, -1)',
        "new": '"min_len": ("min_length", int, 0, 0)',
        "tests": f"{TESTS}/test_decoding.py -k counted_as_fairseq",
    },
    {
        "file": f"{FOLDER}/decoding.py",
        "old": "**(read_json(generation) if generation.is_file() else {}), **of_task}",
        "new": "**of_task, **(read_json(generation) if generation.is_file() else {})}",
        "tests": f"{TESTS}/test_decoding.py -k comes_before",
    },
    {
        "file": f"{FOLDER}/documents.py",
        "old": "    for number, line in enumerate(binary_lines(opened), 1):",
        "new": "    for number, line in enumerate(filter(bytes.strip, binary_lines(opened)), 1):",
        "tests": f"{TESTS}/test_cli.py -k byte_order_mark",
    },
    {
        "file": f"{FOLDER}/cli.py",
        "old": "    return EXIT_STATUS if any(summary.error is not None for _, summary in pairs) else 0",
        "new": "    return EXIT_STATUS if all(summary.error is not None for _, summary in pairs) else 0",
        "tests": f"{TESTS}/test_cli.py -k bad_documents",
    },
    {
        "file": f"{FOLDER}/long_sources.py",
        "old": '        changes["encoder_prefix_symbol"] = tokenizer.dictionary[tokenizer.start[-1]]',
        "new": "        pass",
        "tests": f"{TESTS}/test_long_sources.py -k prefix",
    },
    {
        "file": f"{FOLDER}/same_weights.py",
        "old": 'changed["model"], assign=True)',
        "new": 'changed["model"])',
        "tests": f"{TESTS}/test_long_sources.py -k share_their_weights",
    },
    {
        "file": f"{FOLDER}/same_weights.py",
        "old": '        if getattr(func, "__module__", None) == torch.nn.init.__name__:',
        "new": "        if False:",
        "tests": f"{TESTS}/test_long_sources.py -k nothing_is_drawn",
    },
    {
        "file": f"{FOLDER}/model_folder.py",
        "old": "    if kind not in pretrained.BPE_FILES:",
        "new": "    if True:",
        "tests": f"{TESTS}/test_model.py -k training_found",
    },
    {
        "file": f"{FOLDER}/stream.py",
        "old": 'found.pop() if found and not text[-1].isspace() else ""',
        "new": '""',
        "tests": f"{TESTS}/test_stream.py",
    },
    {
        "file": f"{FOLDER}/stream.py",
        "old": "            del self._tail[: beginning - self._base]\n            self._base = beginning",
        "new": "            pass",
        "tests": f"{TESTS}/test_stream.py -k costs_what_is_new",
    },
    {
        "file": f"{FOLDER}/stream.py",
        "old": "rows = self._cut(network.encoder, known + 1)[:-1][self._rows :]",
        "new": "rows = self._cut(network.encoder, known + 1)[self._rows :]",
        "tests": f"{TESTS}/test_stream.py",
    },
    {
        "file": f"{FOLDER}/stream.py",
        "old": "n : n + 1].clone()",
        "new": "n : n + 1]",
        "tests": f"{TESTS}/test_stream.py -k keeps_nothing_else",
    },
    {
        "file": f"{FOLDER}/follow.py",
        "old": "(new and not text and clock() - last >= pause)",
        "new": "(not text and clock() - last >= pause)",
        "tests": f"{TESTS}/test_follow.py -k pause",
    },
    {
        "file": f"{FOLDER}/explain.py",
        "old": "    return total / layers",
        "new": "    return total",
        "tests": f"{TESTS}/test_explain.py -k mean_over_layers",
    },
    {
        "file": f"{FOLDER}/explain.py",
        "old": "    previous = torch.cat((ids.new_tensor([start]), ids[:-1])).unsqueeze(0)",
        "new": "    previous = ids.unsqueeze(0)",
        "tests": f"{TESTS}/test_explain.py -k mean_over_layers",
    },
    {
        "file": f"{FOLDER}/page.py",
        "old": "{escape(explanation.text[start:end])}</span>",
        "new": "{explanation.text[start:end]}</span>",
        "tests": f"{TESTS}/test_explain.py -k texts_are_text",
    },
    {
        "file": f"{FOLDER}/page.py",
        "old": 'json.dumps(value, separators=(",", ":")).replace("<", "\\\\u003c")',
        "new": "json.dumps(value)[:-1]",
        "tests": f"{TESTS}/test_explain.py -k texts_are_text",
    },
    {
        "file": "srformer_plugin/generation/beam_search.py",
        "old": "penalty = torch.where(self.position == 0, penalty + self.first_penalty, penalty)",
        "new": "penalty = penalty + self.first_penalty",
        "tests": "tests/generation/test_fast_generator.py -k begins_every",
    },
]
