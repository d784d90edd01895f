"""Faults in the mends of fairseq that their tests must notice."""

CALL = "return original(self, query, key, value, key_padding_mask, incremental_state, *args, **kwargs)"
DECODING = "srformer_plugin/compat/decoding.py"
POSITIONS = "srformer_plugin/compat/positions.py"
TRAINING = "srformer_plugin/compat/training.py"
COMMANDS = "srformer_plugin/compat/commands.py"
REFUSALS = "srformer_plugin/compat/refusals.py"
TRAINING_REFUSALS = "srformer_plugin/compat/training_refusals.py"

MUTANTS = [
    {  # a language model may be one of other words
        "file": "srformer_plugin/compat/given_models.py",
        "old": "own is not None and own != dictionary",
        "new": "False",
        "tests": "tests/compat/test_given_models.py -k other_words",
    },
    {
        "file": "srformer_plugin/compat/given_models.py",
        "old": "        generator.max_len = positions\n",
        "new": "",
        "tests": "tests/compat/test_given_models.py -k fewer_positions",
    },
    {
        "file": "srformer_plugin/compat/statistics.py",
        "old": "        self.get(name)\n",
        "new": "",
        "tests": "tests/compat/test_updates.py -k used",
    },
    {
        "file": "srformer_plugin/compat/data_files.py",
        "old": "i in self.cache_index",
        "new": "True",
        "tests": "tests/compat/test_data_files.py -k memory",
    },
    {
        "file": "srformer_plugin/attention/self_attention.py",
        "old": "not (changed or self.use_xformers)",
        "new": "not changed",
        "tests": "tests/attention/test_fused.py -k xformers",
    },
    {
        "file": "srformer_plugin/compat/deferred.py",
        "old": "importlib.util.find_spec(package) is not None",
        "new": "True",
        "tests": "tests/compat/test_deferred.py -k missing",
    },
    {  # any division by zero passes for an empty share
        "file": "srformer_plugin/compat/batches.py",
        "old": 'if frame.f_locals.get("num_sentences") != 0:',
        "new": "if False:",
        "tests": "tests/compat/test_batches.py -k among_sentences",
    },
    {  # an optimizer's options are looked at behind the data
        "file": TRAINING_REFUSALS,
        "old": "        optimizer.check_training(cfg)\n",
        "new": "        pass\n",
        "tests": "tests/compat/test_refusals.py -k cannot_choose",
    },
    {
        "file": TRAINING_REFUSALS,
        "old": "        _check_gradients(cfg, settings)\n",
        "new": "",
        "tests": "tests/compat/test_refusals.py -k together",
    },
    {
        "file": DECODING,
        "old": "                self = view\n",
        "new": (
            "                beam_size, self.beam_size = self.beam_size, 1\n"
            f"                try:\n                    {CALL}\n"
            "                finally:\n                    self.beam_size = beam_size\n"
        ),
        "tests": "tests/compat/test_decoding.py -k one_thread",
    },
    {
        "file": DECODING,
        "old": 'if name != "id"',
        "new": "if name",
        "tests": "tests/compat/test_decoding.py -k diverse",
    },
    {
        "file": POSITIONS,
        "old": "trained = min(current, trained)",
        "new": "trained = max(current, trained)",
        "tests": "tests/compat/test_positions.py -k 'limit or ensemble'",
    },
    {
        "file": TRAINING,
        "old": "updates >= settings.max_update",
        "new": "updates > settings.max_update",
        "tests": "tests/compat/test_training.py -k finished",
    },
    {
        "file": COMMANDS,
        "old": "file=sys.stderr)\n            sys.exit(EXIT_STATUS)",
        "new": "file=sys.stderr)\n            sys.exit(1)",
        "tests": "tests/compat/test_commands.py -k message",
    },
    {
        "file": TRAINING_REFUSALS,
        "old": "cfg.checkpoint.maximize_best_checkpoint_metric = True",
        "new": "pass",
        "tests": "tests/compat/test_refusals.py -k highest",
    },
    {
        "file": TRAINING_REFUSALS,
        "old": "settings.distributed_world_size > 1, cfg.common.cpu or",
        "new": "settings.distributed_world_size > 1,",
        "tests": "tests/compat/test_refusals.py -k together",
    },
    {
        "file": "srformer_plugin/optim/fused_adam.py",
        "old": 'torch.tensor(float(value["step"]))',
        "new": 'value["step"]',
        "tests": "tests/optim/test_fused_adam.py -k handed_on",
    },
    {
        "file": "srformer_plugin/optim/fused_adam.py",
        "old": "= lr * self.cfg.memory_lr_scale",
        "new": "= lr",
        "tests": "tests/optim/test_memory_lr_scale.py -k first_update",
    },
    {  # a norm is summed in the order of the groups
        "file": "srformer_plugin/optim/fused_adam.py",
        "old": "return iter(self._groups.params)",
        "new": 'return (p for group in self.param_groups for p in group["params"])',
        "tests": "tests/optim/test_memory_lr_scale.py -k to_the_bit",
    },
    {  # a state's numbers are those of the model's order
        "file": "srformer_plugin/optim/memory_parameters.py",
        "old": "for index in self._in_model)",
        "new": "for index in range(len(self.params)))",
        "tests": "tests/optim/test_memory_lr_scale.py -k any_scale",
    },
    {
        "file": "srformer_plugin/attention/cross_attention.py",
        "old": "        mark_memory(self.memory)\n",
        "new": "",
        "tests": "tests/models/test_settings.py -k marked",
    },
    {
        "file": REFUSALS,
        "old": "isinstance(value, float) and math.isnan(value)",
        "new": "False",
        "tests": "tests/compat/test_refusals.py -k 'nan or decoding'",
    },
    {
        "file": "srformer_plugin/compat/overrides.py",
        "old": "if name not in known:",
        "new": "if not known:",
        "tests": "tests/compat/test_refusals.py -k decoding",
    },
    {
        "file": POSITIONS,
        "old": "if not from_checkpoint:",
        "new": "if False:",
        "tests": "tests/compat/test_positions.py -k leds",
    },
    {
        "file": "srformer_plugin/compat/checkpoints.py",
        "old": "if named is None and not _is_of_torch(path):",
        "new": "if False:",
        "tests": "tests/convert/test_change_attention.py -k no_checkpoint",
    },
    {
        "file": COMMANDS,
        "old": 'in ("fairseq", "fairseq_cli")',
        "new": "!= ''",
        "tests": "tests/compat/test_commands.py -k fault",
    },
    {
        "file": "srformer_plugin/compat/loaders.py",
        "old": "            end_workers(last)",
        "new": "            pass",
        "tests": "tests/compat/test_loaders.py -k same_number",
    },
    {
        "file": "srformer_plugin/compat/updates.py",
        "old": "target.zero_()",
        "new": "pass",
        "tests": "tests/compat/test_updates.py -k copied",
    },
    {
        "file": "srformer_plugin/compat/updates.py",
        "old": " and type(m).train in known",
        "new": "",
        "tests": "tests/compat/test_updates.py -k own",
    },
    {
        "file": "srformer_plugin/compat/statistics.py",
        "old": "(norm > limit).to(norm) * 100",
        "new": "(norm > 2 * limit).to(norm) * 100",
        "tests": "tests/compat/test_updates.py -k stock_one",
    },
    {
        "file": "srformer_plugin/compat/collation.py",
        "old": "place[begin + 1 : begin + len(row)] = row[:-1]",
        "new": "place[begin + 1 : begin + len(row)] = row[1:]",
        "tests": "tests/compat/test_collation.py",
    },
    {
        "file": "srformer_plugin/compat/updates.py",
        "old": "seed = self.cfg.common.seed + self.get_num_updates()",
        "new": "seed = self.cfg.common.seed + 1 + self.get_num_updates()",
        "tests": "tests/compat/test_updates.py -k seed",
    },
    {
        "file": "srformer_plugin/compat/sums.py",
        "old": ".masked_fill(self._size == 0, 1.0)",
        "new": "",
        "tests": "tests/compat/test_sums.py -k divided",
    },
    {
        "file": "srformer_plugin/compat/sums.py",
        "old": "return value.read() if isinstance(value, ReadLater) else value",
        "new": "return float(value) if isinstance(value, ReadLater) else value",
        "tests": "tests/compat/test_sums.py -k known_later_is",
    },
    {
        "file": "srformer_plugin/compat/sums.py",
        "old": "order = sorted(values)",
        "new": "order = list(values)",
        "tests": "tests/compat/test_sums.py -k order_in_which",
    },
    {
        "file": "srformer_plugin/compat/half_precision.py",
        "old": "            states[id(self.fp32_optimizer)] = states[id(self.optimizer)]\n",
        "new": "",
        "tests": "tests/compat/test_half_precision.py -k amp_steps",
    },
    {
        "file": "srformer_plugin/compat/sums.py",
        "old": "logging_outputs, ignore = [self.last_logging_output], True",
        "new": "logging_outputs = [self.last_logging_output]",
        "tests": "tests/compat/test_sums.py -k adds_nothing",
    },
    {  # a copy is read before it has come
        "file": "srformer_plugin/compat/transfers.py",
        "old": "            self._arrived.synchronize()\n",
        "new": "            pass\n",
        "tests": "tests/compat/test_transfers.py -k waits",
    },
    {
        "file": "srformer_plugin/compat/norms.py",
        "old": "original(self, grad_norm.value)",
        "new": "pass",
        "tests": "tests/compat/test_norms.py -k judged",
    },
    {  # nobody looks behind the optimizer
        "file": "srformer_plugin/compat/norms.py",
        "old": "            if look is not None:\n                look()",
        "new": "            pass",
        "tests": "tests/compat/test_norms.py -k ends_as",
    },
    {  # a task of one's own may not look
        "file": "srformer_plugin/compat/norms.py",
        "old": "        return False  # nobody would look behind it",
        "new": "        pass",
        "tests": "tests/compat/test_update_reads.py -k itself",
    },
    {  # what is handed over by name is not seen
        "file": "srformer_plugin/compat/nan_detector.py",
        "old": "_tensors((inputs, named))",
        "new": "_tensors(inputs)",
        "tests": "tests/compat/test_nan_detector.py -k backward",
    },
    {
        "file": "srformer_plugin/compat/nan_detector.py",
        "old": "            torch.default_generator.manual_seed(seed)\n",
        "new": "",
        "tests": "tests/compat/test_nan_detector.py -k dropout",
    },
    {
        "file": "srformer_plugin/optim/fused_adam.py",
        "old": '        vars(self.optimizer).pop("found_inf", None)\n',
        "new": "",
        "tests": "tests/optim/test_fused_adam.py -k skipped",
    },
    {
        "file": "srformer_plugin/optim/foreach_adafactor.py",
        "old": 'self.state[p].get("step", 0)\n                alike',
        "new": "0\n                alike",
        "tests": "tests/optim/test_foreach_adafactor.py -k 'fairseqs_adafactor or alone'",
    },
    {
        "file": "srformer_plugin/optim/foreach_adafactor.py",
        "old": "row.mean(dim=-1, keepdim=True)",
        "new": "row.mean()",
        "tests": "tests/optim/test_foreach_adafactor.py -k fairseqs_adafactor",
    },
    {
        "file": "srformer_plugin/models/t5_modules.py",
        "old": "F.rms_norm(x.to(dtype), self.weight.shape, self.weight.to(dtype), self.eps)",
        "new": "F.rms_norm(x.to(self.weight.dtype), self.weight.shape, self.weight, self.eps)",
        "tests": "tests/models/test_t5_half_precision.py -k norm",
    },
]
