"""Faults in the fused loss that its tests must notice."""

LOSS = "srformer_plugin/criterions/linear_cross_entropy.py"
ROWS = "srformer_plugin/criterions/label_smoothed_rows.py"
KERNEL = "srformer_plugin/criterions/label_smoothed_rows_kernel.py"
CRITERION = "srformer_plugin/criterions/fused_label_smoothed_cross_entropy.py"
LOSS_TESTS = "tests/criterions/test_linear_cross_entropy.py"
ROWS_TESTS = "tests/criterions/test_label_smoothed_rows.py"
CRITERION_TESTS = "tests/criterions/test_fused_label_smoothed_cross_entropy.py"

MUTANTS = [
    {
        "file": LOSS,
        "old": " and reduce and features.dtype is not torch.float16",
        "new": " and reduce",
        "tests": f"{LOSS_TESTS} -k loss_scale",
    },
    {
        "file": LOSS,
        "old": " and reduce and features.dtype is not torch.float16",
        "new": " and features.dtype is not torch.float16",
        "tests": f"{LOSS_TESTS} -k any_size",
    },
    {
        "file": LOSS,
        "old": "early = torch.is_grad_enabled() and",
        "new": "early = True and",
        "tests": f"{LOSS_TESTS} -k without_gradients",
    },
    {
        "file": LOSS,
        "old": "torch.zeros_like(weight, dtype=self.wide)",
        "new": "torch.zeros_like(weight)",
        "tests": f"{LOSS_TESTS} -k many_chunks",
    },
    {
        "file": ROWS,
        "old": "factor = factor.unsqueeze(1).masked_fill(ignored, 0)",
        "new": "factor = factor.unsqueeze(1)",
        "tests": f"{LOSS_TESTS} -k any_size",
    },
    {
        "file": ROWS,
        "old": "(probabilities.gather(1, target) - (1 - smoothing))",
        "new": "(probabilities.gather(1, target) - (1 - smoothing - other))",
        "tests": f"{LOSS_TESTS} -k any_size",
    },
    {
        "file": LOSS,
        "old": "        features, weight = features.to(dtype), weight.to(dtype)\n",
        "new": "        pass\n",
        "tests": f"{LOSS_TESTS} -k autocast",
    },
    {
        "file": LOSS,
        "old": "max(1, max_elements // classes)",
        "new": "rows or 1",
        "tests": f"{LOSS_TESTS} -k no_tensor",
    },
    {
        "file": ROWS,
        "old": "highest, shift = logits.gather(1, best).to(wide), probabilities.gather(1, best).log()",
        "new": "highest, shift = logits.gather(1, target).to(wide), probabilities.gather(1, target).log()",
        "tests": f"{LOSS_TESTS} -k large_logits",
    },
    {
        "file": LOSS,
        "old": "factor=factor[rows], **ctx.settings",
        "new": "factor=factor[:1].expand(len(logits)).contiguous(), **ctx.settings",
        "tests": f"{LOSS_TESTS} -k any_size",
    },
    {
        "file": ROWS,
        "old": 'device.type == "cuda" and dtype in',
        "new": 'device.type == "cuda" or dtype in',
        "tests": f"{ROWS_TESTS} -k gpu_with_triton",
    },
    {
        "file": KERNEL,
        "old": "total = total * tl.exp(highest - new_shift) + ",
        "new": "total = total + ",
        "tests": f"{ROWS_TESTS} -k any_size",
    },
    {
        "file": KERNEL,
        "old": "below += start * rise + ",
        "new": "below += ",
        "tests": f"{ROWS_TESTS} -k any_size",
    },
    {
        "file": KERNEL,
        "old": " | ((z == at_goal) & (column < place))",
        "new": "",
        "tests": f"{ROWS_TESTS} -k first_is_the_best",
    },
    {
        "file": KERNEL,
        "old": 'new_shift = tl.where(new == float("-inf"), 0.0, new)',
        "new": "new_shift = new",
        "tests": f"{ROWS_TESTS} -k no_probability",
    },
    {
        "file": KERNEL,
        "old": "tl.store(base + start + columns, nothing, mask=start + columns < V)",
        "new": "pass",
        "tests": f"{ROWS_TESTS} -k any_size",
    },
    {
        "file": KERNEL,
        "old": "tl.where(column == place, 1.0 - smoothing, other)",
        "new": "tl.where(column == place, 1.0 - smoothing - other, other)",
        "tests": f"{ROWS_TESTS} -k any_size",
    },
    {
        "file": CRITERION,
        "old": "features[:, self.ignore_prefix_size :].flatten(0, 1)",
        "new": "features[:, : features.size(1) - self.ignore_prefix_size].flatten(0, 1)",
        "tests": f"{CRITERION_TESTS} -k every_option",
    },
    {
        "file": CRITERION,
        "old": "        del projection.forward\n",
        "new": "        pass\n",
        "tests": f"{CRITERION_TESTS} -k logits_again",
    },
    {
        "file": CRITERION,
        "old": "            hook.remove()\n",
        "new": "            pass\n",
        "tests": f"{CRITERION_TESTS} -k logits_again",
    },
    {
        "file": CRITERION,
        "old": " and output.data_ptr() == loss.data_ptr()",
        "new": "",
        "tests": f"{CRITERION_TESTS} -k refused_by_name",
    },
    {
        "file": CRITERION,
        "old": "loss = model(**sample",
        "new": "loss = getattr(model, 'module', model)(**sample",
        "tests": f"{CRITERION_TESTS} -k ddp",
    },
    {
        "file": CRITERION,
        "old": "class LabelSmoothedCrossEntropyCriterion(",
        "new": "class FusedLabelSmoothedCrossEntropyCriterion(",
        "tests": f"{CRITERION_TESTS} -k either_criterion",
    },
]
