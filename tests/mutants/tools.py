"""Faults in the tools that their tests must notice."""

SHARES = "srformer_plugin/tools/shares.py"
LOOKS = "srformer_plugin/tools/where_it_looks.py"
TESTS = "tests/tools/test_where_it_looks.py"

MUTANTS = [
    {
        "file": SHARES,
        "old": "relevant[start + offset : end + offset] = True",
        "new": "relevant[start:end] = True",
        "tests": f"{TESTS} -k tokens_are_those_of_the_spans",
    },
    {
        "file": SHARES,
        "old": "(segments >= 0) & (segments < len(holds))",
        "new": "segments < len(holds)",
        "tests": f"{TESTS} -k hold_a_relevant_token",
    },
    {
        "file": SHARES,
        "old": "part.any() for part",
        "new": "part.all() for part",
        "tests": f"{TESTS} -k hold_a_relevant_token",
    },
    {
        "file": SHARES,
        "old": "means[:, :-1] / means[:, -1:]",
        "new": "means[:, :-1] / observed[-1]",
        "tests": f"{TESTS} -k intervals",
    },
    {
        "file": LOOKS,
        "old": "torch.cat((source[: self.limit - 1], source[-1:]))",
        "new": "source[: self.limit]",
        "tests": f"{TESTS} -k ends_there",
    },
    {
        "file": LOOKS,
        "old": "self.spans[number].first(self.limit - 1 - self._offset(number))",
        "new": "self.spans[number]",
        "tests": f"{TESTS} -k are_cut_lose",
    },
    {
        "file": LOOKS,
        "old": "first(self.limit - 1 - self._offset(number))",
        "new": "first(self.limit - 1)",
        "tests": f"{TESTS} -k behind_the_start",
    },
    {
        "file": LOOKS,
        "old": "len(source), self._offset(number), self.device)",
        "new": "len(source), 0, self.device)",
        "tests": f"{TESTS} -k behind_the_start",
    },
    {
        "file": LOOKS,
        "old": "if search is None else self._own_output(net_input, search)",
        "new": "",
        "tests": f"{TESTS} -k greedy_one",
    },
    {
        "file": LOOKS,
        "old": "target[:-1])).unsqueeze(0)",
        "new": "target[1:])).unsqueeze(0)",
        "tests": f"{TESTS} -k every_layer",
    },
    {
        "file": LOOKS,
        "old": "        if tokens != spans.length:",
        "new": "        if tokens < spans.length:",
        "tests": f"{TESTS} -k bad_input",
    },
    {
        "file": "srformer_plugin/attention/cross_attention.py",
        "old": "return self.memory.attended(plan)",
        "new": "return plan.segments",
        "tests": f"{TESTS} -k those_with_weights",
    },
]
