"""Mends for what stock fairseq gets wrong on today's Python, PyTorch and NumPy.

One function a defect. Its docstring names the file and the fault, and how one knows that the mend is no
longer needed. Every mend may be applied twice, and none is a switch: what one thread does changes nothing for another.
docs/platform.md has them in one table; tests/compat shows each fault. Line numbers are those of ve-fairseq 0.12.3.
"""

from . import deferred  # noqa: F401 (the first to import fairseq)
from .batches import (
    bucket_batches,
    decode_nothing,
    keep_last_batch,
    refuse_sentences_in_one_line,
    resume_with_the_same_batches,
)
from .checkpoints import (
    allow_checkpoint_classes,
    explain_refused_checkpoint,
    say_why_a_checkpoint_cannot_be_written,
    show_configuration_errors,
)
from .collation import collate_whole_batches
from .commands import (
    end_with_one_line,
    name_the_architecture_that_is_left_out,
    name_the_setting_that_cannot_be_read,
    validate_without_naming_a_task,
)
from .data_files import (
    infer_languages_from_dictionaries,
    know_validation_sets_by_name,
    read_the_first_file_once,
    read_what_is_not_in_memory,
    refuse_a_split_without_texts,
    take_what_is_there_as_one_path,
)
from .decoding import (
    attend_to_the_own_source,
    block_repeated_ngrams,
    count_sentences_of_a_diverse_beam,
    name_lengths_that_exclude_each_other,
    name_more_words_than_there_are,
    replace_unknown_words_without_a_file,
    sample_from_what_is_left,
)
from .dictionaries import read_tokens_at_once, skip_byte_order_mark
from .fast_path import avoid_encoder_fast_path, drop_fast_path_parameters
from .given_models import (
    check_language_models,
    name_weights_that_do_not_fit,
    need_a_language_model,
    need_a_source_and_a_target,
)
from .half_precision import (
    survive_overflow_without_cuda,
    train_half_precision_without_accelerator,
    unscale_gradients_of_amp_once,
)
from .loaders import end_loaders_with_their_epoch, read_no_further_at_the_end
from .nan_detector import (
    look_for_nans_with_the_same_dropout,
    say_with_the_error_where_it_began,
    see_what_every_module_hands_back,
)
from .norms import look_at_norms_once
from .numpy_aliases import restore_numpy_aliases
from .optimizers import (
    average_tied_weights_once,
    keep_marks_in_float32,
    keep_the_last_norms_of_averages,
    scale_adafactors_rate_by_each_parameter_alone,
)
from .partial_checkpoints import clear_the_folder_of_checkpoints, copy_whole_checkpoints
from .positions import cut_and_count_sources, take_the_checkpoints_positions
from .processes import gather_objects_on_cpus, sum_gradients_on_cpus
from .raw_text import read_texts_as_other_commands_do
from .statistics import log_without_waiting
from .subwords import keep_added_tokens
from .sums import read_sums_of_processes_later, sum_over_processes_at_once, sum_with_those_out_of_memory
from .training import (
    begin_averages_where_a_checkpoint_has_none,
    name_another_schedule_of_the_rate,
    name_what_to_go_on_from,
    refuse_a_missing_checkpoint,
    show_models_what_is_resumed,
    stop_where_a_training_ended,
)
from .updates import (
    copy_all_weights_at_once,
    multiply_all_gradients_at_once,
    seed_the_devices_that_are_used,
    walk_over_modules_once,
)

MENDS = (
    keep_last_batch,
    refuse_sentences_in_one_line,
    resume_with_the_same_batches,
    end_loaders_with_their_epoch,
    read_no_further_at_the_end,
    allow_checkpoint_classes,
    explain_refused_checkpoint,
    train_half_precision_without_accelerator,
    survive_overflow_without_cuda,
    unscale_gradients_of_amp_once,
    bucket_batches,
    restore_numpy_aliases,
    attend_to_the_own_source,
    block_repeated_ngrams,
    count_sentences_of_a_diverse_beam,
    name_lengths_that_exclude_each_other,
    name_more_words_than_there_are,
    replace_unknown_words_without_a_file,
    sample_from_what_is_left,
    skip_byte_order_mark,
    read_tokens_at_once,
    keep_added_tokens,
    avoid_encoder_fast_path,
    drop_fast_path_parameters,
    show_configuration_errors,
    need_a_language_model,
    need_a_source_and_a_target,  # before the next, which asks such a model for both of its positions
    take_the_checkpoints_positions,
    cut_and_count_sources,
    check_language_models,
    name_weights_that_do_not_fit,
    stop_where_a_training_ended,
    refuse_a_missing_checkpoint,
    name_what_to_go_on_from,
    show_models_what_is_resumed,
    begin_averages_where_a_checkpoint_has_none,
    name_another_schedule_of_the_rate,
    say_why_a_checkpoint_cannot_be_written,
    copy_whole_checkpoints,
    clear_the_folder_of_checkpoints,
    collate_whole_batches,
    sum_gradients_on_cpus,
    gather_objects_on_cpus,
    copy_all_weights_at_once,
    multiply_all_gradients_at_once,
    walk_over_modules_once,
    scale_adafactors_rate_by_each_parameter_alone,
    average_tied_weights_once,
    keep_the_last_norms_of_averages,
    keep_marks_in_float32,
    seed_the_devices_that_are_used,
    log_without_waiting,
    sum_over_processes_at_once,
    sum_with_those_out_of_memory,
    read_sums_of_processes_later,
    look_at_norms_once,
    see_what_every_module_hands_back,
    look_for_nans_with_the_same_dropout,
    say_with_the_error_where_it_began,
    know_validation_sets_by_name,
    read_the_first_file_once,
    read_what_is_not_in_memory,
    infer_languages_from_dictionaries,
    refuse_a_split_without_texts,
    take_what_is_there_as_one_path,
    read_texts_as_other_commands_do,
    decode_nothing,
    name_the_setting_that_cannot_be_read,
    validate_without_naming_a_task,
    name_the_architecture_that_is_left_out,
    end_with_one_line,  # the last around `call_main`, so that it sees what the others raise
)


def apply():
    """Apply every mend."""
    for mend in MENDS:
        mend()
