"""Faults in the attention that its tests must notice."""

MEMORY = "srformer_plugin/attention/method/memory.py"
SCHEDULE = "srformer_plugin/attention/method/schedule.py"
PLAN = "srformer_plugin/attention/method/plan.py"
BACKENDS = "srformer_plugin/attention/backends.py"
TORCH = "srformer_plugin/attention/torch/attend.py"
CROSS_ATTENTION = "srformer_plugin/attention/cross_attention.py"
COMMON = "srformer_plugin/attention/triton/kernels/common.py"
DECODER = "srformer_plugin/models/segmented_decoder.py"

OPS_TESTS = "tests/attention/test_torch_ops.py"
SCHEDULE_TESTS = "tests/attention/test_schedule.py"
BACKEND_TESTS = "tests/attention/test_backends.py"
KERNEL_TESTS = "tests/attention/test_triton_ops.py"
SETTINGS_TESTS = "tests/models/test_settings.py"
TRITON_HERE = "srformer_plugin/triton_here.py"
TRITON_HERE_TESTS = "tests/test_triton_here.py"

MUTANTS = [
    {  # what hides padding overflows
        "file": "srformer_plugin/attention/fused.py",
        "old": "return torch.finfo(dtype).min / 2",
        "new": 'return float("-inf")',
        "tests": "tests/models/test_empty_sources.py -k finite",
    },
    {  # a source of padding alone is read in training
        "file": "srformer_plugin/attention/shared_by_beams.py",
        "old": "            output = output.masked_fill(padding.empty, 0)\n",
        "new": "            pass\n",
        "tests": "tests/models/test_empty_sources.py -k gradient",
    },
    {  # and in the steps behind the first
        "file": "srformer_plugin/attention/shared_by_beams.py",
        "old": 'saved["prev_value"].masked_fill(empty[:, None, None, None], 0)',
        "new": 'saved["prev_value"]',
        "tests": "tests/models/test_empty_sources.py -k step_by_step",
    },
    {  # kernels without a compiler
        "file": TRITON_HERE,
        "old": "return missing() or (None if is_interpreted() else no_launchers())",
        "new": "return missing()",
        "tests": TRITON_HERE_TESTS,
    },
    {  # a compiler that finds no Python.h
        "file": TRITON_HERE,
        "old": "    if done.returncode == 0:\n",
        "new": "    if True:\n",
        "tests": TRITON_HERE_TESTS,
    },
    {  # `auto` takes kernels that cannot be built
        "file": BACKENDS,
        "old": " and can_run_on_gpu() else",
        "new": " else",
        "tests": TRITON_HERE_TESTS,
    },
    {
        "file": MEMORY,
        "old": "constrain_leak(self.leak.to(dtype))",
        "new": "self.leak.to(dtype)",
        "tests": f"{OPS_TESTS} -k pushed_out_of_its_bounds",
    },
    {
        "file": MEMORY,
        "old": "constrain_threshold(self.threshold.to(dtype))",
        "new": "self.threshold.to(dtype)",
        "tests": f"{OPS_TESTS} -k pushed_out_of_its_bounds",
    },
    {
        "file": MEMORY,
        "old": "MIN_KEY_NORM = 1e-6",
        "new": "MIN_KEY_NORM = 0.1",
        "tests": f"{OPS_TESTS} -k dead_below_a_norm",
    },
    {
        "file": MEMORY,
        "old": "alive = squares > MIN_KEY_NORM**2",
        "new": "alive = squares > 0",
        "tests": f"{OPS_TESTS} -k dead_below_a_norm",
    },
    {
        "file": COMMON,
        "old": "tl.minimum(tl.maximum(lam, 0.0), 1.0)",
        "new": "tl.maximum(lam, 0.0)",
        "tests": f"{KERNEL_TESTS} -k pushed_out_of_its_bounds",
    },
    {
        "file": COMMON,
        "old": "tl.minimum(tl.maximum(lam, 0.0), 1.0)",
        "new": "tl.minimum(lam, 1.0)",
        "tests": f"{KERNEL_TESTS} -k pushed_out_of_its_bounds",
    },
    {
        "file": COMMON,
        "old": "tl.maximum(theta, MIN_THRESHOLD)",
        "new": "theta",
        "tests": f"{KERNEL_TESTS} -k pushed_out_of_its_bounds",
    },
    {
        "file": SCHEDULE,
        "old": "target_lengths.clamp(min=1).unsqueeze(1)",
        "new": "target_lengths.unsqueeze(1)",
        "tests": f"{SCHEDULE_TESTS} -k without_a_token",
    },
    {
        "file": TORCH,
        "old": "p=dropout, training=dropout > 0)",
        "new": "p=min(dropout, 0.9), training=dropout > 0)",
        "tests": f"{OPS_TESTS} -k dropout_acts",
    },
    {
        "file": TORCH,
        "old": "scores = scores.masked_fill(empty, torch.finfo(scores.dtype).min)",
        "new": "pass",
        "tests": f"{OPS_TESTS} -k depend_on_its_batch",
    },
    {
        "file": BACKENDS,
        "old": "            if reason is None:\n                return backend\n",
        "new": "            return backend\n",
        "tests": BACKEND_TESTS,
    },
    {
        "file": BACKENDS,
        "old": "return source.backend.attend_step(",
        "new": "return self.backends[-1].attend_step(",
        "tests": BACKEND_TESTS,
    },
    {
        "file": BACKENDS,
        "old": "    if message not in _told:\n",
        "new": "    if True:\n",
        "tests": BACKEND_TESTS,
    },
    {
        "file": CROSS_ATTENTION,
        "old": "output, weights = self.backend.attend_next(",
        "new": "output, weights = self.backend.backends[-1].attend_next(",
        "tests": BACKEND_TESTS,
    },
    {
        "file": PLAN,
        "old": "        if others not in results:\n",
        "new": "        if True:\n",
        "tests": f"{BACKEND_TESTS} -k made_once",
    },
    {
        "file": PLAN,
        "old": "dict] = WeakKeyDictionary()",
        "new": "dict] = {}",
        "tests": f"{BACKEND_TESTS} -k made_once",
    },
    {
        "file": DECODER,
        "old": "self.layer_class(cfg, no_encoder_attn, settings=self.settings)",
        "new": "self.layer_class(cfg, no_encoder_attn, settings=SegmentSettings.from_namespace(cfg))",
        "tests": SETTINGS_TESTS,
    },
]
