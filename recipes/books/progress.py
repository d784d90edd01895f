"""What a person sees of a running stage: a line that changes, or now and then a new one where there is no terminal."""

import json
import re
import shutil
import sys
import time

from tqdm import tqdm

_STATS = re.compile(r"^.* \| INFO \| (train_inner|valid) \| (\{.*\})$")
# What the commands print besides their result: no reason why they failed.
_NOISE = re.compile(r"Warning: |^\s+warnings\.warn|^(INFO|DEBUG):|^[0-9-]+ [0-9:]+ \| INFO \| |^\s*$|^usage:|^ *\d+%\|")
_RATES = {"ups": "updates/s", "wps": "target tokens/s", "gb_free": "GB free"}  # fairseq's names; the last on a GPU
TAIL = 8  # lines shown of a stage that failed


class Progress:
    """Follows the lines of commands by their labels.

    ``totals``: label -> updates that a training takes, for a bar and the time left. On a terminal there is one line a
    training; elsewhere a line a minute at first and fewer later, so that a day's log can be read.
    """

    def __init__(self, totals=None, stream=None, clock=time.monotonic):
        self.stream = stream or sys.stdout
        self.totals, self.clock = totals or {}, clock
        self.began = self.shown = clock()
        self.terminal = self.stream.isatty()
        self.bars, self.state, self.first, self.tail, self.live = {}, {}, {}, [], ""

    def __call__(self, label, line):
        """A line that a command printed, or None: time has passed."""
        if line is None:
            self._sometimes()
            return
        if match := _STATS.match(line):
            try:
                self._update(label, match[1], json.loads(match[2]))
            except (ValueError, KeyError):  # cut short, or of fairseq-validate, which counts no updates
                return
        elif not _NOISE.search(line):
            self.tail = [*self.tail, f"[{label}] {line}" if label else line][-TAIL:]
        if self.terminal and line.strip() and not self.state:
            self._live(line)

    def close(self):
        """Leave the terminal as it was."""
        for bar in self.bars.values():
            bar.close()
        if self.live:
            self._live("")

    def _live(self, line):
        self.live = line[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r\033[K{self.live}")
        self.stream.flush()

    def _update(self, label, kind, stats):
        state = self.state.setdefault(label, {})
        prefix = "" if kind == "train_inner" else "valid_"
        state["updates"] = int(stats[f"{prefix}num_updates"])
        self.first.setdefault(label, (self.clock(), state["updates"]))
        if kind == "train_inner":
            state["train ppl"] = stats["ppl"]
            state |= {shown: stats[name] for name, shown in _RATES.items() if float(stats.get(name) or 0) > 0}
        else:
            state["valid ppl"] = stats["valid_ppl"]
            if "valid_rouge1" in stats:
                state["ROUGE-1"] = stats["valid_rouge1"]
        if self.terminal:
            self._draw(label, state)

    def _draw(self, label, state):
        if self.live:
            self._live("")
            self.live = ""
        if label not in self.bars:
            self.bars[label] = tqdm(
                total=self.totals.get(label),
                desc=f"  {label or 'training'}",
                unit=" updates",
                file=self.stream,
                initial=state["updates"],
                position=len(self.bars),
                leave=False,
                dynamic_ncols=True,
                mininterval=0,
            )
        bar = self.bars[label]
        bar.set_postfix({name: value for name, value in state.items() if name != "updates"}, refresh=False)
        bar.update(state["updates"] - bar.n)

    def _sometimes(self):
        now = self.clock()
        if self.terminal or not self.state or now - self.shown < max(60, (now - self.began) / 10):
            return
        self.shown = now
        for label, state in self.state.items():
            print(self._line(label, state, now), file=self.stream, flush=True)

    def _line(self, label, state, now):
        total, (began, first) = self.totals.get(label), self.first[label]
        words = [f"  {f'[{label}] ' if label else ''}update {state['updates']}" + (f" of {total}" if total else "")]
        words += [f"{name} {value}" for name, value in state.items() if name != "updates"]
        done, seconds = state["updates"] - first, now - began
        if total and done > 0:
            words.append(f"{in_words(seconds * (total - state['updates']) / done)} left")
        return "  ".join(words)


def in_words(seconds: float) -> str:
    """A time to wait, as exact as one wants to know it: "40 s", "4 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
