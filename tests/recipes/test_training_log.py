"""What is read from the log of a training, resumed or not, finished or not."""

import json
import math

import pytest

from recipes.report.training_log import read_training_log
from srformer_plugin.scoring.files import ScoringError

BEGIN = "{'_name': None, 'common': {}}"
DONE = "done training in 1.0 seconds"


def train(update, loss, wall=0, **more):
    stats = {"epoch": 1, "loss": "10", "nll_loss": str(loss), "ups": "2.5", "num_updates": str(update)}
    return json.dumps({**stats, "train_wall": "5", "wall": str(wall), **more})


def valid(update, loss, **more):
    return json.dumps({"epoch": 1, "valid_nll_loss": str(loss), "valid_num_updates": str(update), **more})


@pytest.fixture
def read(tmp_path):
    def read(*lines):
        (tmp_path / "train.log").write_text("\n".join(lines) + "\n")
        return read_training_log(tmp_path / "train.log")

    return read


def test_losses_and_rouge_by_update(read):
    log = read(BEGIN, train(25, 9), valid(25, 8, valid_rouge1="12.5", valid_rougeLsum="10"), train(50, 7), valid(50, 6))
    assert (log.train, log.valid) == ({25: 9, 50: 7}, {25: 8, 50: 6})
    assert log.rouge == {"rouge1": {25: 12.5}, "rougeLsum": {25: 10}}
    assert log.best_valid == (50, 6)


def test_what_fairseq_prints_is_read_like_its_file(read):
    lines = [train(25, 9, 3), valid(25, 8)]
    printed = [f"2026-01-01 00:00:00 | INFO | {name} | {line}" for name, line in zip(("train_inner", "valid"), lines)]
    assert read(*printed) == read(*lines)
    assert read(*lines).train == {25: 9}


def test_the_later_line_of_an_update_counts(read):
    log = read(BEGIN, train(25, 9), valid(25, 8), train(50, 7), valid(50, 6), BEGIN, train(50, 5), valid(50, 4))
    assert (log.train, log.valid) == ({25: 9, 50: 5}, {25: 8, 50: 4})
    assert log.seconds == 10


def test_what_a_resumed_training_had_not_done_is_forgotten(read):
    # killed after 50 and resumed at 20, with another log interval
    log = read(BEGIN, train(25, 9), train(50, 8), valid(50, 7), BEGIN, train(40, 6))
    assert (log.train, log.valid, log.updates) == ({25: 9, 40: 6}, {}, 40)


def test_wall_time_is_the_sum_of_the_runs(read):
    epoch = json.dumps({"epoch": 1, "train_loss": "8", "train_num_updates": "50", "train_wall": "21"})
    # the second run is longer than the first, so that the time alone does not say that it began anew
    log = read(BEGIN, train(25, 9, 10), BEGIN, train(50, 8, 20), epoch)
    assert log.wall == 31
    assert log.updates_per_second == 2.5


def test_wall_time_of_runs_without_their_first_lines(read):
    assert read(train(25, 9, 10), train(50, 8, 4)).wall == 14


def test_only_a_run_that_ended_is_finished(read):
    assert read(BEGIN, train(25, 9), DONE).finished
    assert not read(BEGIN, train(25, 9)).finished
    assert not read(BEGIN, train(25, 9), DONE, BEGIN).finished


def test_a_line_that_was_cut_short_is_left_out(read):
    whole = train(50, 8)
    assert read(BEGIN, train(25, 9), whole[:30]).train == {25: 9}
    assert read(BEGIN, train(25, 9), whole[:30] + whole).train == {25: 9}
    log = read(BEGIN, train(25, 9, wall=10), whole[:30] + BEGIN, train(50, 7, wall=20))
    assert log.train == {25: 9, 50: 7}
    assert log.wall == 30


def test_without_label_smoothing_the_only_loss_is_read(read):
    lines = ['{"loss": "3", "num_updates": "2"}', '{"valid_loss": "4", "valid_num_updates": "2"}']
    log = read(*lines)
    assert (log.train, log.valid) == ({2: 3}, {2: 4})


def test_a_loss_that_is_no_number_is_no_best_one(read):
    log = read(valid(1, 3), valid(2, "nan"), valid(3, "inf"))
    assert math.isnan(log.valid[2]) and math.isnan(log.valid[3])
    assert log.best_valid == (1, 3)


def test_a_log_without_losses_is_an_error(read, tmp_path):
    with pytest.raises(ValueError, match="train.log: no training or validation losses.*--log-format json"):
        read("2026-01-01 00:00:00 | INFO | train_inner | {}")
    with pytest.raises(ScoringError, match="cannot read"):
        read_training_log(tmp_path / "none")
